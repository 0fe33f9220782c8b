-- sf_claim_sessions: merges activities of sessions with the ones without (p_keys, p_works, p_dues: locked and
-- in order), so that each waiter gets one: of a session that its owner holds, of a session that nobody
-- holds (taken for the owner), or without a session; oldest first. Sessions that others hold are never
-- looked into. Renews or takes the sessions of what it returns.
-- Called by: sf_fetch_work_item.
-- Locks: session rows by key ascending, then work rows; never waiting (busy says that one was held).
-- Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_claim_sessions(
    p_now timestamptz, p_limit integer, p_tags bytea[], p_owners bytea[], p_session_lease_ms bigint,
    p_keys bigint[], p_works bigint[], p_dues timestamptz[],
    OUT keys bigint[], OUT works bigint[], OUT owners bytea[], OUT busy boolean)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_free       bytea[];
    v_page       bytea[];
    v_at         timestamptz := '-infinity';
    v_key        bytea := '';
    v_idle       bytea[];
    v_keys       bigint[];
    v_works      bigint[];
    v_dues       timestamptz[];
    v_sessions   bytea[];
    v_held       bytea[];         -- owner that holds the session; NULL: nobody
    v_want       bytea[];
    v_locked     bytea[];
    v_locked_ids bigint[];
BEGIN
    busy := false;
    -- Sessions that nobody holds, by pages, until enough have something to take. Those without work would sooner
    -- or later fill the pages, so a full page loses them (they come back with their next activity).
    v_free := '{}';
    FOR v_round IN 1..64 LOOP
        SELECT coalesce(array_agg(f.session_key), '{}'), max(f.locked_until),
               (array_agg(f.session_key ORDER BY f.locked_until DESC, f.session_key DESC))[1]
          INTO v_page, v_at, v_key
        FROM (SELECT s.session_key, s.locked_until FROM sf_session s
              WHERE s.locked_until <= p_now AND (s.locked_until, s.session_key) > (v_at, v_key)
              ORDER BY s.locked_until, s.session_key LIMIT 64) f;
        v_free := v_free || ARRAY(
            SELECT u.session_key FROM unnest(v_page) AS u(session_key) WHERE EXISTS (
                SELECT FROM unnest(coalesce(p_tags, ARRAY(SELECT g.tag FROM sf_work_tags(u.session_key) g))) AS t(tag)
                CROSS JOIN LATERAL (
                    SELECT FROM sf_work w WHERE w.session_key = u.session_key AND w.tag = t.tag
                       AND w.available_at <= p_now LIMIT 1) n));
        EXIT WHEN cardinality(v_page) < 64 OR cardinality(v_free) >= p_limit;
        v_idle := ARRAY(SELECT s.session_key FROM sf_session s
                        WHERE s.session_key = ANY (v_page) AND (s.locked_until <= p_now) IS TRUE
                          AND (SELECT true FROM sf_work w WHERE w.session_key = s.session_key LIMIT 1) IS NULL
                        ORDER BY s.session_key FOR UPDATE SKIP LOCKED);
        -- Asked again under the lock: work may have been queued while it was taken.
        DELETE FROM sf_session s WHERE s.session_key = ANY (v_idle)
           AND (SELECT true FROM sf_work w WHERE w.session_key = s.session_key LIMIT 1) IS NULL;
        busy := v_round = 64;
    END LOOP;
    SELECT array_agg(c.instance_key), array_agg(c.work_id), array_agg(c.available_at), array_agg(c.session_key),
           array_agg(c.owner)
      INTO v_keys, v_works, v_dues, v_sessions, v_held
      FROM (
        SELECT n.*, s.session_key, s.owner
        FROM sf_session s
        CROSS JOIN LATERAL unnest(coalesce(p_tags, ARRAY(SELECT g.tag FROM sf_work_tags(s.session_key) g))) AS t(tag)
        CROSS JOIN LATERAL (
            SELECT w.instance_key, w.work_id, w.available_at FROM sf_work w
            WHERE w.session_key = s.session_key AND w.tag = t.tag AND w.available_at <= p_now
            ORDER BY w.available_at, w.work_id LIMIT p_limit) n
        WHERE s.owner = ANY (p_owners) AND (s.locked_until > p_now) IS TRUE
        UNION ALL
        SELECT f.instance_key, f.work_id, f.available_at, u.session_key, NULL::bytea
        FROM unnest(v_free) AS u(session_key)
        CROSS JOIN LATERAL (
            SELECT n.instance_key, n.work_id, n.available_at
            FROM unnest(coalesce(p_tags, ARRAY(SELECT g.tag FROM sf_work_tags(u.session_key) g))) AS t(tag)
            CROSS JOIN LATERAL (
                SELECT w.instance_key, w.work_id, w.available_at FROM sf_work w
                WHERE w.session_key = u.session_key AND w.tag = t.tag AND w.available_at <= p_now
                ORDER BY w.available_at, w.work_id LIMIT 1) n
            ORDER BY n.available_at, n.work_id LIMIT 1) f) c;

    -- Sessions first, then their work, as everywhere.
    v_want := ARRAY(SELECT DISTINCT u.s FROM unnest(v_sessions) AS u(s));
    v_locked := ARRAY(SELECT s.session_key FROM sf_session s WHERE s.session_key = ANY (v_want)
                      ORDER BY s.session_key FOR NO KEY UPDATE SKIP LOCKED);
    v_locked_ids := ARRAY(
        SELECT w.work_id FROM unnest(v_keys, v_works, v_sessions, v_held) AS c(key, work_id, session_key, owner)
        JOIN sf_session s ON s.session_key = ANY (ARRAY[c.session_key])
        JOIN sf_work w ON w.instance_key = ANY (ARRAY[c.key]) AND w.work_id = c.work_id
        WHERE c.session_key = ANY (v_locked) AND w.available_at <= p_now
          AND CASE WHEN c.owner IS NULL THEN s.locked_until <= p_now
                   ELSE s.owner = c.owner AND s.locked_until > p_now END
        FOR UPDATE OF w SKIP LOCKED);
    busy := busy OR cardinality(v_locked_ids) < coalesce(cardinality(v_works), 0);

    WITH waiters AS (
        SELECT u.owner, u.n, row_number() OVER (PARTITION BY u.owner ORDER BY u.n) AS turn
        FROM unnest(p_owners) WITH ORDINALITY AS u(owner, n)
    ), offers AS (
        SELECT c.key, c.work_id, c.due, c.session_key, c.owner,
               CASE WHEN c.owner IS NOT NULL
                    THEN row_number() OVER (PARTITION BY c.owner ORDER BY c.due, c.work_id) END AS turn
        FROM unnest(v_keys, v_works, v_dues, v_sessions, v_held) AS c(key, work_id, due, session_key, owner)
        WHERE c.work_id = ANY (v_locked_ids)
        UNION ALL
        SELECT p.key, p.work_id, p.due, NULL, NULL, NULL
        FROM unnest(p_keys, p_works, p_dues) AS p(key, work_id, due)
    ), served AS MATERIALIZED (
        -- An owner's sessions can serve no more than its waiters; of what remains, the oldest.
        SELECT o.* FROM offers o
        WHERE o.owner IS NULL OR EXISTS (SELECT FROM waiters w WHERE w.owner = o.owner AND w.turn = o.turn)
        ORDER BY o.due, o.work_id LIMIT p_limit
    ), bound AS (
        SELECT s.key, s.work_id, s.session_key, s.owner, w.n FROM (
            SELECT x.*, row_number() OVER (PARTITION BY x.owner ORDER BY x.due, x.work_id) AS place
            FROM served x WHERE x.owner IS NOT NULL) s
        JOIN waiters w ON w.owner = s.owner AND w.turn = s.place
    ), spare AS (
        SELECT w.owner, row_number() OVER (ORDER BY w.n) AS place FROM waiters w
        WHERE NOT EXISTS (SELECT FROM bound b WHERE b.n = w.n)
    ), given AS (
        SELECT b.key, b.work_id, b.session_key, b.owner FROM bound b
        UNION ALL
        SELECT s.key, s.work_id, s.session_key, CASE WHEN s.session_key IS NOT NULL THEN p.owner END
        FROM (SELECT x.*, row_number() OVER (ORDER BY x.due, x.work_id) AS place
              FROM served x WHERE x.owner IS NULL) s
        JOIN spare p ON p.place = s.place
    ), taken AS (
        UPDATE sf_session s SET owner = g.owner, last_activity_at = p_now,
               locked_until = p_now + p_session_lease_ms * interval '1 millisecond'
        FROM (SELECT DISTINCT d.session_key, d.owner FROM given d WHERE d.session_key IS NOT NULL) g
        WHERE s.session_key = ANY (ARRAY[g.session_key]))
    SELECT array_agg(g.key), array_agg(g.work_id), array_agg(g.owner) INTO keys, works, owners FROM given g;
END $$;
