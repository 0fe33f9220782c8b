-- sf_list_instances: a page of instances, newest first, after p_before_key (NULL: from the newest).
-- Filters that are NULL do not filter; p_prefix is literal.
-- Called by: op/list_instances.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_list_instances(
    p_status text, p_name bytea, p_prefix text, p_before_key bigint, p_limit bigint)
RETURNS TABLE (instance_key bigint, instance_id text, orchestration_name bytea, orchestration_version bytea,
               execution_id bigint, status text, parent_instance_id text, created_ms bigint, updated_ms bigint)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT i.instance_key, i.instance_id, i.orchestration_name, i.orchestration_version, i.execution_id, i.status,
           i.parent_instance_id, floor(extract(epoch FROM i.created_at) * 1000)::bigint,
           floor(extract(epoch FROM i.updated_at) * 1000)::bigint
    FROM sf_instance i
    WHERE i.orchestration_name IS NOT NULL
      AND (p_status IS NULL OR i.status = p_status)
      AND (p_name IS NULL OR i.orchestration_name = p_name)
      AND (p_prefix IS NULL OR starts_with(i.instance_id, p_prefix))
      AND (p_before_key IS NULL OR i.instance_key < p_before_key)
    ORDER BY i.instance_key DESC LIMIT p_limit;
END $$;
