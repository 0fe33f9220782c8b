-- sf_list_executions: the executions of an instance, oldest first; of one when p_execution is given.
-- event_count is counted only then, or when p_count asks for it.
-- Called by: op/list_executions.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_list_executions(p_instance text, p_execution bigint, p_count boolean)
RETURNS TABLE (execution_id bigint, status text, output bytea, started_ms bigint, completed_ms bigint,
               event_count bigint)
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT x.execution_id, x.status, x.output, floor(extract(epoch FROM x.started_at) * 1000)::bigint,
           floor(extract(epoch FROM x.completed_at) * 1000)::bigint,
           CASE WHEN p_count THEN (SELECT count(*) FROM sf_event e
                                   WHERE e.instance_key = x.instance_key AND e.execution_id = x.execution_id) END
    FROM sf_instance i JOIN sf_execution x ON x.instance_key = i.instance_key
    WHERE i.instance_id = p_instance AND (p_execution IS NULL OR x.execution_id = p_execution)
    ORDER BY x.execution_id
$$;
