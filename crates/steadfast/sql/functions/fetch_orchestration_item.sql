-- sf_fetch_orchestration_item: claims up to p_limit instances that have due messages, for as many waiters.
-- One row per instance; one row with instance_key NULL when there is none, telling when to look again.
--
-- p_batch_id, p_claim: identity of this call; p_claim marks what it claims (the token's fence).
-- p_retry: the answer to p_batch_id was lost: return what it claimed, or make sure that it never will.
-- p_min_version, p_max_version: replay versions (packed) that the caller runs; both NULL: any.
-- p_owner, p_evicted: the caller's cache holds the history of every instance whose cache_owner is
--     p_owner, except those listed; the others come with their events.
-- p_since_us, p_known, `since_us`, `look_us`, `known`: as in sf_fetch_work_item, with lanes for tags.
-- p_max_messages, p_max_bytes: bound of what one instance is handed at once; the rest waits its turn. Histories of
--     a call are bounded by four times that altogether: beyond it they come as if cached; the caller reads them.
--
-- Called by: op/fetch_orchestration_item.rs.
-- Locks: batch id; instance rows by key ascending, never waiting (a row held elsewhere is passed over and
--        `busy` says so); start messages of new instances, never waiting; what sf_isolate locks.
-- Hints: none.  Errors: none of its own.
CREATE OR REPLACE FUNCTION sf_fetch_orchestration_item(
    p_batch_id uuid, p_retry boolean, p_claim bigint, p_limit integer, p_lease_ms bigint,
    p_min_version bigint, p_max_version bigint, p_owner bigint, p_evicted bigint[],
    p_max_messages integer, p_max_bytes bigint, p_since_us bigint DEFAULT NULL, p_known bigint[] DEFAULT NULL)
RETURNS TABLE (
    instance_key bigint, instance_id text, orchestration_name bytea, orchestration_version bytea,
    execution_id bigint, history_revision bigint, last_event_id bigint, cached boolean, attempt_count integer,
    message_ids bigint[], messages bytea[], events bytea[], kv_keys bytea[], kv_values bytea[], kv_at_ms bigint[],
    next_due_ms bigint, busy boolean, dropped bigint, since_us bigint, look_us bigint, known bigint[])
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    v_now      timestamptz := clock_timestamp();
    v_until    timestamptz := v_now + p_lease_ms * interval '1 millisecond';
    v_keys     bigint[] := '{}';   -- claimed by this call
    v_locked   bigint[]; v_lanes bigint[];   -- lanes with something due
    v_due      bigint[];
    v_ids      text[]; v_new text[];
    v_page     integer := 8 + 6 * p_limit;   -- small at first: mostly the head serves everybody
    v_rows     bigint := 0;        -- rows of the page that were looked at
    v_want     integer;
    v_since    timestamptz := sf_look_since(v_now, p_since_us);
    v_some     bigint[] := p_known; v_known bigint[];   -- lanes to look at, NULL: all; those that were found
    v_head_at  timestamptz;
    v_read     bigint := sf_look_read(false);
    v_first_at timestamptz := v_since;   -- the first message that is there
    v_at       timestamptz; v_id bigint;
    v_next_at  timestamptz; v_next_id bigint;
    v_wide     integer := 0;
    v_except   text[] := '{}';
    v_crowded  boolean := false;
    v_again    boolean := false;   -- some of them had a scheduling row, and perhaps routed messages
    v_busy     boolean := false;
    v_held     boolean;            -- some of the head are held elsewhere
    v_closed   boolean; v_dropped bigint := 0;
    v_next_ms  bigint; v_tell boolean := false;
BEGIN
    -- A retry waits for an original that is still running.
    v_closed := pg_advisory_xact_lock(uuid_hash_extended(p_batch_id, 0)) IS NULL;
    v_closed := EXISTS (SELECT FROM sf_batch b WHERE b.batch_id = p_batch_id);
    IF v_closed AND NOT p_retry THEN
        RETURN;                    -- a retry has closed this call before it began
    END IF;
    IF p_retry THEN
        v_keys := ARRAY(SELECT t.instance_key FROM sf_turn t
                        WHERE t.lane >= 0 AND t.available_at > v_now AND t.claim = p_claim);
        IF NOT v_closed THEN
            PERFORM sf_batch_open(p_batch_id, greatest(2 * p_lease_ms, 120000), 0);
        END IF;
    ELSE
        IF p_since_us IS NOT NULL THEN
            v_first_at := coalesce((SELECT x.visible_at FROM sf_inbox x WHERE x.visible_at BETWEEN v_since AND v_now
                                    ORDER BY 1 LIMIT 1), sf_look_recent(v_now));
        END IF;
        -- Again, when nothing of what was taken can be handed over: it is put off, or another has its messages.
        FOR v_round IN 1..16 LOOP
            -- 1. Scheduling rows that are due: leases that ended, delays that passed, routed backlog.
            -- Where some of the head are held elsewhere, a second and wider look passes over them.
            FOR v_look IN 0..1 LOOP
                SELECT coalesce(array_agg(m.lane) FILTER (WHERE m.mine AND m.head_at <= v_now), '{}'),
                       -- The newest replay version is that of executions which begin now.
                       array_agg(m.lane) || ARRAY[0, coalesce(p_max_version, 0)],
                       least(v_head_at, min(m.head_at) FILTER (WHERE m.mine))
                  INTO v_lanes, v_known, v_head_at
                  FROM (SELECT l.lane, l.head_at, l.lane = 0 OR p_min_version IS NULL
                               OR l.lane BETWEEN p_min_version AND p_max_version AS mine
                        FROM sf_turn_heads(v_since, v_now, v_some) l) m;
                IF p_since_us IS NOT NULL THEN
                    v_since := coalesce(v_head_at, sf_look_recent(v_now));
                    v_some := coalesce(v_some, v_known);
                END IF;
                EXIT WHEN cardinality(v_lanes) = 0;
                v_want := p_limit - cardinality(v_keys);
                v_due := ARRAY(
                    SELECT c.instance_key FROM unnest(v_lanes) AS l(lane) CROSS JOIN LATERAL (
                        SELECT t.instance_key, t.available_at FROM sf_turn t
                        WHERE t.lane = l.lane AND t.available_at BETWEEN v_head_at AND v_now
                        ORDER BY t.available_at LIMIT v_want + 64 * v_look) c
                    ORDER BY c.available_at LIMIT v_want + 64 * v_look);
                v_locked := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_key = ANY (v_due)
                                  ORDER BY i.instance_key FOR NO KEY UPDATE SKIP LOCKED);
                v_held := cardinality(v_locked) < cardinality(v_due);
                IF cardinality(v_locked) > v_want THEN
                    v_locked := ARRAY(SELECT d.id FROM unnest(v_due) WITH ORDINALITY AS d(id, n)
                                      WHERE d.id = ANY (v_locked) ORDER BY d.n LIMIT v_want);
                END IF;
                WITH claimed AS (
                    UPDATE sf_turn t SET claim = p_claim, available_at = v_until, leased_at = v_now, lease_ms = p_lease_ms,
                           superseded = t.claim, superseded_ms = t.lease_ms
                    WHERE t.instance_key = ANY (v_locked) AND (t.available_at <= v_now AND t.lane >= 0) IS TRUE
                    RETURNING t.instance_key)
                SELECT v_keys || coalesce(array_agg(c.instance_key), '{}') INTO v_keys FROM claimed c;
                v_again := cardinality(v_keys) > 0;
                v_busy := v_busy OR v_held;
                EXIT WHEN NOT v_held OR cardinality(v_keys) >= p_limit;
            END LOOP;

            v_at := v_first_at; v_id := 0;
            -- 2. The inbox, page by page, for as many as are still wanted; a page once more, and wider, without those
            -- that turned out to be held.
            FOR v_look IN 1..16 LOOP
                v_want := p_limit - cardinality(v_keys);
                EXIT WHEN v_want <= 0;
                SELECT h.rows_seen, h.last_at, h.last_id, h.ready, h.ready_new, v_dropped + h.dropped
                  INTO v_rows, v_next_at, v_next_id, v_ids, v_new, v_dropped
                  FROM sf_inbox_head(v_now, v_page, v_want + v_wide, p_min_version, p_max_version, v_at, v_id, v_except) h;
                IF cardinality(v_new) > 0 THEN
                    PERFORM sf_claim_starts(v_new, v_now);
                END IF;
                v_locked := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_id = ANY (v_ids)
                                  ORDER BY i.instance_key + 0 FOR NO KEY UPDATE SKIP LOCKED);
                v_held := cardinality(v_locked) < cardinality(v_ids);
                IF v_held THEN
                    v_except := v_except || ARRAY(
                        SELECT u.id FROM unnest(v_ids) AS u(id) WHERE (
                            SELECT i.instance_key = ANY (v_locked) FROM sf_instance i WHERE i.instance_id = u.id) IS NOT TRUE);
                END IF;
                IF cardinality(v_locked) > v_want THEN
                    v_locked := ARRAY(SELECT i.instance_key FROM unnest(v_ids) WITH ORDINALITY AS u(id, n)
                                      JOIN sf_instance i ON i.instance_id = ANY (ARRAY[u.id])
                                      WHERE i.instance_key = ANY (v_locked) ORDER BY u.n LIMIT v_want);
                END IF;
                WITH claimed AS (
                    INSERT INTO sf_turn AS t (instance_key, lane, available_at, claim, leased_at, lease_ms)
                    SELECT i.instance_key, coalesce(i.replay_version, 0), v_until, p_claim, v_now, p_lease_ms
                    FROM unnest(v_locked) AS k(id) JOIN sf_instance i ON i.instance_key = ANY (ARRAY[k.id])
                    WHERE i.replay_version IS NULL OR p_min_version IS NULL
                       OR i.replay_version BETWEEN p_min_version AND p_max_version
                    ON CONFLICT (instance_key) DO UPDATE
                       SET lane = excluded.lane, available_at = excluded.available_at, claim = excluded.claim,
                           leased_at = excluded.leased_at, lease_ms = excluded.lease_ms, superseded = t.claim, superseded_ms = t.lease_ms
                     WHERE t.claim IS NULL OR t.available_at <= v_now
                    -- A row that this call has inserted has never been locked or updated.
                    RETURNING t.instance_key, t.xmax <> 0 AS had_row)
                SELECT v_keys || coalesce(array_agg(c.instance_key), '{}'), v_again OR coalesce(bool_or(c.had_row), false)
                  INTO v_keys, v_again FROM claimed c;
                v_busy := v_busy OR v_held;
                EXIT WHEN cardinality(v_keys) >= p_limit;
                IF v_held THEN
                    v_wide := 64;
                ELSE
                    EXIT WHEN v_rows < v_page;
                    v_crowded := v_page >= 64 + 8 * p_limit;
                    v_page := 64 + 8 * p_limit;
                    v_at := v_next_at;
                    v_id := v_next_id;
                END IF;
            END LOOP;
            v_tell := p_known IS NOT NULL OR sf_look_read(false) - v_read > 1000 + 50 * cardinality(v_known) + 40 * p_limit;
            v_want := cardinality(v_keys);
            IF v_want > 0 THEN
                v_keys := sf_route_claimed(v_keys, v_again, p_claim, v_now, p_max_messages, p_max_bytes);
            END IF;
            v_busy := v_busy OR cardinality(v_keys) < v_want;
            EXIT WHEN cardinality(v_keys) > 0 OR v_want = 0;
        END LOOP;
        IF v_crowded THEN
            -- A whole page did not serve this caller: move what nobody of his kind can take out of everybody's way,
            -- many at a time, for what is due behind it waits.
            v_busy := sf_inbox_park(v_now, v_first_at, greatest(v_page, 4096), p_min_version, p_max_version) > 0 OR v_busy;
        END IF;
        IF cardinality(v_keys) < p_limit AND NOT v_busy THEN
            -- Due already: scheduled by somebody else since step 1, or held by him. Worth another look.
            v_next_at := sf_turn_next_due(v_now, v_since, v_some, p_min_version, p_max_version);
            v_busy := coalesce(v_next_at <= v_now, false);
            v_next_ms := CASE WHEN NOT v_busy THEN ceil(extract(epoch FROM v_next_at - clock_timestamp()) * 1000) END;
        END IF;
    END IF;

    IF cardinality(v_keys) = 0 OR v_tell THEN
        RETURN QUERY SELECT NULL::bigint, NULL::text, NULL::bytea, NULL::bytea, NULL::bigint, NULL::bigint,
            NULL::bigint, NULL::boolean, NULL::integer, NULL::bigint[], NULL::bytea[], NULL::bytea[], NULL::bytea[],
            NULL::bytea[], NULL::bigint[], v_next_ms, v_busy, v_dropped,
            CASE WHEN v_tell AND p_since_us IS NOT NULL THEN
                (extract(epoch FROM least(v_since, v_first_at, sf_look_recent(v_now))) * 1000000)::bigint END,
            CASE WHEN v_tell THEN (extract(epoch FROM clock_timestamp() - v_now) * 1000000)::bigint END,
            CASE WHEN v_tell AND p_since_us IS NOT NULL AND p_known IS NULL THEN v_some END;
    END IF;
    IF cardinality(v_keys) > 0 THEN
        RETURN QUERY SELECT c.*, v_next_ms, v_busy, v_dropped, NULL::bigint, NULL::bigint, NULL::bigint[]
        FROM sf_claimed_turns(v_keys, p_claim, p_owner, p_evicted, 4 * p_max_bytes) c;
    END IF;
END $$;
