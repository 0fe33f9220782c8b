-- sf_inbox_head: looks at the first p_page due messages after (p_after_at, p_after_id) and says whose they are.
-- p_except: ids that are held by somebody else at the moment
-- last_at, last_id: where the page ends
-- ready:     ids of up to p_want instances that may be claimed now, in the order of their oldest message
-- ready_new: those of them that have no row yet (each has a start message)
-- dropped:   queue messages without an orchestration, deleted here as the provider guide demands
-- Called by: sf_fetch_orchestration_item.
-- Locks: rows that it drops, never waiting.
-- Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_inbox_head(
    p_now timestamptz, p_page integer, p_want integer, p_min_version bigint, p_max_version bigint,
    p_after_at timestamptz, p_after_id bigint, p_except text[],
    OUT rows_seen bigint, OUT last_at timestamptz, OUT last_id bigint, OUT ready text[], OUT ready_new text[], OUT dropped bigint)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_orphans text[];
    v_unsure  boolean;
BEGIN
    -- Mostly everybody at the head has a name, or his start is there too.
    WITH heads AS (
        SELECT p.instance_id, min(p.visible_at) AS visible_at, min(p.message_id) AS message_id, count(*) AS n,
               bool_or(p.kind IN (1, 2)) AS starts
        FROM (SELECT x.instance_id, x.visible_at, x.message_id, x.kind FROM sf_inbox x
              WHERE x.visible_at <= p_now AND (x.visible_at, x.message_id) > (p_after_at, p_after_id)
              ORDER BY x.visible_at, x.message_id LIMIT p_page) p
        GROUP BY p.instance_id
    ), judged AS (
        SELECT h.*, i.instance_key IS NULL AS is_new,
               (t.claim IS NOT NULL AND t.available_at > p_now) IS NOT TRUE
               AND (i.replay_version NOT BETWEEN p_min_version AND p_max_version) IS NOT TRUE
               AND NOT h.instance_id = ANY (p_except) AS free,
               i.orchestration_name IS NULL AND NOT h.starts AS unsure
        FROM heads h
        LEFT JOIN sf_instance i ON i.instance_id = ANY (ARRAY[h.instance_id])
        LEFT JOIN sf_turn t ON t.instance_key = ANY (ARRAY[i.instance_key]))
    SELECT coalesce(sum(j.n), 0), coalesce(bool_or(j.unsure), false),
           coalesce((array_agg(j.instance_id ORDER BY j.visible_at, j.message_id) FILTER (WHERE j.free))[:p_want], '{}'),
           coalesce(array_agg(j.instance_id) FILTER (WHERE j.free AND j.is_new), '{}')
      INTO rows_seen, v_unsure, ready, ready_new FROM judged j;
    dropped := 0;
    -- A full page that does not serve everybody, or somebody who may have no start: every one is looked at.
    IF NOT v_unsure AND (rows_seen < p_page OR cardinality(ready) >= p_want) THEN
        ready_new := ARRAY(SELECT u.id FROM unnest(ready_new) AS u(id) WHERE u.id = ANY (ready));
        RETURN;
    END IF;
    WITH page AS MATERIALIZED (
        SELECT x.instance_id, x.visible_at, x.message_id FROM sf_inbox x
        WHERE x.visible_at <= p_now AND (x.visible_at, x.message_id) > (p_after_at, p_after_id)
        ORDER BY x.visible_at, x.message_id LIMIT p_page
    ), heads AS MATERIALIZED (
        SELECT p.instance_id, min(p.visible_at) AS visible_at, min(p.message_id) AS message_id, count(*) AS n
        FROM page p GROUP BY p.instance_id
    ), judged AS MATERIALIZED (
        SELECT h.instance_id, h.visible_at, h.message_id, h.n, i.instance_key IS NULL AS is_new,
               coalesce(t.claim IS NOT NULL AND t.available_at > p_now, false) AS leased,
               coalesce(i.replay_version NOT BETWEEN p_min_version AND p_max_version, false) AS incompatible,
               i.orchestration_name IS NOT NULL OR si.yes IS NOT NULL OR ev.yes IS NOT NULL OR sm.yes IS NOT NULL AS known
        FROM heads h
        LEFT JOIN sf_instance i ON i.instance_id = ANY (ARRAY[h.instance_id])
        LEFT JOIN sf_turn t ON t.instance_key = ANY (ARRAY[i.instance_key])
        -- LIMIT keeps these probes of one instance each: an EXISTS may be hashed over a whole table.
        LEFT JOIN LATERAL (
            SELECT 1 AS yes FROM sf_inbox s WHERE i.orchestration_name IS NULL AND s.instance_id >= h.instance_id
               AND (s.instance_id, s.visible_at) <= (h.instance_id, p_now) AND s.kind IN (1, 2) LIMIT 1) si ON true
        LEFT JOIN LATERAL (
            SELECT 1 AS yes FROM sf_event e WHERE i.orchestration_name IS NULL AND e.instance_key = i.instance_key
            LIMIT 1) ev ON true
        LEFT JOIN LATERAL (
            SELECT 1 AS yes FROM sf_message s WHERE i.orchestration_name IS NULL AND s.instance_key = i.instance_key
               AND s.kind IN (1, 2) AND s.visible_at <= p_now LIMIT 1) sm ON true
    ), chosen AS (
        SELECT j.instance_id, j.is_new, j.visible_at, j.message_id FROM judged j
        WHERE j.known AND NOT j.leased AND NOT j.incompatible AND NOT j.instance_id = ANY (p_except)
        ORDER BY j.visible_at, j.message_id LIMIT p_want)
    SELECT (SELECT coalesce(sum(j.n), 0) FROM judged j),
           (SELECT p.visible_at FROM page p ORDER BY p.visible_at DESC, p.message_id DESC LIMIT 1),
           (SELECT p.message_id FROM page p ORDER BY p.visible_at DESC, p.message_id DESC LIMIT 1),
           (SELECT coalesce(array_agg(c.instance_id ORDER BY c.visible_at, c.message_id), '{}') FROM chosen c),
           (SELECT coalesce(array_agg(c.instance_id), '{}') FROM chosen c WHERE c.is_new),
           (SELECT array_agg(j.instance_id) FROM judged j WHERE NOT j.known AND NOT j.leased)
      INTO rows_seen, last_at, last_id, ready, ready_new, v_orphans;
    IF v_orphans IS NOT NULL THEN
        -- Known again in this statement's own snapshot: a start that has arrived since keeps its messages.
        WITH doomed AS MATERIALIZED (
            SELECT x.tid FROM unnest(v_orphans) AS o(id)
            CROSS JOIN LATERAL (
                SELECT q.ctid AS tid FROM sf_inbox q
                WHERE q.instance_id >= o.id AND (q.instance_id, q.visible_at) <= (o.id, p_now) AND q.kind = 3
                LIMIT 1000 FOR UPDATE SKIP LOCKED) x
            WHERE (SELECT true FROM sf_inbox s WHERE s.instance_id = o.id AND s.kind <> 3 LIMIT 1) IS NULL
              AND (SELECT i.orchestration_name IS NOT NULL
                          OR EXISTS (SELECT FROM sf_event e WHERE e.instance_key = i.instance_key)
                          OR EXISTS (SELECT FROM sf_turn t WHERE t.instance_key = i.instance_key)
                   FROM sf_instance i WHERE i.instance_id = o.id) IS NOT TRUE
        ), gone AS (
            DELETE FROM sf_inbox x USING doomed d
            WHERE x.ctid = d.tid
            RETURNING 1)
        SELECT count(*) INTO dropped FROM gone;
    END IF;
END $$;
