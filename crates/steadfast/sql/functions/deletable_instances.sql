-- sf_deletable_instances: root instances that have ended (and are not between two executions), oldest
-- completion first, for bulk deletion. p_instances NULL: any.
-- Called by: op/delete_instances.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_deletable_instances(p_instances text[], p_completed_before_ms bigint, p_limit bigint)
RETURNS TABLE (instance_id text)
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT i.instance_id FROM sf_instance i
    JOIN sf_execution x ON x.instance_key = i.instance_key AND x.execution_id = i.execution_id
    WHERE i.parent_instance_id IS NULL AND i.orchestration_name IS NOT NULL
      AND i.status IN ('Completed', 'Failed')
      AND (p_instances IS NULL OR i.instance_id = ANY (p_instances))
      AND (p_completed_before_ms IS NULL OR x.completed_at < to_timestamp(p_completed_before_ms / 1000.0))
    ORDER BY x.completed_at LIMIT p_limit
$$;
