-- sf_get_instance_stats: sizes of an instance's current history and key-values, and its first event, from
-- which the caller counts carried events. No row when the instance does not exist.
-- Called by: op/get_instance_stats.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_get_instance_stats(p_instance text)
RETURNS TABLE (event_count bigint, event_bytes bigint, kv_count bigint, kv_bytes bigint, first_event bytea)
LANGUAGE sql STABLE SET search_path FROM CURRENT SET enable_seqscan = off AS $$
    SELECT h.n, h.bytes, k.n, k.bytes,
           (SELECT e.payload FROM sf_event e WHERE e.instance_key = i.instance_key AND e.execution_id = i.execution_id
                AND e.event_id = 1)
    FROM sf_instance i
    CROSS JOIN LATERAL (
        SELECT count(*) AS n, coalesce(sum(octet_length(e.payload)), 0)::bigint AS bytes FROM sf_event e
        WHERE e.instance_key = i.instance_key AND e.execution_id = i.execution_id) h
    CROSS JOIN LATERAL (
        SELECT count(*) AS n, coalesce(sum(octet_length(m.value)), 0)::bigint AS bytes FROM (
            SELECT CASE WHEN v.changed THEN v.delta_value ELSE v.base_value END AS value
            FROM sf_kv v WHERE v.instance_key = i.instance_key) m WHERE m.value IS NOT NULL) k
    WHERE i.instance_id = p_instance AND i.orchestration_name IS NOT NULL
$$;
