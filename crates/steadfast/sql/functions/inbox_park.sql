-- sf_inbox_park: routes messages that nobody of this kind can take now out of the head of the inbox, in
-- bulk, so that no claim looks at them again: to leased instances (their ack or lease end releases them),
-- to instances pinned to other replay versions (found by their lane), and to instances that nobody has
-- started (lane -1; a start finds them). p_since: before it are dead rows only. Returns how many messages were moved, 0
-- when all are in motion.
-- Called by: sf_fetch_orchestration_item, when a whole page was of no use.
-- Locks: instance rows by key ascending, never waiting; messages, never waiting.
-- Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_inbox_park(
    p_now timestamptz, p_since timestamptz, p_page integer, p_min_version bigint, p_max_version bigint)
RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_ids    text[];
    v_keys   bigint[];
    v_moved  bigint;
BEGIN
    v_ids := ARRAY(
        SELECT DISTINCT p.instance_id FROM (
            SELECT x.instance_id FROM sf_inbox x WHERE x.visible_at BETWEEN p_since AND p_now
            ORDER BY x.visible_at, x.message_id LIMIT p_page) p);
    -- Orphans get a row to hang their messages on; it counts as an instance only once it is started.
    INSERT INTO sf_instance (instance_id)
    SELECT u.id FROM unnest(v_ids) AS u(id)
    WHERE (SELECT true FROM sf_instance i WHERE i.instance_id = u.id) IS NULL
      AND (SELECT true FROM sf_inbox s WHERE s.instance_id >= u.id AND (s.instance_id, s.visible_at) <= (u.id, p_now)
              AND s.kind IN (1, 2) LIMIT 1) IS NULL
    ORDER BY u.id ON CONFLICT DO NOTHING;
    v_keys := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_id = ANY (v_ids)
                    ORDER BY i.instance_key + 0 FOR NO KEY UPDATE SKIP LOCKED);
    WITH stuck AS MATERIALIZED (
        SELECT i.instance_key, i.instance_id,
               CASE WHEN i.orchestration_name IS NULL
                         AND (SELECT true FROM sf_event e WHERE e.instance_key = i.instance_key LIMIT 1) IS NULL
                         AND (SELECT true FROM sf_message s WHERE s.instance_key = i.instance_key AND s.kind IN (1, 2)
                              LIMIT 1) IS NULL
                    THEN -1 ELSE coalesce(i.replay_version, 0) END AS lane,
               -- Routed, and not due yet: nothing runs before it.
               (SELECT min(s.visible_at) FROM sf_message s WHERE i.orchestration_name IS NULL
                   AND s.instance_key = i.instance_key AND s.kind IN (1, 2)) AS start_at
        FROM unnest(v_keys) AS k(id)
        JOIN sf_instance i ON i.instance_key = ANY (ARRAY[k.id])
        LEFT JOIN sf_turn t ON t.instance_key = ANY (ARRAY[i.instance_key])
        WHERE coalesce(t.claim IS NOT NULL AND t.available_at > p_now, false)
           OR coalesce(i.replay_version NOT BETWEEN p_min_version AND p_max_version, false)
           OR (i.orchestration_name IS NULL
               AND (SELECT true FROM sf_event e WHERE e.instance_key = i.instance_key LIMIT 1) IS NULL
               AND (SELECT true FROM sf_inbox s WHERE s.instance_id >= i.instance_id
                       AND (s.instance_id, s.visible_at) <= (i.instance_id, p_now) AND s.kind IN (1, 2) LIMIT 1) IS NULL
               AND (SELECT true FROM sf_message s WHERE s.instance_key = i.instance_key AND s.kind IN (1, 2)
                       AND s.visible_at <= p_now LIMIT 1) IS NULL)
    ), taken AS MATERIALIZED (
        SELECT s.instance_key, s.lane, s.start_at, x.tid FROM stuck s CROSS JOIN LATERAL (
            SELECT q.ctid AS tid FROM sf_inbox q
            WHERE q.instance_id >= s.instance_id AND (q.instance_id, q.visible_at) <= (s.instance_id, p_now)
            ORDER BY q.instance_id, q.visible_at, q.message_id LIMIT 4096 FOR UPDATE SKIP LOCKED) x
        LIMIT 16384
    ), moved AS (
        DELETE FROM sf_inbox x USING taken k
        WHERE x.ctid = k.tid
        RETURNING k.instance_key, k.lane, k.start_at, x.message_id, x.visible_at, x.kind, x.payload
    ), routed AS (
        INSERT INTO sf_message (instance_key, message_id, visible_at, attempt_count, kind, payload)
        SELECT m.instance_key, m.message_id, m.visible_at, 0, m.kind, m.payload FROM moved m
    ), counted AS (
        SELECT m.instance_key, m.lane, m.start_at, count(*) AS n FROM moved m
        GROUP BY m.instance_key, m.lane, m.start_at
    ), scheduled AS (
        INSERT INTO sf_turn AS t (instance_key, lane, available_at)
        SELECT c.instance_key, c.lane, coalesce(c.start_at, p_now) FROM counted c
        ON CONFLICT (instance_key) DO UPDATE
           SET available_at = least(t.available_at, excluded.available_at), lane = excluded.lane
         WHERE t.claim IS NULL OR t.available_at <= p_now)
    SELECT coalesce(sum(c.n), 0) INTO v_moved FROM counted c;
    RETURN v_moved;
END $$;
