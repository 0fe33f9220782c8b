-- sf_read_history: histories of instances, each without what the caller's cache has. p_execution NULL: the
-- current one. A cache entry (p_key, p_cached_execution, p_cached_event, p_cached_revision) that is not
-- right any more is answered from the beginning and `partial` false. No row for what does not exist.
-- An answer ends after p_max_bytes for each; `complete` says whether that was all, otherwise ask for what follows.
-- Called by: op/read.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_read_history(
    p_instance text[], p_execution bigint[], p_key bigint[], p_cached_execution bigint[], p_cached_event bigint[],
    p_cached_revision bigint[], p_max_bytes bigint)
RETURNS TABLE (op bigint, instance_key bigint, execution_id bigint, history_revision bigint, partial boolean,
               events bytea[], complete boolean)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT r.op, i.instance_key, x.execution_id, i.history_revision, x.partial,
           page.payloads, page.complete
    FROM unnest(p_instance, p_execution, p_key, p_cached_execution, p_cached_event, p_cached_revision)
         WITH ORDINALITY AS r(instance_id, wanted, key, execution_id, event_id, revision, op)
    JOIN sf_instance i ON i.instance_id = ANY (ARRAY[r.instance_id])
    CROSS JOIN LATERAL (
        SELECT coalesce(r.wanted, i.execution_id) AS execution_id,
               -- The cached end must be there: a failover or a restore may have taken it back.
               coalesce(r.key = i.instance_key AND r.revision = i.history_revision
                        AND r.execution_id = coalesce(r.wanted, i.execution_id)
                        -- Not EXISTS: the planner might hash all events there are.
                        AND (r.event_id = 0 OR (
                            SELECT true FROM sf_event c WHERE c.instance_key = i.instance_key
                               AND c.execution_id = r.execution_id AND c.event_id = r.event_id)), false) AS partial) x
    CROSS JOIN LATERAL (
        SELECT coalesce(array_agg(b.payload ORDER BY b.event_id), '{}') AS payloads,
               coalesce(bool_and(b.is_last), true) AS complete
        FROM (
            SELECT a.event_id, a.payload, bool_or(a.is_last) OVER () AS is_last FROM (
                SELECT e.event_id, e.payload, lead(e.event_id) OVER w IS NULL AS is_last,
                       sum(octet_length(e.payload)) OVER w - octet_length(e.payload) AS bytes_before
                FROM sf_event e
                WHERE e.instance_key = i.instance_key AND e.execution_id = x.execution_id
                  AND e.event_id > CASE WHEN x.partial THEN r.event_id ELSE -1 END
                WINDOW w AS (ORDER BY e.event_id)) a
            WHERE a.bytes_before < p_max_bytes) b) page;
END $$;
