-- sf_read_history: histories of instances, each without what the caller's cache has. p_execution NULL: the
-- current one. A cache entry (p_key, p_cached_execution, p_cached_event, p_cached_revision) that is not
-- right any more is answered with the whole history and `partial` false. No row for what does not exist.
-- Called by: op/read.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_read_history(
    p_instance text[], p_execution bigint[], p_key bigint[], p_cached_execution bigint[], p_cached_event bigint[],
    p_cached_revision bigint[])
RETURNS TABLE (op bigint, instance_key bigint, execution_id bigint, history_revision bigint, partial boolean,
               events bytea[])
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT r.op, i.instance_key, x.execution_id, i.history_revision, x.partial,
           ARRAY(SELECT e.payload FROM sf_event e
                 WHERE e.instance_key = i.instance_key AND e.execution_id = x.execution_id
                   AND e.event_id > CASE WHEN x.partial THEN r.event_id ELSE -1 END ORDER BY e.event_id)
    FROM unnest(p_instance, p_execution, p_key, p_cached_execution, p_cached_event, p_cached_revision)
         WITH ORDINALITY AS r(instance_id, wanted, key, execution_id, event_id, revision, op)
    JOIN sf_instance i ON i.instance_id = r.instance_id
    CROSS JOIN LATERAL (
        SELECT coalesce(r.wanted, i.execution_id) AS execution_id,
               coalesce(r.key = i.instance_key AND r.revision = i.history_revision
                        AND r.execution_id = coalesce(r.wanted, i.execution_id), false) AS partial) x;
END $$;
