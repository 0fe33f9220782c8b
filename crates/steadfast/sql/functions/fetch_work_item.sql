-- sf_fetch_work_item: claims up to p_limit due activities, for as many waiters. One row per activity; one row
-- with instance_key NULL when there is none, telling when to look again.
--
-- p_batch_id, p_claim, p_retry: as in sf_fetch_orchestration_item.
-- p_tags: tag keys that the waiters take; NULL: any.
-- p_owners: the session owner of each waiter, one entry per waiter; NULL: none takes session activities.
--     `owner` of a row says which waiter must get it; NULL: any.
-- p_since_us: NULL: all the queue is looked at. Otherwise dead rows are in its way, and are passed over once; what is due
--     since then (µs of the epoch; 0: the beginning) is looked at, and what sf_look_recent says.
-- p_known: not NULL: it is only a part, and waiters of any tag look at these tags: the rest is dead, as of an earlier look.
-- `look_us`, `since_us`, `known` (in the row without an activity, where the look was at a part or read much: over 1,000 index
--     entries, as sf_look_read counts them, beyond what it takes to find so many of each tag): how long the call took; with
--     p_since_us, where the next look may begin; of a look at all the queue, the tags that it has found.
-- p_max_bytes: a payload larger than that comes empty: the caller could not take it. One call takes so much altogether, or 16 MiB
--     if that is more (and one item at least); the rest stays as it is, and `busy` says that a look finds it at once.
-- p_cache_owner: the caller's history cache; `cached` says that it holds the whole history of the instance.
--
-- Called by: op/fetch_work_item.rs.
-- Locks: batch id; session rows by key ascending, then work rows, never waiting; what sf_isolate locks.
-- Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_fetch_work_item(
    p_batch_id uuid, p_retry boolean, p_claim bigint, p_limit integer, p_lease_ms bigint, p_tags bytea[],
    p_owners bytea[], p_session_lease_ms bigint, p_cache_owner bigint, p_since_us bigint DEFAULT NULL,
    p_known bytea[] DEFAULT NULL, p_max_bytes bigint DEFAULT 134283264)
RETURNS TABLE (
    instance_key bigint, work_id bigint, instance_id text, execution_id bigint, activity_id bigint,
    attempt_count integer, owner bytea, in_session boolean, payload bytea, cached boolean, next_due_ms bigint, busy boolean,
    since_us bigint, look_us bigint, known bytea[])
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    v_now    timestamptz := clock_timestamp();
    v_until  timestamptz := v_now + p_lease_ms * interval '1 millisecond';
    v_since  timestamptz := sf_look_since(v_now, p_since_us);
    v_read   bigint := sf_look_read(true);
    v_tags   bytea[] := p_tags;
    v_keys   bigint[] := '{}';
    v_works  bigint[] := '{}';
    v_dues   timestamptz[];
    v_owners bytea[];
    v_busy   boolean := false;
    v_closed boolean;
    v_next   bigint;
    v_found  integer := 0;
    v_bytes  bigint;               -- of their payloads
    v_cut    boolean := false;     -- they are too many bytes
    v_ended  boolean := false;     -- some of them were claimed before, and their lease has ended
    v_tell   boolean;
BEGIN
    -- A retry waits for an original that is still running.
    v_closed := pg_advisory_xact_lock(uuid_hash_extended(p_batch_id, 0)) IS NULL;
    v_closed := EXISTS (SELECT FROM sf_batch b WHERE b.batch_id = p_batch_id);
    IF v_closed AND NOT p_retry THEN
        RETURN;
    END IF;
    IF v_tags IS NULL AND p_known IS NOT NULL THEN
        v_tags := ARRAY(SELECT DISTINCT u.tag FROM unnest(p_known || ''::bytea) AS u(tag));
    ELSIF v_tags IS NULL THEN
        v_tags := ARRAY(SELECT t.tag FROM sf_work_tags(NULL) t);
    END IF;
    IF p_retry THEN
        RETURN QUERY
        SELECT w.instance_key, w.work_id, i.instance_id, w.execution_id, w.activity_id, w.attempt_count,
               s.owner, w.session_key IS NOT NULL,
               CASE WHEN octet_length(w.payload) <= p_max_bytes THEN w.payload ELSE '' END, false, NULL::bigint, false, NULL::bigint, NULL::bigint, NULL::bytea[]
        -- OFFSET 0: tags and sessions come first, whatever the planner thinks.
        FROM (SELECT a.* FROM unnest(v_tags) AS t(tag) CROSS JOIN LATERAL (
                  SELECT q.* FROM sf_work q WHERE q.session_key IS NULL AND q.tag = t.tag AND q.available_at > v_now
                     AND q.available_at <= v_until OFFSET 0) a
              UNION ALL
              SELECT b.* FROM sf_session l CROSS JOIN LATERAL (
                  SELECT q.* FROM sf_work q WHERE q.session_key = l.session_key AND q.available_at > v_now
                     AND q.available_at <= v_until OFFSET 0) b
              WHERE l.owner = ANY (p_owners)) w
        JOIN sf_instance i ON i.instance_key = ANY (ARRAY[w.instance_key])
        LEFT JOIN sf_session s ON s.session_key = ANY (ARRAY[w.session_key])
        WHERE w.claim = p_claim;
        IF NOT v_closed THEN
            PERFORM sf_batch_open(p_batch_id, greatest(2 * p_lease_ms, 120000), 0);
        END IF;
        RETURN;
    END IF;

    IF p_since_us IS NOT NULL THEN
        -- Of all that is there: what is locked by a call that will take something else counts.
        v_since := coalesce((SELECT min(n.at) FROM unnest(v_tags) AS t(tag) CROSS JOIN LATERAL (
            SELECT w.available_at AS at FROM sf_work w WHERE w.session_key IS NULL AND w.tag = t.tag
              AND w.available_at BETWEEN v_since AND v_now ORDER BY w.available_at LIMIT 1) n), sf_look_recent(v_now));
    END IF;
    -- Again, when all of it is put off.
    FOR v_round IN 1..16 LOOP
        -- Activities without a session, locked at once: the head that others are taking is passed over.
        SELECT array_agg(c.instance_key ORDER BY c.available_at, c.work_id),
               array_agg(c.work_id ORDER BY c.available_at, c.work_id),
               array_agg(c.available_at ORDER BY c.available_at, c.work_id), bool_or(c.claim <> 0), sum(c.bytes)
          INTO v_keys, v_works, v_dues, v_ended, v_bytes
          FROM unnest(v_tags) AS t(tag) CROSS JOIN LATERAL (
               SELECT w.instance_key, w.work_id, w.available_at, w.claim, octet_length(w.payload) AS bytes FROM sf_work w
               WHERE w.session_key IS NULL AND w.tag = t.tag AND w.available_at BETWEEN v_since AND v_now
               ORDER BY w.available_at, w.work_id LIMIT p_limit FOR UPDATE SKIP LOCKED) c;
        v_tell := p_known IS NOT NULL
            OR sf_look_read(true) - v_read > 1000 + (50 + 10 * p_limit) * cardinality(v_tags);
        IF p_owners IS NOT NULL AND EXISTS (SELECT FROM sf_session) THEN
            SELECT s.keys, s.works, s.owners, s.busy INTO v_keys, v_works, v_owners, v_busy
            FROM sf_claim_sessions(v_now, p_limit, p_tags, p_owners, p_session_lease_ms, v_keys, v_works, v_dues) s;
            SELECT bool_or(w.claim <> 0), sum(octet_length(w.payload)) INTO v_ended, v_bytes
            FROM unnest(v_keys, v_works) AS c(key, work_id)
            JOIN sf_work w ON w.instance_key = ANY (ARRAY[c.key]) AND w.work_id = c.work_id;
        ELSE
            v_keys := v_keys[1:p_limit];
            v_works := v_works[1:p_limit];
        END IF;
        IF v_bytes > greatest(p_max_bytes, 16777216) THEN
            SELECT array_agg(b.key ORDER BY b.n), array_agg(b.work_id ORDER BY b.n), array_agg(b.owner ORDER BY b.n),
                   v_cut OR count(*) < cardinality(v_keys)
              INTO v_keys, v_works, v_owners, v_cut FROM (
                SELECT c.*, sum(p.bytes) OVER (ORDER BY c.n) AS running_bytes
                FROM unnest(v_keys, v_works, v_owners) WITH ORDINALITY AS c(key, work_id, owner, n)
                JOIN sf_work w ON w.instance_key = ANY (ARRAY[c.key]) AND w.work_id = c.work_id
                CROSS JOIN LATERAL (SELECT CASE WHEN octet_length(w.payload) <= p_max_bytes THEN octet_length(w.payload)
                                                ELSE 0 END AS bytes) p) b
              WHERE b.n = 1 OR b.running_bytes <= greatest(p_max_bytes, 16777216);
        END IF;
        v_found := coalesce(cardinality(v_keys), 0);
        IF v_found > 0 AND (v_ended OR EXISTS (SELECT FROM sf_suspect)) THEN
            SELECT s.keys, s.works, s.owners INTO v_keys, v_works, v_owners
            FROM sf_isolate_work(v_now, p_claim, v_keys, v_works, v_owners) s;
            v_busy := v_busy OR coalesce(cardinality(v_keys), 0) < v_found;
        END IF;
        EXIT WHEN cardinality(v_keys) > 0 OR v_found = 0;
    END LOOP;
    v_busy := v_busy OR v_cut;
    v_found := 0;
    IF cardinality(v_keys) > 0 THEN
        RETURN QUERY
        WITH claimed AS (
            UPDATE sf_work w SET claim = p_claim, available_at = v_until, leased_at = v_now, lease_ms = p_lease_ms,
                   attempt_count = w.attempt_count + 1
            FROM unnest(v_keys, v_works, v_owners) AS c(key, work_id, owner)
            WHERE w.instance_key = ANY (ARRAY[c.key]) AND w.work_id = c.work_id
            RETURNING w.instance_key, w.work_id, w.execution_id, w.activity_id, w.attempt_count, c.owner,
                      w.session_key,
                      CASE WHEN octet_length(w.payload) <= p_max_bytes THEN w.payload ELSE '' END AS payload)
        SELECT c.instance_key, c.work_id, i.instance_id, c.execution_id, c.activity_id, c.attempt_count, c.owner,
               c.session_key IS NOT NULL, c.payload, coalesce(i.cache_owner = p_cache_owner, false), NULL::bigint, v_busy,
               NULL::bigint, NULL::bigint, NULL::bytea[]
        FROM claimed c JOIN sf_instance i ON i.instance_key = ANY (ARRAY[c.instance_key]) ORDER BY c.work_id;
        GET DIAGNOSTICS v_found = ROW_COUNT;
    END IF;
    IF v_found < p_limit AND NOT v_busy THEN
        -- Due, and locked by a call that may take something else, or be rolled back: worth another look.
        SELECT coalesce(min(d.at) <= v_now, false), ceil(extract(epoch FROM min(d.at) - clock_timestamp()) * 1000)
          INTO v_busy, v_next FROM (
            SELECT n.at FROM sf_work_next_due(v_now, v_since, v_tags) AS n(at)
            UNION ALL
            SELECT s.at FROM sf_session_next_due(v_now, p_tags, p_owners) AS s(at)) d;
        v_next := CASE WHEN NOT v_busy THEN v_next END;
    END IF;
    IF v_found < p_limit OR v_tell THEN
        RETURN QUERY SELECT NULL::bigint, NULL::bigint, NULL::text, NULL::bigint, NULL::bigint, NULL::integer,
            NULL::bytea, NULL::boolean, NULL::bytea, NULL::boolean, v_next, v_busy,
            -- What commits later than it says it is due is seen by the next look at all the queue.
            CASE WHEN v_tell AND p_since_us IS NOT NULL THEN
                (extract(epoch FROM least(v_since, sf_look_recent(v_now))) * 1000000)::bigint END,
            CASE WHEN v_tell THEN (extract(epoch FROM clock_timestamp() - v_now) * 1000000)::bigint END,
            CASE WHEN v_tell AND p_since_us IS NOT NULL AND p_known IS NULL THEN v_tags END;
    END IF;
END $$;
