-- sf_release_held: gives queue events that were held back to their instances, after turns that may have made room: those
-- that were handed queue events (event kind 41), read a queue (40) or continued as new (4). As many of the oldest as there may be
-- room for, and the oldest of each queue, in case that it is waited for; whoever claims them judges exactly and holds the
-- rest again. An orchestration that has ended reads nothing more: what is held for it goes.
-- Called by: sf_ack_orchestration_item, with the instance rows locked, after its events are written.
-- Locks: none beyond.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_release_held(
    p_results bigint[], o_key bigint[], o_execution bigint[], o_status text[], e_op integer[], e_kind smallint[])
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM sf_held h USING unnest(o_key, o_status) WITH ORDINALITY AS o(key, status, op)
    WHERE p_results[o.op] = 0 AND o.status IN ('Completed', 'Failed') AND h.instance_key = ANY (ARRAY[o.key]);
    WITH moved AS (
        SELECT o.key, greatest(0, 100 - n.unread - m.pending) AS room
        FROM unnest(o_key, o_execution) WITH ORDINALITY AS o(key, execution_id, op)
        CROSS JOIN LATERAL (
            -- All queues together: what a queue is waited for counts as room, which is never too little.
            SELECT count(*) FILTER (WHERE e.kind IN (41, 42)) - count(*) FILTER (WHERE e.kind = 40) AS unread
            FROM sf_event e WHERE e.instance_key = o.key AND e.execution_id = o.execution_id) n
        CROSS JOIN LATERAL (
            SELECT count(*) AS pending FROM sf_message s WHERE s.instance_key = o.key AND s.kind = 3) m
        WHERE p_results[o.op] = 0
          AND o.op IN (SELECT e.op FROM unnest(e_op, e_kind) AS e(op, kind) WHERE e.kind IN (4, 40, 41))
          AND (SELECT true FROM sf_held h WHERE h.instance_key = o.key LIMIT 1)
    ), chosen AS (
        SELECT v.key, c.message_id FROM moved v CROSS JOIN LATERAL (
            (SELECT h.message_id FROM sf_held h WHERE h.instance_key = v.key
             ORDER BY h.message_id LIMIT least(v.room, 1000))
            UNION
            (WITH RECURSIVE heads AS (
                (SELECT h.queue, h.message_id FROM sf_held h WHERE h.instance_key = v.key
                 ORDER BY h.queue, h.message_id LIMIT 1)
                UNION ALL
                SELECT x.queue, x.message_id FROM heads d CROSS JOIN LATERAL (
                    SELECT h.queue, h.message_id FROM sf_held h WHERE h.instance_key = v.key AND h.queue > d.queue
                    ORDER BY h.queue, h.message_id LIMIT 1) x)
             SELECT d.message_id FROM heads d)) c
    ), gone AS (
        DELETE FROM sf_held h USING chosen c
        WHERE h.instance_key = ANY (ARRAY[c.key]) AND h.message_id = c.message_id
        RETURNING h.*)
    INSERT INTO sf_message (instance_key, message_id, visible_at, attempt_count, kind, payload)
    SELECT g.instance_key, g.message_id, g.visible_at, g.attempt_count, g.kind, g.payload FROM gone g;
END $$;
