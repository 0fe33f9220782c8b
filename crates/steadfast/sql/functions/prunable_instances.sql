-- sf_prunable_instances: instances with an execution that pruning may remove, oldest first. The age is that of
-- the executions to prune, not of the current one: an instance that continues as new for ever is pruned too.
-- Called by: op/prune_executions.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_prunable_instances(
    p_instances text[], p_filter_completed_before_ms bigint, p_limit bigint)
RETURNS TABLE (instance_id text)
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT i.instance_id FROM sf_instance i
    WHERE i.orchestration_name IS NOT NULL
      AND (p_instances IS NULL OR i.instance_id = ANY (p_instances))
      AND (p_filter_completed_before_ms IS NULL OR EXISTS (
            SELECT FROM sf_execution x WHERE x.instance_key = i.instance_key
               AND x.completed_at < to_timestamp(p_filter_completed_before_ms / 1000.0)))
    ORDER BY i.instance_key LIMIT p_limit
$$;
