-- sf_route_claimed: hands the claimed instances their due messages: those routed before (counting one more
-- attempt), then those still in the inbox, in order of arrival, up to p_max_messages and p_max_bytes each;
-- starts come along whatever waits before them, for without them the rest means nothing.
-- Returns the instances that have any; the others are no longer scheduled, or put off (sf_isolate_turns).
-- p_again: some of them may have messages that were routed before.
-- Called by: sf_fetch_orchestration_item, with the instance rows locked.
-- Locks: inbox rows, never waiting; what sf_isolate locks.
-- Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_route_claimed(
    p_keys bigint[], p_again boolean, p_claim bigint, p_now timestamptz, p_max_messages integer, p_max_bytes bigint)
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_served bigint[];
    v_starts bigint[];
    v_empty  bigint[];
    v_again  boolean := p_again;
BEGIN
    IF p_again AND (
        (SELECT true FROM sf_turn t WHERE t.instance_key = ANY (p_keys) AND t.superseded IS NOT NULL LIMIT 1)
        OR EXISTS (SELECT FROM sf_suspect)) THEN
        p_keys := sf_isolate_turns(p_now, p_claim, p_keys);
        IF cardinality(p_keys) = 0 THEN
            RETURN p_keys;
        END IF;
    END IF;
    IF p_again THEN
        WITH again AS MATERIALIZED (
            SELECT k.id AS instance_key, b.message_id FROM unnest(p_keys) AS k(id) CROSS JOIN LATERAL (
                SELECT o.message_id FROM (
                    SELECT s.message_id, sum(octet_length(s.payload)) OVER (ORDER BY s.message_id)
                                         - octet_length(s.payload) AS bytes_before
                    FROM (SELECT q.message_id, q.payload FROM sf_message q
                          WHERE q.instance_key = k.id AND q.visible_at <= p_now
                          ORDER BY q.message_id LIMIT p_max_messages) s) o
                WHERE o.bytes_before < p_max_bytes
                UNION
                SELECT q.message_id FROM sf_message q
                WHERE q.instance_key = k.id AND q.kind IN (1, 2) AND q.visible_at <= p_now) b)
        UPDATE sf_message m SET claim = p_claim, attempt_count = m.attempt_count + 1
        FROM again a WHERE m.instance_key = ANY (ARRAY[a.instance_key]) AND m.message_id = a.message_id;
    END IF;

    WITH taken AS MATERIALIZED (
        SELECT i.instance_key, b.tid
        FROM unnest(p_keys) AS k(id) JOIN sf_instance i ON i.instance_key = ANY (ARRAY[k.id])
        CROSS JOIN LATERAL (
            -- Whatever waits routed came first: the inbox is for an instance that has room left.
            SELECT p_max_messages - count(*) AS room, coalesce(sum(octet_length(s.payload)), 0) AS bytes
            FROM sf_message s WHERE p_again AND s.instance_key = k.id AND s.claim = p_claim) had
        CROSS JOIN LATERAL (
            SELECT o.tid FROM (
                SELECT q.tid,
                       had.bytes + sum(q.bytes) OVER (ORDER BY q.visible_at, q.message_id) - q.bytes AS bytes_before
                FROM (SELECT x.ctid AS tid, x.visible_at, x.message_id, octet_length(x.payload) AS bytes
                      FROM sf_inbox x WHERE x.instance_id >= i.instance_id AND (x.instance_id, x.visible_at) <= (i.instance_id, p_now)
                      ORDER BY x.instance_id, x.visible_at, x.message_id LIMIT greatest(had.room, 0)
                      FOR UPDATE SKIP LOCKED) q) o
            WHERE o.bytes_before < p_max_bytes
            UNION
            SELECT z.tid FROM (
                SELECT x.ctid AS tid FROM sf_inbox x
                WHERE x.instance_id >= i.instance_id AND (x.instance_id, x.visible_at) <= (i.instance_id, p_now)
                  AND x.kind IN (1, 2)
                FOR UPDATE SKIP LOCKED) z) b
    ), moved AS (
        DELETE FROM sf_inbox x USING taken t
        WHERE x.ctid = t.tid
        RETURNING t.instance_key, x.message_id, x.visible_at, x.kind, x.payload
    ), routed AS (
        INSERT INTO sf_message (instance_key, message_id, visible_at, attempt_count, claim, kind, payload)
        SELECT m.instance_key, m.message_id, m.visible_at, 1, p_claim, m.kind, m.payload FROM moved m
        RETURNING instance_key, kind)
    SELECT coalesce(array_agg(DISTINCT r.instance_key), '{}'),
           coalesce(array_agg(r.instance_key) FILTER (WHERE r.kind IN (1, 2)), '{}')
      INTO v_served, v_starts FROM routed r;

    IF EXISTS (SELECT FROM sf_instance i WHERE i.instance_key = ANY (p_keys) AND i.orchestration_name IS NULL
                  AND NOT i.instance_key = ANY (v_starts)) THEN
        -- Without a name, a history and a start there is nothing to run: such messages go on waiting for a start.
        UPDATE sf_message s SET claim = NULL, attempt_count = s.attempt_count - 1
        FROM unnest(p_keys) AS k(id) JOIN sf_instance i ON i.instance_key = ANY (ARRAY[k.id])
        WHERE s.instance_key = ANY (ARRAY[k.id]) AND s.claim = p_claim AND i.orchestration_name IS NULL
          AND (SELECT true FROM sf_event e WHERE e.instance_key = k.id LIMIT 1) IS NULL
          AND (SELECT true FROM sf_message b WHERE b.instance_key = k.id AND b.kind IN (1, 2) AND b.claim = p_claim LIMIT 1) IS NULL;
        v_again := v_again OR FOUND;
    END IF;

    -- Whoever was handed something from the inbox is served; otherwise it is counted anew.
    IF NOT v_again AND cardinality(v_served) = cardinality(p_keys) THEN
        RETURN v_served;
    END IF;
    SELECT coalesce(array_agg(k.id) FILTER (WHERE c.any_claimed), '{}'),
           coalesce(array_agg(k.id) FILTER (WHERE NOT c.any_claimed), '{}')
      INTO v_served, v_empty
      FROM unnest(p_keys) AS k(id) CROSS JOIN LATERAL (
           SELECT coalesce((SELECT true FROM sf_message s WHERE s.instance_key = k.id AND s.claim = p_claim LIMIT 1), false)
                  AS any_claimed) c;
    IF cardinality(v_empty) > 0 THEN
        PERFORM sf_turn_reschedule(v_empty, p_now);
    END IF;
    RETURN v_served;
END $$;
