-- sf_claimed_turns: what a claim hands over: instances, messages, key-values, and the histories that the caller's
-- cache (p_owner, without p_evicted) lacks, smallest first up to p_max_bytes altogether; beyond that they come
-- as if cached, and the caller reads them. A message that alone is larger than that (and what may wrap it) is NULL: nobody
-- could take it; a continuation, which carries unread events, may be as large as the largest turn, 16 times that.
-- Called by: sf_fetch_orchestration_item, with the instance rows locked.
-- Locks: none beyond.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_claimed_turns(
    p_keys bigint[], p_claim bigint, p_owner bigint, p_evicted bigint[], p_max_bytes bigint)
RETURNS TABLE (
    instance_key bigint, instance_id text, orchestration_name bytea, orchestration_version bytea,
    execution_id bigint, history_revision bigint, last_event_id bigint, cached boolean, attempt_count integer,
    message_ids bigint[], messages bytea[], events bytea[], kv_keys bytea[], kv_values bytea[], kv_at_ms bigint[])
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_load bigint[];           -- not in the caller's cache, and with a history
    v_over bigint[] := '{}';   -- of those, what is beyond p_max_bytes: the caller reads it
BEGIN
    v_load := ARRAY(
        SELECT i.instance_key FROM sf_instance i
        WHERE i.instance_key = ANY (p_keys)
          AND (i.cache_owner IS DISTINCT FROM p_owner OR i.instance_key = ANY (p_evicted))
          AND (SELECT true FROM sf_event e WHERE e.instance_key = i.instance_key LIMIT 1));
    IF cardinality(v_load) > 0 THEN
        v_over := ARRAY(
            SELECT r.id FROM (
                SELECT u.id, sum(b.bytes) OVER (ORDER BY b.bytes, u.id) AS running_bytes
                FROM unnest(v_load) AS u(id) JOIN sf_instance n ON n.instance_key = ANY (ARRAY[u.id])
                CROSS JOIN LATERAL (
                    SELECT coalesce(sum(octet_length(e.payload)), 0) AS bytes FROM sf_event e
                    WHERE e.instance_key = u.id AND e.execution_id = n.execution_id) b) r
            WHERE r.running_bytes > p_max_bytes);
    END IF;
    RETURN QUERY
    SELECT i.instance_key, i.instance_id, i.orchestration_name, i.orchestration_version, i.execution_id,
           i.history_revision,
           (SELECT e.event_id FROM sf_event e WHERE e.instance_key = k.id AND e.execution_id = i.execution_id
            ORDER BY e.event_id DESC LIMIT 1),
           own.cached, m.attempt_count, m.ids, m.payloads,
           CASE WHEN own.cached THEN NULL ELSE ARRAY(
                SELECT e.payload FROM sf_event e
                WHERE e.instance_key = k.id AND e.execution_id = i.execution_id ORDER BY e.event_id) END,
           kv.keys, kv.vals, kv.at_ms
    FROM unnest(p_keys) AS k(id)
    JOIN sf_instance i ON i.instance_key = ANY (ARRAY[k.id])
    CROSS JOIN LATERAL (SELECT k.id = ANY (v_over) OR i.cache_owner IS NOT DISTINCT FROM p_owner
                               AND NOT (k.id = ANY (p_evicted)) AS cached) own
    CROSS JOIN LATERAL (
        SELECT max(o.attempt_count) AS attempt_count, array_agg(o.message_id) AS ids, array_agg(o.payload) AS payloads
        FROM (SELECT s.attempt_count, s.message_id,
                     CASE WHEN octet_length(s.payload) <= CASE s.kind WHEN 2 THEN 16 ELSE 1 END * p_max_bytes + 65536
                          THEN s.payload END AS payload
              FROM sf_message s
              WHERE s.instance_key = k.id AND s.claim = p_claim ORDER BY s.message_id) o) m
    CROSS JOIN LATERAL (SELECT array_agg(v.key) AS keys, array_agg(v.base_value) AS vals,
                               array_agg(v.base_at_ms) AS at_ms
                        FROM sf_kv v WHERE v.instance_key = k.id AND v.base_value IS NOT NULL) kv;
END $$;
