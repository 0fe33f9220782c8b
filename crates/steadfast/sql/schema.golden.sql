CREATE SCHEMA steadfast_golden;

CREATE FUNCTION steadfast_golden.sf_abandon_orchestration_item(p_batch_id uuid, p_retain_ms bigint, p_sweep boolean, p_wait boolean, o_key bigint[], o_claim bigint[], o_upto bigint[], o_delay_ms bigint[], o_ignore_attempt boolean[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_now     timestamptz;
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, cardinality(o_key));
    v_locked  bigint[];
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    IF p_wait THEN
        PERFORM set_config('lock_timeout', '2s', true);
        v_locked := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_key = ANY (o_key)
                          ORDER BY i.instance_key FOR NO KEY UPDATE);
    ELSE
        v_locked := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_key = ANY (o_key)
                          ORDER BY i.instance_key FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
    v_now := clock_timestamp();
    v_results := ARRAY(
        SELECT CASE WHEN t.claim IS DISTINCT FROM o.claim THEN 1
                    WHEN NOT o.key = ANY (v_locked) THEN 4
                    WHEN row_number() OVER (PARTITION BY o.key, o.claim ORDER BY o.op) > 1 THEN 1
                    ELSE 0 END::bigint
        FROM unnest(o_key, o_claim) WITH ORDINALITY AS o(key, claim, op)
        LEFT JOIN sf_turn t ON t.instance_key = ANY (ARRAY[o.key])
        ORDER BY o.op);
    UPDATE sf_message s SET claim = NULL,
           visible_at = coalesce(v_now + o.delay_ms * interval '1 millisecond', s.visible_at),
           attempt_count = CASE WHEN o.ignore_attempt THEN greatest(0, s.attempt_count - 1) ELSE s.attempt_count END
    FROM unnest(o_key, o_claim, o_upto, o_delay_ms, o_ignore_attempt) WITH ORDINALITY
         AS o(key, claim, upto, delay_ms, ignore_attempt, op)
    WHERE v_results[o.op] = 0 AND s.instance_key = ANY (ARRAY[o.key]) AND s.message_id <= o.upto AND s.claim = o.claim;
    PERFORM sf_turn_reschedule(
        ARRAY(SELECT o.key FROM unnest(o_key) WITH ORDINALITY AS o(key, op) WHERE v_results[o.op] = 0), v_now);
    PERFORM sf_batch_close(p_batch_id, p_sweep, v_results);
    RETURN v_results;
END $$;

CREATE FUNCTION steadfast_golden.sf_abandon_work_item(p_batch_id uuid, p_retain_ms bigint, p_sweep boolean, p_wait boolean, o_key bigint[], o_work bigint[], o_claim bigint[], o_delay_ms bigint[], o_ignore_attempt boolean[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_now     timestamptz;
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, cardinality(o_key));
    v_locked  bigint[];
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    v_locked := sf_lock_work(p_wait, o_key, o_work);
    v_now := clock_timestamp();
    v_results := ARRAY(
        SELECT CASE WHEN w.work_id IS NULL OR w.claim <> o.claim THEN 1
                    WHEN NOT o.work_id = ANY (v_locked) THEN 4
                    WHEN row_number() OVER (PARTITION BY o.work_id, o.claim ORDER BY o.op) > 1 THEN 1
                    ELSE 0 END::bigint
        FROM unnest(o_key, o_work, o_claim) WITH ORDINALITY AS o(key, work_id, claim, op)
        LEFT JOIN sf_work w ON w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
        ORDER BY o.op);
    -- Claim 0 belongs to nobody: the token is spent.
    UPDATE sf_work w SET claim = 0, leased_at = NULL, lease_ms = NULL,
           available_at = v_now + coalesce(o.delay_ms, 0) * interval '1 millisecond',
           attempt_count = CASE WHEN o.ignore_attempt THEN greatest(0, w.attempt_count - 1) ELSE w.attempt_count END
    FROM unnest(o_key, o_work, o_delay_ms, o_ignore_attempt) WITH ORDINALITY
         AS o(key, work_id, delay_ms, ignore_attempt, op)
    WHERE v_results[o.op] = 0 AND w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id;
    PERFORM sf_batch_close(p_batch_id, p_sweep, v_results);
    RETURN v_results;
END $$;

CREATE FUNCTION steadfast_golden.sf_ack_kv(p_now timestamp with time zone, p_results bigint[], o_key bigint[], o_status text[], o_kv_clear boolean[], k_op integer[], k_id bytea[], k_key bytea[], k_value bytea[], k_at_ms bigint[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_now_ms bigint := floor(extract(epoch FROM p_now) * 1000);
    v_ended  bigint[];
BEGIN
    UPDATE sf_kv v SET changed = true, delta_value = NULL, delta_at_ms = v_now_ms
    FROM unnest(o_key, o_kv_clear) WITH ORDINALITY AS o(key, clear, op)
    WHERE o.clear AND p_results[o.op] = 0 AND v.instance_key = ANY (ARRAY[o.key]);

    INSERT INTO sf_kv AS v (instance_key, key_id, key, changed, delta_value, delta_at_ms)
    SELECT o_key[k.op], k.id, k.key, true, k.value, coalesce(k.at_ms, v_now_ms)
    FROM unnest(k_op, k_id, k_key, k_value, k_at_ms) AS k(op, id, key, value, at_ms)
    WHERE p_results[k.op] = 0
    ON CONFLICT (instance_key, key_id) DO UPDATE
       SET changed = true, delta_value = excluded.delta_value, delta_at_ms = excluded.delta_at_ms;

    v_ended := ARRAY(SELECT o.key FROM unnest(o_key, o_status) WITH ORDINALITY AS o(key, status, op)
                     WHERE p_results[o.op] = 0 AND o.status IN ('Completed', 'Failed', 'ContinuedAsNew'));
    IF cardinality(v_ended) > 0 THEN
        DELETE FROM sf_kv v WHERE v.instance_key = ANY (v_ended) AND v.changed AND v.delta_value IS NULL;
        UPDATE sf_kv v SET changed = false, base_value = v.delta_value, base_at_ms = v.delta_at_ms,
               delta_value = NULL, delta_at_ms = NULL
        WHERE v.instance_key = ANY (v_ended) AND v.changed;
    END IF;
END $$;

CREATE FUNCTION steadfast_golden.sf_ack_metadata(p_now timestamp with time zone, p_owner bigint, p_results bigint[], o_key bigint[], o_execution bigint[], o_name bytea[], o_version bytea[], o_parent text[], o_status text[], o_output bytea[], o_pinned bigint[], o_custom smallint[], o_custom_status bytea[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    UPDATE sf_instance i SET
        orchestration_name = CASE WHEN o.version IS NULL THEN i.orchestration_name
                                  ELSE coalesce(o.name, i.orchestration_name) END,
        orchestration_version = CASE WHEN o.name IS NULL THEN i.orchestration_version
                                     ELSE coalesce(o.version, i.orchestration_version) END,
        -- The parent is set with the first name and never changes.
        parent_instance_id = CASE WHEN i.orchestration_name IS NULL AND o.name IS NOT NULL
                                  THEN o.parent ELSE i.parent_instance_id END,
        execution_id = greatest(i.execution_id, o.execution),
        status = CASE WHEN o.execution < i.execution_id THEN i.status
                      WHEN o.execution > i.execution_id THEN coalesce(o.status, 'Running')
                      ELSE coalesce(o.status, i.status) END,
        replay_version = CASE WHEN o.execution < i.execution_id THEN i.replay_version
                              WHEN o.execution > i.execution_id THEN o.pinned
                              ELSE coalesce(o.pinned, i.replay_version) END,
        custom_status = CASE o.custom WHEN 0 THEN i.custom_status ELSE o.custom_status END,
        custom_status_version = i.custom_status_version + CASE o.custom WHEN 0 THEN 0 ELSE 1 END,
        cache_owner = p_owner, updated_at = p_now
    FROM (SELECT u.key, u.op, u.execution, u.name, u.version, u.parent, u.status, u.pinned, u.custom, u.custom_status
          FROM unnest(o_key, o_execution, o_name, o_version, o_parent, o_status, o_pinned, o_custom, o_custom_status)
               WITH ORDINALITY
               AS u(key, execution, name, version, parent, status, pinned, custom, custom_status, op)) o
    WHERE p_results[o.op] = 0 AND i.instance_key = ANY (ARRAY[o.key]);

    -- A turn in the middle of an execution changes nothing here, and writes nothing.
    INSERT INTO sf_execution AS x (instance_key, execution_id, status, output, replay_version, started_at, completed_at)
    SELECT o.key, o.execution, coalesce(o.status, 'Running'), o.output, o.pinned, p_now,
           CASE WHEN o.status IS NOT NULL THEN p_now END
    FROM unnest(o_key, o_execution, o_status, o_output, o_pinned) WITH ORDINALITY
         AS o(key, execution, status, output, pinned, op)
    WHERE p_results[o.op] = 0 AND (o.status IS NOT NULL OR o.pinned IS NOT NULL OR (
        SELECT true FROM sf_execution y WHERE y.instance_key = o.key AND y.execution_id = o.execution) IS NULL)
    ON CONFLICT (instance_key, execution_id) DO UPDATE SET
        status = CASE WHEN excluded.completed_at IS NULL THEN x.status ELSE excluded.status END,
        output = CASE WHEN excluded.completed_at IS NULL THEN x.output ELSE excluded.output END,
        completed_at = coalesce(excluded.completed_at, x.completed_at),
        replay_version = coalesce(excluded.replay_version, x.replay_version);
END $$;

CREATE FUNCTION steadfast_golden.sf_ack_orchestration_item(p_batch_id uuid, p_retain_ms bigint, p_sweep boolean, p_wait boolean, p_owner bigint, o_key bigint[], o_claim bigint[], o_upto bigint[], o_execution bigint[], o_name bytea[], o_version bytea[], o_parent text[], o_status text[], o_output bytea[], o_pinned bigint[], o_custom smallint[], o_custom_status bytea[], o_kv_clear boolean[], e_op integer[], e_event bigint[], e_kind smallint[], e_payload bytea[], w_op integer[], w_instance text[], w_execution bigint[], w_activity bigint[], w_tag bytea[], w_session bytea[], w_payload bytea[], m_instance text[], m_op integer[], m_visible_ms bigint[], m_kind smallint[], m_payload bytea[], c_op integer[], c_instance text[], c_execution bigint[], c_activity bigint[], k_op integer[], k_id bytea[], k_key bytea[], k_value bytea[], k_at_ms bigint[], p_feed smallint[], p_tell boolean, p_hand_batch uuid, p_hand_claim bigint, p_hand_limit integer, p_hand_lease_ms bigint, p_hand_tags bytea[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_now     timestamptz;
    v_results bigint[];
    v_locked  bigint[];
    v_again   integer[] := '{}';   -- turns with an event id that exists
    v_stuck   integer[] := '{}';   -- turns whose cancelled work is locked elsewhere
    v_done    bigint[];
    v_more    bigint[] := '{}';
    v_closed  boolean;
BEGIN
    v_results := sf_batch_open(p_batch_id, p_retain_ms, cardinality(o_key));
    IF v_results IS NOT NULL THEN
        RETURN array_replace(v_results, 0::bigint, 5::bigint);
    END IF;
    IF p_hand_claim IS NOT NULL THEN
        -- Whoever asks again what was claimed waits for this call, or has closed the claim before it began.
        v_closed := pg_advisory_xact_lock(uuid_hash_extended(p_hand_batch, 0)) IS NULL;
        v_closed := EXISTS (SELECT FROM sf_batch b WHERE b.batch_id = p_hand_batch);
        p_hand_claim := CASE WHEN NOT v_closed THEN p_hand_claim END;
    END IF;
    IF p_wait THEN
        PERFORM set_config('lock_timeout', '2s', true);
        v_locked := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_key = ANY (o_key)
                          ORDER BY i.instance_key FOR NO KEY UPDATE);
    ELSE
        v_locked := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_key = ANY (o_key)
                          ORDER BY i.instance_key FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
    -- After the locks: a lease that ended while this call waited has ended.
    v_now := clock_timestamp();
    -- Event ids grow: only a turn that does not go on behind the last one is compared with what is there.
    v_again := ARRAY(
        SELECT f.op FROM (SELECT e.op, min(e.event_id) AS first_id FROM unnest(e_op, e_event) AS e(op, event_id)
                          GROUP BY e.op) f
        WHERE f.first_id <= (SELECT h.event_id FROM sf_event h WHERE h.instance_key = o_key[f.op]
                                AND h.execution_id = o_execution[f.op] ORDER BY h.event_id DESC LIMIT 1));
    IF cardinality(v_again) > 0 THEN
        v_again := ARRAY(SELECT DISTINCT e.op FROM unnest(e_op, e_event) AS e(op, event_id)
                         JOIN sf_event h ON h.instance_key = ANY (ARRAY[o_key[e.op]]) AND h.execution_id = o_execution[e.op]
                                        AND h.event_id = e.event_id
                         WHERE e.op = ANY (v_again));
    END IF;
    IF cardinality(c_op) > 0 THEN
        v_stuck := sf_lock_cancelled(p_wait, o_key, c_op, c_instance, c_execution, c_activity);
    END IF;
    v_results := ARRAY(
        SELECT CASE WHEN t.instance_key IS NULL OR t.claim IS DISTINCT FROM o.claim THEN 1
                    WHEN NOT o.key = ANY (v_locked) THEN 4
                    WHEN row_number() OVER (PARTITION BY o.key, o.claim ORDER BY o.op) > 1 THEN 1
                    WHEN t.available_at <= v_now THEN 2
                    WHEN o.op = ANY (v_again) THEN 3
                    WHEN o.op = ANY (v_stuck) THEN 4
                    ELSE 0 END::bigint
        FROM unnest(o_key, o_claim) WITH ORDINALITY AS o(key, claim, op)
        LEFT JOIN sf_turn t ON t.instance_key = ANY (ARRAY[o.key])
        ORDER BY o.op);
    IF 0 = ANY (v_results) THEN
        v_done := ARRAY(SELECT o.key FROM unnest(o_key) WITH ORDINALITY AS o(key, op) WHERE v_results[o.op] = 0);
        DELETE FROM sf_message s USING unnest(o_key, o_claim, o_upto) WITH ORDINALITY AS o(key, claim, upto, op)
        WHERE v_results[o.op] = 0 AND s.instance_key = ANY (ARRAY[o.key]) AND s.message_id <= o.upto AND s.claim = o.claim;

        INSERT INTO sf_event (instance_key, execution_id, event_id, kind, payload)
        SELECT o_key[e.op], o_execution[e.op], e.event_id, e.kind, e.payload
        FROM unnest(e_op, e_event, e_kind, e_payload) AS e(op, event_id, kind, payload) WHERE v_results[e.op] = 0;

        PERFORM sf_ack_metadata(v_now, p_owner, v_results, o_key, o_execution, o_name, o_version, o_parent, o_status,
                                o_output, o_pinned, o_custom, o_custom_status);
        -- Key-values change by what a turn says, and at the end of an execution, if there are any.
        IF cardinality(k_op) > 0
           OR (true = ANY (o_kv_clear) OR array_remove(o_status, NULL) <> '{}')
              AND EXISTS (SELECT FROM sf_kv v WHERE v.instance_key = ANY (o_key)) THEN
            PERFORM sf_ack_kv(v_now, v_results, o_key, o_status, o_kv_clear, k_op, k_id, k_key, k_value, k_at_ms);
        END IF;
        IF cardinality(c_op) > 0 THEN
            DELETE FROM sf_work w USING (
                SELECT coalesce(i.instance_key, o_key[c.op]) AS key, c.execution_id, c.activity_id
                FROM unnest(c_op, c_instance, c_execution, c_activity) AS c(op, instance_id, execution_id, activity_id)
                LEFT JOIN sf_instance i ON i.instance_id = ANY (ARRAY[c.instance_id])
                WHERE v_results[c.op] = 0) d
            WHERE w.instance_key = ANY (ARRAY[d.key]) AND w.execution_id = d.execution_id AND w.activity_id = d.activity_id;
        END IF;
        IF cardinality(w_op) > 0 THEN
            PERFORM sf_insert_work(v_now, v_results, o_key, w_op, w_instance, w_execution, w_activity, w_tag,
                                   w_session, w_payload, p_hand_claim, p_hand_limit, p_hand_lease_ms, p_hand_tags);
        END IF;
        IF cardinality(m_op) > 0 THEN
            INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
            SELECT m.instance_id, coalesce(to_timestamp(m.visible_ms / 1000.0), v_now), m.kind, m.payload
            FROM unnest(m_instance, m_op, m_visible_ms, m_kind, m_payload) WITH ORDINALITY
                 AS m(instance_id, op, visible_ms, kind, payload, n)
            WHERE v_results[m.op] = 0 ORDER BY m.n;
        END IF;
        IF (SELECT true FROM sf_held h WHERE h.instance_key = ANY (v_done) LIMIT 1) THEN
            PERFORM sf_release_held(v_results, o_key, o_execution, o_status, e_op, e_kind);
        END IF;
        IF EXISTS (SELECT FROM sf_suspect) THEN
            DELETE FROM sf_suspect s WHERE s.instance_key = ANY (v_done) AND s.work_id = 0;
        END IF;
        PERFORM sf_turn_reschedule(v_done, v_now);
        IF cardinality(p_feed) > 0 THEN PERFORM sf_feed_append(v_now, v_results, o_key, o_execution, e_op, e_event, p_feed); END IF;
    END IF;
    PERFORM sf_batch_close(p_batch_id, p_sweep, v_results);
    IF p_tell AND cardinality(v_done) > 0 THEN
        v_more := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_key = ANY (v_done)
                        -- LIMIT keeps these probes of one instance each: an EXISTS may be hashed over a whole table.
                        AND coalesce((SELECT true FROM sf_inbox x WHERE x.instance_id = i.instance_id
                                         AND x.visible_at <= clock_timestamp() LIMIT 1),
                                     (SELECT true FROM sf_turn t WHERE t.instance_key = i.instance_key LIMIT 1), false));
        IF cardinality(v_more) > 0 THEN
            v_results := ARRAY(SELECT CASE WHEN v_results[o.op] = 0 AND o.key = ANY (v_more) THEN 5
                                           ELSE v_results[o.op] END
                               FROM unnest(o_key) WITH ORDINALITY AS o(key, op) ORDER BY o.op);
        END IF;
    END IF;
    RETURN v_results;
END $$;

CREATE FUNCTION steadfast_golden.sf_ack_work_item(p_batch_id uuid, p_retain_ms bigint, p_sweep boolean, p_wait boolean, o_key bigint[], o_work bigint[], o_claim bigint[], m_instance text[], m_kind smallint[], m_payload bytea[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_now      timestamptz;
    v_results  bigint[] := sf_batch_open(p_batch_id, p_retain_ms, cardinality(o_key));
    v_good     bigint;
    v_locked   bigint[];
    v_sessions bytea[];
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    -- Mostly all of them are as they should be: one statement finds that out. v_good counts activities, not
    -- operations, so that a token used twice is looked at more closely.
    IF NOT p_wait THEN
        v_good := (SELECT count(DISTINCT l.work_id) FROM (
            SELECT w.work_id, w.claim = o.claim AND w.available_at > clock_timestamp() AS holds
            FROM unnest(o_key, o_work, o_claim) AS o(key, work_id, claim)
            JOIN sf_work w ON w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
            ORDER BY o.key, o.work_id FOR UPDATE OF w SKIP LOCKED) l WHERE l.holds);
    END IF;
    v_now := clock_timestamp();
    IF v_good = cardinality(o_work) THEN
        v_results := array_fill(0::bigint, ARRAY[cardinality(o_work)]);
    ELSE
        v_locked := sf_lock_work(p_wait, o_key, o_work);
        v_now := clock_timestamp();
        v_results := ARRAY(
            SELECT CASE WHEN w.work_id IS NULL OR w.claim <> o.claim THEN 1
                        WHEN NOT o.work_id = ANY (v_locked) THEN 4
                        WHEN row_number() OVER (PARTITION BY o.work_id, o.claim ORDER BY o.op) > 1 THEN 1
                        WHEN w.available_at <= v_now THEN 2 ELSE 0 END::bigint
            FROM unnest(o_key, o_work, o_claim) WITH ORDINALITY AS o(key, work_id, claim, op)
            LEFT JOIN sf_work w ON w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
            ORDER BY o.op);
    END IF;
    WITH done AS (
        DELETE FROM sf_work w USING unnest(o_key, o_work) WITH ORDINALITY AS o(key, work_id, op)
        WHERE v_results[o.op] = 0 AND w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
        RETURNING w.session_key)
    SELECT array_agg(DISTINCT d.session_key) FILTER (WHERE d.session_key IS NOT NULL) INTO v_sessions FROM done d;
    IF EXISTS (SELECT FROM sf_suspect) THEN
        DELETE FROM sf_suspect s USING unnest(o_key, o_work) WITH ORDINALITY AS o(key, work_id, op)
        WHERE v_results[o.op] = 0 AND s.instance_key = ANY (ARRAY[o.key]) AND s.work_id = o.work_id;
    END IF;
    IF v_sessions IS NOT NULL THEN
        PERFORM sf_touch_sessions(v_sessions, v_now);
    END IF;
    INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
    SELECT m.instance_id, v_now, m.kind, m.payload
    FROM unnest(m_instance, m_kind, m_payload) WITH ORDINALITY AS m(instance_id, kind, payload, op)
    WHERE v_results[m.op] = 0 AND m.payload IS NOT NULL ORDER BY m.op;
    PERFORM sf_batch_close(p_batch_id, p_sweep, v_results);
    RETURN v_results;
END $$;

CREATE FUNCTION steadfast_golden.sf_append_with_execution(p_batch_id uuid, p_retain_ms bigint, p_instance text, p_execution bigint, e_event bigint[], e_kind smallint[], e_payload bytea[], p_feed smallint[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, 1);
    v_key     bigint;
    v_named   boolean;
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    -- A deletion may remove the instance between the two statements: then once more.
    LOOP
        INSERT INTO sf_instance (instance_id, execution_id) VALUES (p_instance, p_execution) ON CONFLICT DO NOTHING;
        SELECT i.instance_key, i.orchestration_name IS NOT NULL INTO v_key, v_named
        FROM sf_instance i WHERE i.instance_id = p_instance FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
    END LOOP;
    IF EXISTS (SELECT FROM unnest(e_event) AS u(event_id) JOIN sf_event h ON h.instance_key = v_key
                  AND h.execution_id = p_execution AND h.event_id = u.event_id) THEN
        v_results := ARRAY[3];
    ELSE
        INSERT INTO sf_event (instance_key, execution_id, event_id, kind, payload)
        SELECT v_key, p_execution, e.event_id, e.kind, e.payload
        FROM unnest(e_event, e_kind, e_payload) AS e(event_id, kind, payload);
        UPDATE sf_turn t SET lane = 0 WHERE t.instance_key = v_key AND t.lane = -1;
        -- Nobody's cache has these (nor, where they fill a gap, would it notice); and an instance without a name is as far as its events are.
        UPDATE sf_instance i SET cache_owner = NULL, history_revision = i.history_revision + 1,
               execution_id = CASE WHEN v_named THEN i.execution_id ELSE greatest(i.execution_id, p_execution) END
        WHERE i.instance_key = v_key;
        IF cardinality(p_feed) > 0 THEN
            PERFORM sf_feed_append(clock_timestamp(), NULL, ARRAY[v_key], ARRAY[p_execution],
                                   array_fill(1, ARRAY[cardinality(e_event)]), e_event, p_feed);
        END IF;
        v_results := ARRAY[0];
    END IF;
    PERFORM sf_batch_close(p_batch_id, false, v_results);
    RETURN v_results;
END $$;

CREATE FUNCTION steadfast_golden.sf_batch_close(p_batch_id uuid, p_sweep boolean, p_results bigint[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF array_remove(p_results, 0) <> '{}' THEN
        UPDATE sf_batch b SET results = p_results WHERE b.batch_id = p_batch_id;
    END IF;
    IF p_sweep THEN
        DELETE FROM sf_batch b USING (
            SELECT o.ctid AS tid FROM sf_batch o WHERE o.expires_at < clock_timestamp()
            ORDER BY o.expires_at LIMIT 1024 FOR UPDATE SKIP LOCKED
        ) expired WHERE b.ctid = expired.tid;
    END IF;
END $$;

CREATE FUNCTION steadfast_golden.sf_batch_open(p_batch_id uuid, p_retain_ms bigint, p_count integer) RETURNS bigint[]
    LANGUAGE plpgsql
    AS $$
BEGIN
    -- Empty: every operation answers 0. Mostly it stays so, and one row is all that is written.
    INSERT INTO sf_batch (batch_id, expires_at, results)
    VALUES (p_batch_id, clock_timestamp() + p_retain_ms * interval '1 millisecond', '{}') ON CONFLICT DO NOTHING;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT CASE WHEN b.results = '{}' THEN array_fill(0::bigint, ARRAY[p_count]) ELSE b.results END
            FROM sf_batch b WHERE b.batch_id = p_batch_id);
END $$;

CREATE FUNCTION steadfast_golden.sf_claim_instances(p_batch_id uuid, p_retry boolean, p_claim bigint, p_limit integer, p_lease_ms bigint, p_min_version bigint, p_max_version bigint, p_owner bigint, p_evicted bigint[], p_max_messages integer, p_max_bytes bigint, p_instances text[]) RETURNS TABLE(instance_key bigint, instance_id text, orchestration_name bytea, orchestration_version bytea, execution_id bigint, history_revision bigint, last_event_id bigint, cached boolean, attempt_count integer, message_ids bigint[], messages bytea[], events bytea[], kv_keys bytea[], kv_values bytea[], kv_at_ms bigint[], next_due_ms bigint, busy boolean, dropped bigint)
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
#variable_conflict use_column
DECLARE
    v_now    timestamptz := clock_timestamp();
    v_locked bigint[];
    v_keys   bigint[];
    v_again  boolean;
    v_busy   boolean;
    v_closed boolean;
BEGIN
    -- A retry waits for this call, or has closed it before it began: then somebody has looked already.
    v_closed := pg_advisory_xact_lock(uuid_hash_extended(p_batch_id, 0)) IS NULL;
    v_closed := EXISTS (SELECT FROM sf_batch b WHERE b.batch_id = p_batch_id);
    IF v_closed OR p_retry THEN
        RETURN;
    END IF;
    -- Cut here: a LIMIT below would have the planner walk all instances by key.
    v_locked := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_id = ANY (p_instances[1:p_limit])
                      ORDER BY i.instance_key + 0 FOR NO KEY UPDATE SKIP LOCKED);
    v_busy := cardinality(v_locked) < least(p_limit, cardinality(p_instances));
    WITH claimed AS (
        INSERT INTO sf_turn AS t (instance_key, lane, available_at, claim, leased_at, lease_ms)
        SELECT i.instance_key, coalesce(i.replay_version, 0), v_now + p_lease_ms * interval '1 millisecond', p_claim,
               v_now, p_lease_ms
        FROM unnest(v_locked) AS k(id) JOIN sf_instance i ON i.instance_key = ANY (ARRAY[k.id])
        WHERE i.replay_version IS NULL OR p_min_version IS NULL
           OR i.replay_version BETWEEN p_min_version AND p_max_version
        ON CONFLICT (instance_key) DO UPDATE
           SET lane = excluded.lane, available_at = excluded.available_at, claim = excluded.claim,
               leased_at = excluded.leased_at, lease_ms = excluded.lease_ms, superseded = t.claim, superseded_ms = t.lease_ms
         WHERE t.claim IS NULL OR t.available_at <= v_now
        -- A row that this call has inserted has never been locked or updated.
        RETURNING t.instance_key, t.xmax <> 0 AS had_row)
    SELECT coalesce(array_agg(c.instance_key), '{}'), coalesce(bool_or(c.had_row), false)
      INTO v_keys, v_again FROM claimed c;
    IF cardinality(v_keys) > 0 THEN
        v_locked := v_keys;
        v_keys := sf_route_claimed(v_keys, v_again, p_claim, v_now, p_max_messages, p_max_bytes);
        v_busy := v_busy OR cardinality(v_keys) < cardinality(v_locked);
    END IF;
    IF cardinality(v_keys) > 0 THEN
        RETURN QUERY SELECT c.*, NULL::bigint, v_busy, 0::bigint
        FROM sf_claimed_turns(v_keys, p_claim, p_owner, p_evicted, 4 * p_max_bytes) c;
    ELSIF v_busy THEN
        RETURN QUERY SELECT NULL::bigint, NULL::text, NULL::bytea, NULL::bytea, NULL::bigint, NULL::bigint,
            NULL::bigint, NULL::boolean, NULL::integer, NULL::bigint[], NULL::bytea[], NULL::bytea[], NULL::bytea[],
            NULL::bytea[], NULL::bigint[], NULL::bigint, v_busy, 0::bigint;
    END IF;
END $$;

CREATE FUNCTION steadfast_golden.sf_claim_sessions(p_now timestamp with time zone, p_limit integer, p_tags bytea[], p_owners bytea[], p_session_lease_ms bigint, p_keys bigint[], p_works bigint[], p_dues timestamp with time zone[], OUT keys bigint[], OUT works bigint[], OUT owners bytea[], OUT busy boolean) RETURNS record
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION steadfast_golden.sf_claim_starts(p_ids text[], p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    INSERT INTO sf_instance (instance_id, created_at)
    SELECT n.instance_id, n.sent_at FROM (
        SELECT s.instance_id, s.sent_at FROM unnest(p_ids) AS u(id) CROSS JOIN LATERAL (
            -- Nor has it got one since: whoever deletes that waits for our ticket, and we for him.
            SELECT x.instance_id, coalesce(x.sent_at, x.visible_at) AS sent_at FROM sf_inbox x
            WHERE x.instance_id >= u.id AND (x.instance_id, x.visible_at) <= (u.id, p_now) AND x.kind IN (1, 2)
              AND (SELECT true FROM sf_instance i WHERE i.instance_id = u.id) IS NULL
            ORDER BY x.instance_id, x.visible_at, x.message_id LIMIT 1 FOR UPDATE SKIP LOCKED) s
        ORDER BY s.instance_id) n
    ON CONFLICT DO NOTHING;
END $$;

CREATE FUNCTION steadfast_golden.sf_claimed_turns(p_keys bigint[], p_claim bigint, p_owner bigint, p_evicted bigint[], p_max_bytes bigint) RETURNS TABLE(instance_key bigint, instance_id text, orchestration_name bytea, orchestration_version bytea, execution_id bigint, history_revision bigint, last_event_id bigint, cached boolean, attempt_count integer, message_ids bigint[], messages bytea[], events bytea[], kv_keys bytea[], kv_values bytea[], kv_at_ms bigint[])
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION steadfast_golden.sf_cleanup_orphaned_sessions(p_limit integer) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_idle  bytea[];
    v_count bigint;
BEGIN
    v_idle := ARRAY(
        SELECT s.session_key FROM sf_session s
        WHERE s.locked_until < clock_timestamp()
          AND (SELECT true FROM sf_work w WHERE w.session_key = s.session_key LIMIT 1) IS NULL
        ORDER BY s.session_key LIMIT p_limit FOR UPDATE SKIP LOCKED);
    -- Asked again under the lock: work may have been queued while it was taken.
    DELETE FROM sf_session s WHERE s.session_key = ANY (v_idle)
       AND (SELECT true FROM sf_work w WHERE w.session_key = s.session_key LIMIT 1) IS NULL;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;

CREATE FUNCTION steadfast_golden.sf_deletable_instances(p_instances text[], p_completed_before_ms bigint, p_limit bigint) RETURNS TABLE(instance_id text)
    LANGUAGE sql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
    SELECT i.instance_id FROM sf_instance i
    JOIN sf_execution x ON x.instance_key = i.instance_key AND x.execution_id = i.execution_id
    WHERE i.parent_instance_id IS NULL AND i.orchestration_name IS NOT NULL
      AND i.status IN ('Completed', 'Failed')
      AND (p_instances IS NULL OR i.instance_id = ANY (p_instances))
      AND (p_completed_before_ms IS NULL OR x.completed_at < to_timestamp(p_completed_before_ms / 1000.0))
    ORDER BY x.completed_at LIMIT p_limit
$$;

CREATE FUNCTION steadfast_golden.sf_delete_instances(p_batch_id uuid, p_retain_ms bigint, p_instances text[], p_force boolean, p_ended text, p_feed boolean, OUT results bigint[], OUT culprit text) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_keys       bigint[];
    v_count      bigint;
    v_executions bigint;
    v_events     bigint;
    v_messages   bigint := 0;
    v_pending    text[];     -- ids of those that nobody has begun
    v_gone       text[];     -- of those, the ones whose start is deleted here
BEGIN
    results := sf_batch_open(p_batch_id, p_retain_ms, 5);
    IF results IS NOT NULL THEN
        RETURN;
    END IF;
    v_keys := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_id = ANY (p_instances)
                    ORDER BY i.instance_key + 0 FOR UPDATE);
    SELECT i.instance_id INTO culprit FROM sf_instance i
    -- Between two executions is running, too.
    WHERE i.instance_key = ANY (v_keys) AND i.status NOT IN ('Completed', 'Failed')
      AND i.orchestration_name IS NOT NULL AND (NOT p_force OR i.instance_id = p_ended) ORDER BY i.instance_key LIMIT 1;
    IF culprit IS NOT NULL THEN
        results := ARRAY[5, 0, 0, 0, 0];
        -- Nothing was done, so a retry looks anew: it finds the culprit again, or does the work.
        DELETE FROM sf_batch b WHERE b.batch_id = p_batch_id;
        RETURN;
    END IF;
    -- LIMIT keeps these probes of one instance each: an EXISTS may be hashed over a whole table.
    v_pending := ARRAY(
        SELECT u.id FROM unnest(p_instances) AS u(id) LEFT JOIN sf_instance i ON i.instance_id = ANY (ARRAY[u.id])
        WHERE i.orchestration_name IS NULL AND (
            (SELECT true FROM sf_inbox x WHERE x.instance_id = u.id AND x.kind IN (1, 2) AND x.kind = 1 LIMIT 1)
            OR (SELECT true FROM sf_message s WHERE s.instance_key = i.instance_key AND s.kind IN (1, 2) AND s.kind = 1
                LIMIT 1)));
    IF cardinality(v_pending) > 0 AND (NOT p_force OR p_ended = ANY (v_pending)) THEN
        results := ARRAY[7, 0, 0, 0, 0];
        culprit := v_pending[1];
        DELETE FROM sf_batch b WHERE b.batch_id = p_batch_id;
        RETURN;
    END IF;
    SELECT i.instance_id INTO culprit FROM sf_instance i
    WHERE i.parent_instance_id = ANY (p_instances) AND NOT i.instance_id = ANY (p_instances) LIMIT 1;
    IF culprit IS NOT NULL THEN
        results := ARRAY[6, 0, 0, 0, 0];
        -- Nothing was done, so a retry looks anew: it finds the culprit again, or does the work.
        DELETE FROM sf_batch b WHERE b.batch_id = p_batch_id;
        RETURN;
    END IF;
    DELETE FROM sf_event e WHERE e.instance_key = ANY (v_keys);
    GET DIAGNOSTICS v_events = ROW_COUNT;
    DELETE FROM sf_execution x WHERE x.instance_key = ANY (v_keys);
    GET DIAGNOSTICS v_executions = ROW_COUNT;
    DELETE FROM sf_kv v WHERE v.instance_key = ANY (v_keys);
    v_gone := ARRAY(SELECT i.instance_id FROM sf_instance i WHERE i.instance_key = ANY (v_keys)
                    AND i.instance_id = ANY (v_pending) AND (
                        SELECT true FROM sf_message s WHERE s.instance_key = i.instance_key AND s.kind IN (1, 2) AND s.kind = 1
                LIMIT 1));
    DELETE FROM sf_turn t WHERE t.instance_key = ANY (v_keys);
    DELETE FROM sf_message s WHERE s.instance_key = ANY (v_keys);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_messages := v_messages + v_count;
    DELETE FROM sf_suspect s WHERE s.instance_key = ANY (v_keys);
    DELETE FROM sf_held h WHERE h.instance_key = ANY (v_keys);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_messages := v_messages + v_count;
    DELETE FROM sf_work w WHERE w.instance_key = ANY (v_keys);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_messages := v_messages + v_count;
    -- What a claim is routing at this moment counts as sent after the deletion: a claim that holds a start message
    -- may be waiting for us to insert its instance.
    WITH doomed AS MATERIALIZED (
        SELECT x.ctid AS tid FROM sf_inbox x WHERE x.instance_id = ANY (p_instances) FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM sf_inbox x USING doomed d WHERE x.ctid = d.tid RETURNING x.instance_id, x.kind)
    SELECT count(*), v_gone || coalesce(array_agg(DISTINCT g.instance_id)
               FILTER (WHERE g.kind = 1 AND g.instance_id = ANY (v_pending)), '{}')
      INTO v_count, v_gone FROM gone g;
    v_messages := v_messages + v_count;
    IF cardinality(v_gone) > 0 THEN
        -- They are deleted as instances, so each gets a row. One that a claim has just made of another start is not ours.
        WITH made AS (
            INSERT INTO sf_instance (instance_id)
            SELECT DISTINCT u.id FROM unnest(v_gone) AS u(id)
            WHERE (SELECT true FROM sf_instance i WHERE i.instance_id = u.id) IS NULL ORDER BY u.id
            ON CONFLICT DO NOTHING RETURNING instance_key)
        SELECT v_keys || coalesce(array_agg(m.instance_key), '{}') INTO v_keys FROM made m;
        IF p_feed THEN
            PERFORM sf_feed_append(clock_timestamp(), NULL, k.keys, NULL, ARRAY(SELECT generate_series(1, k.n)),
                                   array_fill(0::bigint, ARRAY[k.n]), array_fill(80::smallint, ARRAY[k.n]))
            FROM (SELECT array_agg(i.instance_key) AS keys, count(*)::integer AS n FROM sf_instance i
                  WHERE i.instance_key = ANY (v_keys) AND i.instance_id = ANY (v_gone)) k WHERE k.n > 0;
        END IF;
    END IF;
    IF p_feed THEN PERFORM sf_feed_note(v_keys, NULL, 80::smallint); END IF;
    DELETE FROM sf_instance i WHERE i.instance_key = ANY (v_keys);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    results := ARRAY[0, v_count, v_executions, v_events, v_messages];
    PERFORM sf_batch_close(p_batch_id, false, results);
END $$;

CREATE FUNCTION steadfast_golden.sf_enqueue_for_orchestrator(p_batch_id uuid, p_retain_ms bigint, p_sweep boolean, m_instance text[], m_delay_ms bigint[], m_visible_ms bigint[], m_kind smallint[], m_payload bytea[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_now     timestamptz := clock_timestamp();
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, cardinality(m_instance));
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    INSERT INTO sf_inbox (instance_id, sent_at, visible_at, kind, payload)
    SELECT m.instance_id, CASE WHEN m.kind = 1 AND m.delay_ms > 0 THEN v_now END,
           coalesce(v_now + m.delay_ms * interval '1 millisecond', to_timestamp(m.visible_ms / 1000.0), v_now),
           m.kind, m.payload
    FROM unnest(m_instance, m_delay_ms, m_visible_ms, m_kind, m_payload) WITH ORDINALITY
         AS m(instance_id, delay_ms, visible_ms, kind, payload, n)
    ORDER BY m.n;
    v_results := array_fill(0::bigint, ARRAY[cardinality(m_instance)]);
    PERFORM sf_batch_close(p_batch_id, p_sweep, v_results);
    RETURN v_results;
END $$;

CREATE FUNCTION steadfast_golden.sf_enqueue_for_worker(p_batch_id uuid, p_retain_ms bigint, p_sweep boolean, w_instance text[], w_execution bigint[], w_activity bigint[], w_tag bytea[], w_session bytea[], w_payload bytea[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, cardinality(w_instance));
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    v_results := array_fill(0::bigint, ARRAY[cardinality(w_instance)]);
    PERFORM sf_insert_work(clock_timestamp(), v_results, '{}',
                           ARRAY(SELECT n::integer FROM generate_series(1, cardinality(w_instance)) AS g(n)),
                           w_instance, w_execution, w_activity, w_tag, w_session, w_payload, NULL, 0, 0, NULL);
    PERFORM sf_batch_close(p_batch_id, p_sweep, v_results);
    RETURN v_results;
END $$;

CREATE FUNCTION steadfast_golden.sf_export_rows(p_part smallint, p_1 bigint, p_2 bigint, p_3 bigint, p_key bytea, p_max_rows integer, p_max_bytes bigint) RETURNS TABLE(instance_id text, n1 bigint, n2 bigint, n3 bigint, n4 bigint, n5 bigint, n6 bigint, b1 bytea, b2 bytea, b3 bytea, b4 bytea, b5 bytea, c1 bigint, c2 bigint, c3 bigint, ckey bytea)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
#variable_conflict use_column
DECLARE
    c       refcursor;
    v_rows  integer := 0;
    v_bytes bigint := 0;
BEGIN
    IF p_part = 1 THEN
        -- Rows that only hang messages on an id are no instances.
        OPEN c FOR SELECT i.instance_id, i.execution_id, i.replay_version, i.custom_status_version,
            floor(extract(epoch FROM i.created_at) * 1000)::bigint, floor(extract(epoch FROM i.updated_at) * 1000)::bigint,
            i.instance_key, i.orchestration_name, i.orchestration_version, convert_to(i.status, 'UTF8'), i.custom_status,
            convert_to(i.parent_instance_id, 'UTF8'), i.instance_key, 0::bigint, 0::bigint, ''::bytea
        FROM sf_instance i WHERE i.instance_key > p_1 AND (i.orchestration_name IS NOT NULL
            OR EXISTS (SELECT FROM sf_event e WHERE e.instance_key = i.instance_key))
        ORDER BY i.instance_key LIMIT p_max_rows;
    ELSIF p_part = 2 THEN
        OPEN c FOR SELECT i.instance_id, x.execution_id, x.replay_version,
            floor(extract(epoch FROM x.started_at) * 1000)::bigint, floor(extract(epoch FROM x.completed_at) * 1000)::bigint,
            NULL::bigint, NULL::bigint, convert_to(x.status, 'UTF8'), x.output, NULL::bytea, NULL::bytea, NULL::bytea,
            x.instance_key, x.execution_id, 0::bigint, ''::bytea
        FROM sf_execution x JOIN sf_instance i USING (instance_key)
        WHERE (x.instance_key, x.execution_id) > (p_1, p_2) ORDER BY x.instance_key, x.execution_id LIMIT p_max_rows;
    ELSIF p_part = 3 THEN
        OPEN c FOR SELECT i.instance_id, e.execution_id, e.event_id, e.kind::bigint, NULL::bigint, NULL::bigint, NULL::bigint,
            e.payload, NULL::bytea, NULL::bytea, NULL::bytea, NULL::bytea,
            e.instance_key, e.execution_id, e.event_id, ''::bytea
        FROM sf_event e JOIN sf_instance i USING (instance_key)
        WHERE (e.instance_key, e.execution_id, e.event_id) > (p_1, p_2, p_3)
        ORDER BY e.instance_key, e.execution_id, e.event_id LIMIT p_max_rows;
    ELSIF p_part = 4 THEN
        OPEN c FOR SELECT i.instance_id, floor(extract(epoch FROM m.visible_at) * 1000)::bigint, m.attempt_count::bigint,
            m.kind::bigint, NULL::bigint, NULL::bigint, m.message_id, m.payload, NULL::bytea, NULL::bytea, NULL::bytea,
            NULL::bytea, m.instance_key, m.message_id, 0::bigint, ''::bytea
        -- Held or not: the target holds what it must.
        FROM (SELECT a.* FROM (SELECT s.instance_key, s.message_id, s.visible_at, s.attempt_count, s.kind, s.payload
                               FROM sf_message s WHERE (s.instance_key, s.message_id) > (p_1, p_2)
                               ORDER BY s.instance_key, s.message_id LIMIT p_max_rows) a
              UNION ALL
              SELECT b.* FROM (SELECT h.instance_key, h.message_id, h.visible_at, h.attempt_count, h.kind, h.payload
                               FROM sf_held h WHERE (h.instance_key, h.message_id) > (p_1, p_2)
                               ORDER BY h.instance_key, h.message_id LIMIT p_max_rows) b) m
        JOIN sf_instance i ON i.instance_key = ANY (ARRAY[m.instance_key])
        ORDER BY m.instance_key, m.message_id LIMIT p_max_rows;
    ELSIF p_part = 5 THEN
        -- Messages that no claim has routed yet: nobody has tried them.
        OPEN c FOR SELECT x.instance_id, floor(extract(epoch FROM x.visible_at) * 1000)::bigint, 0::bigint, x.kind::bigint,
            NULL::bigint, NULL::bigint, x.message_id, x.payload, NULL::bytea, NULL::bytea, NULL::bytea, NULL::bytea,
            (extract(epoch FROM x.visible_at) * 1000000)::bigint, x.message_id, 0::bigint, ''::bytea
        FROM sf_inbox x
        WHERE (x.visible_at, x.message_id) > (CASE WHEN p_2 < 0 THEN '-infinity'
                                              ELSE timestamptz 'epoch' + p_1 * interval '1 microsecond' END, p_2)
        ORDER BY x.visible_at, x.message_id LIMIT p_max_rows;
    ELSIF p_part = 6 THEN
        OPEN c FOR SELECT i.instance_id, w.execution_id, w.activity_id,
            floor(extract(epoch FROM w.available_at) * 1000)::bigint, w.attempt_count::bigint, NULL::bigint, w.work_id,
            w.tag, w.session_key, w.payload, NULL::bytea, NULL::bytea, w.instance_key, w.work_id, 0::bigint, ''::bytea
        FROM sf_work w JOIN sf_instance i USING (instance_key)
        WHERE (w.instance_key, w.work_id) > (p_1, p_2) ORDER BY w.instance_key, w.work_id LIMIT p_max_rows;
    ELSIF p_part = 7 THEN
        OPEN c FOR SELECT NULL::text, floor(extract(epoch FROM s.last_activity_at) * 1000)::bigint, NULL::bigint,
            NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint, s.session_key, NULL::bytea, NULL::bytea, NULL::bytea,
            NULL::bytea, 0::bigint, 0::bigint, 0::bigint, s.session_key
        FROM sf_session s WHERE s.session_key > p_key ORDER BY s.session_key LIMIT p_max_rows;
    ELSIF p_part = 8 THEN
        OPEN c FOR SELECT i.instance_id, v.base_at_ms, v.changed::integer::bigint, v.delta_at_ms, NULL::bigint, NULL::bigint,
            NULL::bigint, v.key, v.base_value, v.delta_value, NULL::bytea, NULL::bytea,
            v.instance_key, 0::bigint, 0::bigint, v.key_id
        FROM sf_kv v JOIN sf_instance i USING (instance_key)
        WHERE (v.instance_key, v.key_id) > (p_1, p_key) ORDER BY v.instance_key, v.key_id LIMIT p_max_rows;
    ELSE
        OPEN c FOR SELECT q.instance_id, q.execution_id, q.activity_id,
            floor(extract(epoch FROM q.quarantined_at) * 1000)::bigint, NULL::bigint, NULL::bigint, q.quarantine_id,
            convert_to(q.queue, 'UTF8'), convert_to(q.error, 'UTF8'), q.payload, NULL::bytea, NULL::bytea,
            q.quarantine_id, 0::bigint, 0::bigint, ''::bytea
        FROM sf_quarantine q WHERE q.quarantine_id > p_1 ORDER BY q.quarantine_id LIMIT p_max_rows;
    END IF;
    LOOP
        FETCH c INTO instance_id, n1, n2, n3, n4, n5, n6, b1, b2, b3, b4, b5, c1, c2, c3, ckey;
        EXIT WHEN NOT FOUND;
        RETURN NEXT;
        v_rows := v_rows + 1;
        v_bytes := v_bytes + coalesce(octet_length(b1), 0) + coalesce(octet_length(b2), 0) + coalesce(octet_length(b3), 0)
                   + coalesce(octet_length(b4), 0) + coalesce(octet_length(b5), 0);
        EXIT WHEN v_rows >= p_max_rows OR v_bytes >= p_max_bytes;
    END LOOP;
    CLOSE c;
END $$;

CREATE FUNCTION steadfast_golden.sf_feed_append(p_at timestamp with time zone, p_results bigint[], o_key bigint[], o_execution bigint[], e_op integer[], e_event bigint[], e_kind smallint[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    -- Only the table that is written to is locked, so that the other can be truncated. Hence two statements that differ in
    -- nothing but the table, each of which is one insertion for the whole batch.
    IF (SELECT h.filling FROM sf_feed_head h) = 0 THEN
        INSERT INTO sf_feed_pending_0
        SELECT nextval('sf_feed_pending_id'), pg_current_xact_id(), floor(random() * 9e15)::bigint, p_at, i.instance_key,
               i.instance_id, coalesce(o_execution[f.op], i.execution_id), i.orchestration_name, f.event_ids, f.kinds
        FROM (SELECT s.op, array_agg(s.event_id) AS event_ids, array_agg(s.kind) AS kinds
              FROM (SELECT e.op, e.event_id, e.kind
                    FROM unnest(e_op, e_event, e_kind) WITH ORDINALITY AS e(op, event_id, kind, n)
                    WHERE e.kind <> 0 AND coalesce(p_results[e.op], 0) = 0 ORDER BY e.op, e.n) s GROUP BY s.op) f
        JOIN sf_instance i ON i.instance_key = ANY (ARRAY[o_key[f.op]]);
    ELSE
        INSERT INTO sf_feed_pending_1
        SELECT nextval('sf_feed_pending_id'), pg_current_xact_id(), floor(random() * 9e15)::bigint, p_at, i.instance_key,
               i.instance_id, coalesce(o_execution[f.op], i.execution_id), i.orchestration_name, f.event_ids, f.kinds
        FROM (SELECT s.op, array_agg(s.event_id) AS event_ids, array_agg(s.kind) AS kinds
              FROM (SELECT e.op, e.event_id, e.kind
                    FROM unnest(e_op, e_event, e_kind) WITH ORDINALITY AS e(op, event_id, kind, n)
                    WHERE e.kind <> 0 AND coalesce(p_results[e.op], 0) = 0 ORDER BY e.op, e.n) s GROUP BY s.op) f
        JOIN sf_instance i ON i.instance_key = ANY (ARRAY[o_key[f.op]]);
    END IF;
END $$;

CREATE FUNCTION steadfast_golden.sf_feed_assign(p_limit integer, p_rotate_bytes bigint, OUT moved bigint, OUT more boolean, OUT busy boolean) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET enable_hashjoin TO 'on'
    SET enable_seqscan TO 'on'
    AS $$
DECLARE
    v_limit integer := greatest(p_limit, 1);
BEGIN
    moved := 0;
    more := false;
    busy := false;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'sf_feed_assign needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    -- Whatever the caller has committed is seen here, or has been moved. To lock the row is to write: not for nothing.
    IF NOT EXISTS (SELECT FROM sf_feed_pending_0) AND NOT EXISTS (SELECT FROM sf_feed_pending_1) THEN
        RETURN;
    END IF;
    -- In a statement of its own: the next one takes its snapshot when whoever held the lock has committed.
    PERFORM FROM sf_feed_head h FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        busy := true;
        RETURN;
    END IF;
    PERFORM sf_feed_rotate(p_rotate_bytes);
    LOOP
        WITH pending AS (
            SELECT a.pending_id, a.transaction_id FROM sf_feed_pending_0 a
            UNION ALL SELECT b.pending_id, b.transaction_id FROM sf_feed_pending_1 b),
        bound AS MATERIALIZED (
            SELECT (SELECT p.pending_id FROM pending p ORDER BY p.pending_id OFFSET v_limit LIMIT 1) AS pending_id),
        -- A transaction that ends behind the bound waits as a whole.
        later AS MATERIALIZED (
            SELECT DISTINCT p.transaction_id FROM pending p WHERE p.pending_id >= (SELECT b.pending_id FROM bound b)),
        taken_0 AS (
            DELETE FROM sf_feed_pending_0 a
            WHERE (SELECT b.pending_id FROM bound b) IS NULL OR (a.pending_id < (SELECT b.pending_id FROM bound b)
                AND a.transaction_id NOT IN (SELECT l.transaction_id FROM later l)) RETURNING a.*),
        taken_1 AS (
            DELETE FROM sf_feed_pending_1 a
            WHERE (SELECT b.pending_id FROM bound b) IS NULL OR (a.pending_id < (SELECT b.pending_id FROM bound b)
                AND a.transaction_id NOT IN (SELECT l.transaction_id FROM later l)) RETURNING a.*),
        taken AS (
            SELECT t.*, max(t.pending_id) OVER (PARTITION BY t.transaction_id) AS last_id
            FROM (SELECT * FROM taken_0 UNION ALL SELECT * FROM taken_1) t),
        placed AS (
            INSERT INTO sf_feed (last_sequence, mark, at, instance_key, instance_id, execution_id, orchestration_name,
                                 event_ids, kinds)
            SELECT (SELECT coalesce((SELECT f.last_sequence FROM sf_feed f ORDER BY f.last_sequence DESC LIMIT 1),
                                    h.first_sequence - 1) FROM sf_feed_head h)
                   + sum(cardinality(t.kinds)) OVER (ORDER BY t.last_id, t.pending_id),
                   t.mark, t.at, t.instance_key, t.instance_id, t.execution_id, t.orchestration_name,
                   t.event_ids, t.kinds
            FROM taken t RETURNING 1)
        SELECT count(*), (SELECT b.pending_id IS NOT NULL FROM bound b) INTO moved, more FROM placed;
        -- A transaction larger than the bound: wider.
        EXIT WHEN moved > 0 OR NOT more;
        v_limit := v_limit * 2;
    END LOOP;
    -- Readers must not disagree after a crash: not before it is on disk, whatever this server's default.
    IF moved > 0 AND current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
END $$;

CREATE FUNCTION steadfast_golden.sf_feed_commit(p_name text, p_epoch uuid, p_sequence bigint, p_mark bigint) RETURNS bigint
    LANGUAGE sql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
    INSERT INTO sf_feed_cursor AS c (name, epoch, sequence, mark) VALUES (p_name, p_epoch, p_sequence, p_mark)
    ON CONFLICT (name) DO UPDATE SET
        epoch = excluded.epoch,
        sequence = CASE WHEN c.epoch = excluded.epoch THEN greatest(c.sequence, excluded.sequence)
                        ELSE excluded.sequence END,
        mark = CASE WHEN c.epoch = excluded.epoch AND c.sequence > excluded.sequence THEN c.mark ELSE excluded.mark END,
        lost = c.lost AND c.epoch = excluded.epoch AND c.sequence >= excluded.sequence,
        committed_at = clock_timestamp()
    RETURNING sequence
$$;

CREATE FUNCTION steadfast_golden.sf_feed_new_epoch() RETURNS uuid
    LANGUAGE sql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
    UPDATE sf_feed_head SET epoch = gen_random_uuid() RETURNING epoch
$$;

CREATE FUNCTION steadfast_golden.sf_feed_note(p_keys bigint[], p_executions bigint[], p_kind smallint) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_keys       bigint[];
    v_executions bigint[];
BEGIN
    SELECT array_agg(k.key), array_agg(k.execution_id) INTO v_keys, v_executions FROM (
        SELECT u.key, max(u.execution_id) AS execution_id
        FROM unnest(p_keys, p_executions) AS u(key, execution_id)
        JOIN sf_instance i ON i.instance_key = ANY (ARRAY[u.key]) AND i.orchestration_name IS NOT NULL
        GROUP BY u.key) k;
    IF v_keys IS NOT NULL THEN
        PERFORM sf_feed_append(clock_timestamp(), NULL, v_keys, v_executions,
                               ARRAY(SELECT generate_series(1, cardinality(v_keys))),
                               array_fill(0::bigint, ARRAY[cardinality(v_keys)]),
                               array_fill(p_kind, ARRAY[cardinality(v_keys)]));
    END IF;
END $$;

CREATE FUNCTION steadfast_golden.sf_feed_payloads(p_key bigint, p_execution bigint, p_event_ids bigint[]) RETURNS bytea[]
    LANGUAGE plpgsql STABLE
    AS $$
BEGIN
    RETURN ARRAY(
        SELECT e.payload FROM unnest(p_event_ids) WITH ORDINALITY AS u(id, n)
        LEFT JOIN sf_event e ON e.instance_key = p_key AND e.execution_id = p_execution AND e.event_id = u.id
        ORDER BY u.n);
END $$;

CREATE FUNCTION steadfast_golden.sf_feed_read(p_after bigint, p_limit integer, p_instances text[], p_prefix text, p_names bytea[], p_kinds smallint[], p_payload boolean) RETURNS TABLE(epoch uuid, first_sequence bigint, head bigint, pending boolean, standby boolean, mark_after bigint, upto bigint, mark_upto bigint, from_sequence bigint, events bigint, last_sequence bigint, mark bigint, at_ms bigint, instance_id text, execution_id bigint, orchestration_name bytea, event_ids bigint[], kinds smallint[], payloads bytea[])
    LANGUAGE sql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
    WITH h AS MATERIALIZED (
        SELECT h.epoch, h.first_sequence, h.trimmed_mark, coalesce(
                   (SELECT f.last_sequence FROM sf_feed f ORDER BY f.last_sequence DESC LIMIT 1),
                   h.first_sequence - 1) AS head
        FROM sf_feed_head h),
    scanned AS MATERIALIZED (
        SELECT f.* FROM sf_feed f WHERE f.last_sequence > greatest(p_after, (SELECT h.first_sequence - 1 FROM h))
        ORDER BY f.last_sequence LIMIT p_limit),
    stretch AS MATERIALIZED (
        -- Not least() alone: it passes over NULL, and nothing has no end.
        SELECT CASE WHEN count(*) > 0 THEN least(max(s.last_sequence), p_after + p_limit) END AS upto,
               sum(cardinality(s.kinds)) AS events,
               min(s.last_sequence - cardinality(s.kinds) + 1) AS from_sequence FROM scanned s),
    matching AS (
        SELECT s.* FROM scanned s
        WHERE (p_instances IS NULL OR s.instance_id = ANY (p_instances))
          AND (p_prefix IS NULL OR starts_with(s.instance_id, p_prefix))
          AND (p_names IS NULL OR s.orchestration_name = ANY (p_names))
          AND (p_kinds IS NULL OR s.kinds && p_kinds)
          AND s.last_sequence - cardinality(s.kinds) < (SELECT t.upto FROM stretch t))
    SELECT h.epoch, h.first_sequence, h.head,
           EXISTS (SELECT FROM sf_feed_pending_0) OR EXISTS (SELECT FROM sf_feed_pending_1), pg_is_in_recovery(),
           CASE WHEN p_after = h.first_sequence - 1 THEN h.trimmed_mark
                ELSE (SELECT f.mark FROM sf_feed f WHERE f.last_sequence >= p_after
                      ORDER BY f.last_sequence LIMIT 1) END,
           t.upto, (SELECT s.mark FROM scanned s WHERE s.last_sequence >= t.upto ORDER BY s.last_sequence LIMIT 1),
           t.from_sequence, t.events::bigint, m.last_sequence, m.mark, (extract(epoch FROM m.at) * 1000)::bigint,
           m.instance_id, m.execution_id, m.orchestration_name, m.event_ids, m.kinds,
           CASE WHEN p_payload AND m.last_sequence IS NOT NULL
                THEN sf_feed_payloads(m.instance_key, m.execution_id, m.event_ids) END
    FROM h CROSS JOIN stretch t LEFT JOIN matching m ON true
    ORDER BY m.last_sequence
$$;

CREATE FUNCTION steadfast_golden.sf_feed_report(p_name text) RETURNS TABLE(epoch uuid, first_sequence bigint, head bigint, pending bigint, name text, cursor_epoch uuid, sequence bigint, mark bigint, lost boolean, committed_at_ms bigint)
    LANGUAGE sql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
    SELECT h.epoch, h.first_sequence,
           coalesce((SELECT f.last_sequence FROM sf_feed f ORDER BY f.last_sequence DESC LIMIT 1), h.first_sequence - 1),
           (SELECT count(*) FROM sf_feed_pending_0) + (SELECT count(*) FROM sf_feed_pending_1),
           c.name, c.epoch, c.sequence, c.mark, c.lost, (extract(epoch FROM c.committed_at) * 1000)::bigint
    FROM sf_feed_head h LEFT JOIN sf_feed_cursor c ON p_name IS NULL OR c.name = p_name ORDER BY c.name
$$;

CREATE FUNCTION steadfast_golden.sf_feed_rotate(p_bytes bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_filling smallint := (SELECT h.filling FROM sf_feed_head h);
    v_other   smallint := 1 - v_filling;
    v_side    smallint;
    v_table   text;
    v_empty   boolean;
BEGIN
    IF pg_relation_size('sf_feed_pending_' || v_filling) > p_bytes
       AND pg_relation_size('sf_feed_pending_' || v_other) = 0 THEN
        UPDATE sf_feed_head SET filling = v_other;
        RETURN;
    END IF;
    -- The other one first. The one in use only when it has grown: somebody may keep the other locked (a prepared
    -- transaction), and there is no end to that.
    FOREACH v_side IN ARRAY ARRAY[v_other, v_filling] LOOP
        v_table := 'sf_feed_pending_' || v_side;
        CONTINUE WHEN pg_relation_size(v_table) <= CASE v_side WHEN v_other THEN 0 ELSE p_bytes END;
        BEGIN
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE NOWAIT', v_table);
            -- After the lock, in a snapshot of its own: no writer has rows there that are not seen.
            EXECUTE format('SELECT NOT EXISTS (SELECT FROM %I)', v_table) INTO v_empty;
            IF v_empty THEN
                EXECUTE format('TRUNCATE %I', v_table);
            ELSE
                -- Given back at once: writers would wait until everything is moved.
                RAISE lock_not_available;
            END IF;
        -- A role without the right to truncate leaves it to others.
        EXCEPTION WHEN lock_not_available OR insufficient_privilege THEN
            NULL;
        END;
    END LOOP;
END $$;

CREATE FUNCTION steadfast_golden.sf_feed_trim(p_older_ms bigint, p_keep bigint, p_hold bigint, p_limit integer) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_first bigint;
    v_last  bigint;
    v_held  bigint;
    v_upto  bigint;
    v_mark  bigint;
    v_count bigint;
    v_old   timestamptz := clock_timestamp() - p_older_ms * interval '1 millisecond';
BEGIN
    SELECT h.first_sequence INTO v_first FROM sf_feed_head h FOR NO KEY UPDATE;
    v_last := coalesce((SELECT f.last_sequence FROM sf_feed f ORDER BY f.last_sequence DESC LIMIT 1), v_first - 1);
    v_held := (SELECT min(c.sequence) FROM sf_feed_cursor c, sf_feed_head h WHERE NOT c.lost AND c.epoch = h.epoch);
    v_held := greatest(v_held, CASE WHEN v_held IS NOT NULL THEN v_last - p_hold END);
    -- The first row that has to stay ends the stretch.
    SELECT s.last_sequence, s.mark INTO v_upto, v_mark FROM (
        SELECT f.last_sequence, f.mark, bool_and(
                   (v_held IS NULL OR f.last_sequence <= v_held)
                   AND (coalesce(f.at < v_old, false) OR coalesce(f.last_sequence <= v_last - p_keep, false)))
                   OVER (ORDER BY f.last_sequence) AS goes
        FROM (SELECT * FROM sf_feed x WHERE x.last_sequence >= v_first ORDER BY x.last_sequence LIMIT p_limit) f) s
    WHERE s.goes ORDER BY s.last_sequence DESC LIMIT 1;
    IF v_upto IS NULL THEN
        RETURN 0;
    END IF;
    DELETE FROM sf_feed f WHERE f.last_sequence >= v_first AND f.last_sequence <= v_upto;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    UPDATE sf_feed_head SET first_sequence = v_upto + 1, trimmed_mark = v_mark;
    UPDATE sf_feed_cursor c SET lost = true WHERE c.sequence < v_upto AND NOT c.lost;
    RETURN v_count;
END $$;

CREATE FUNCTION steadfast_golden.sf_fetch_orchestration_item(p_batch_id uuid, p_retry boolean, p_claim bigint, p_limit integer, p_lease_ms bigint, p_min_version bigint, p_max_version bigint, p_owner bigint, p_evicted bigint[], p_max_messages integer, p_max_bytes bigint, p_since_us bigint DEFAULT NULL::bigint, p_known bigint[] DEFAULT NULL::bigint[]) RETURNS TABLE(instance_key bigint, instance_id text, orchestration_name bytea, orchestration_version bytea, execution_id bigint, history_revision bigint, last_event_id bigint, cached boolean, attempt_count integer, message_ids bigint[], messages bytea[], events bytea[], kv_keys bytea[], kv_values bytea[], kv_at_ms bigint[], next_due_ms bigint, busy boolean, dropped bigint, since_us bigint, look_us bigint, known bigint[])
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
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

CREATE FUNCTION steadfast_golden.sf_fetch_work_item(p_batch_id uuid, p_retry boolean, p_claim bigint, p_limit integer, p_lease_ms bigint, p_tags bytea[], p_owners bytea[], p_session_lease_ms bigint, p_cache_owner bigint, p_since_us bigint DEFAULT NULL::bigint, p_known bytea[] DEFAULT NULL::bytea[], p_max_bytes bigint DEFAULT 134283264) RETURNS TABLE(instance_key bigint, work_id bigint, instance_id text, execution_id bigint, activity_id bigint, attempt_count integer, owner bytea, in_session boolean, payload bytea, cached boolean, next_due_ms bigint, busy boolean, since_us bigint, look_us bigint, known bytea[])
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
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

CREATE FUNCTION steadfast_golden.sf_get_custom_status(p_instance text[], p_seen bigint[]) RETURNS TABLE(op bigint, custom_status bytea, custom_status_version bigint)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT r.op, i.custom_status, i.custom_status_version
    FROM unnest(p_instance, p_seen) WITH ORDINALITY AS r(instance_id, seen, op)
    JOIN sf_instance i ON i.instance_id = ANY (ARRAY[r.instance_id])
    WHERE i.custom_status_version > r.seen;
END $$;

CREATE FUNCTION steadfast_golden.sf_get_instance_stats(p_instance text) RETURNS TABLE(event_count bigint, event_bytes bigint, kv_count bigint, kv_bytes bigint, first_event bytea)
    LANGUAGE sql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
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

CREATE FUNCTION steadfast_golden.sf_get_kv(p_instance text, p_key_id bytea) RETURNS TABLE(key bytea, value bytea)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
#variable_conflict use_column
BEGIN
    IF p_key_id IS NULL THEN
        RETURN QUERY SELECT v.key, CASE WHEN v.changed THEN v.delta_value ELSE v.base_value END
        FROM sf_instance i JOIN sf_kv v ON v.instance_key = ANY (ARRAY[i.instance_key])
        WHERE i.instance_id = p_instance AND CASE WHEN v.changed THEN v.delta_value ELSE v.base_value END IS NOT NULL;
    ELSE
        RETURN QUERY SELECT v.key, CASE WHEN v.changed THEN v.delta_value ELSE v.base_value END
        FROM sf_instance i JOIN sf_kv v ON v.instance_key = ANY (ARRAY[i.instance_key]) AND v.key_id = p_key_id
        WHERE i.instance_id = p_instance AND CASE WHEN v.changed THEN v.delta_value ELSE v.base_value END IS NOT NULL;
    END IF;
END $$;

CREATE FUNCTION steadfast_golden.sf_handed_work(p_claim bigint, p_limit integer, p_keys bigint[], p_cache_owner bigint) RETURNS TABLE(instance_key bigint, work_id bigint, instance_id text, execution_id bigint, activity_id bigint, attempt_count integer, owner bytea, in_session boolean, payload bytea, cached boolean, next_due_ms bigint, busy boolean)
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT w.instance_key, w.work_id, i.instance_id, w.execution_id, w.activity_id, w.attempt_count, NULL::bytea,
           false, w.payload, coalesce(i.cache_owner = p_cache_owner, false), NULL::bigint, false
    FROM unnest(p_keys) AS k(id)
    JOIN sf_work w ON w.instance_key = ANY (ARRAY[k.id])
    JOIN sf_instance i ON i.instance_key = ANY (ARRAY[k.id])
    WHERE w.claim = p_claim ORDER BY w.work_id LIMIT p_limit;
END $$;

CREATE FUNCTION steadfast_golden.sf_history_changed() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS $$
BEGIN
    UPDATE sf_instance i SET history_revision = i.history_revision + 1, cache_owner = NULL
    FROM (SELECT DISTINCT c.instance_key FROM changed c ORDER BY c.instance_key) d CROSS JOIN LATERAL (
          SELECT l.instance_key FROM sf_instance l WHERE l.instance_key = d.instance_key FOR NO KEY UPDATE) k
    WHERE i.instance_key = ANY (ARRAY[k.instance_key]);
    RETURN NULL;
END $$;

CREATE FUNCTION steadfast_golden.sf_history_size(p_instance text, p_execution bigint) RETURNS TABLE(bytes bigint)
    LANGUAGE sql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
    SELECT coalesce((SELECT sum(octet_length(e.payload)) FROM sf_event e
                     WHERE e.instance_key = i.instance_key AND e.execution_id = p_execution), 0)::bigint
    FROM sf_instance i WHERE i.instance_id = p_instance
$$;

CREATE FUNCTION steadfast_golden.sf_hold_messages(p_batch_id uuid, p_retain_ms bigint, p_key bigint, p_claim bigint, m_id bigint[], m_queue bytea[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, 1);
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    PERFORM FROM sf_instance i WHERE i.instance_key = p_key FOR NO KEY UPDATE;
    IF NOT EXISTS (SELECT FROM sf_turn t WHERE t.instance_key = p_key AND t.claim = p_claim) THEN
        v_results := ARRAY[1];
    ELSE
        WITH gone AS (
            DELETE FROM sf_message s USING unnest(m_id, m_queue) AS u(message_id, queue)
            WHERE u.queue IS NOT NULL AND s.instance_key = p_key AND s.message_id = u.message_id AND s.claim = p_claim
            RETURNING s.message_id, u.queue, s.visible_at, s.attempt_count, s.kind, s.payload)
        INSERT INTO sf_held (instance_key, message_id, queue, visible_at, attempt_count, kind, payload)
        SELECT p_key, g.message_id, g.queue, g.visible_at, greatest(0, g.attempt_count - 1), g.kind, g.payload FROM gone g;
        UPDATE sf_message s SET claim = NULL, attempt_count = greatest(0, s.attempt_count - 1)
        FROM unnest(m_id, m_queue) AS u(message_id, queue)
        WHERE u.queue IS NULL AND s.instance_key = p_key AND s.message_id = u.message_id AND s.claim = p_claim;
        IF (SELECT true FROM sf_message s WHERE s.instance_key = p_key AND s.claim = p_claim LIMIT 1) IS NULL THEN
            PERFORM sf_turn_reschedule(ARRAY[p_key], clock_timestamp());
        END IF;
        v_results := ARRAY[0];
    END IF;
    PERFORM sf_batch_close(p_batch_id, false, v_results);
    RETURN v_results;
END $$;

CREATE FUNCTION steadfast_golden.sf_inbox_head(p_now timestamp with time zone, p_page integer, p_want integer, p_min_version bigint, p_max_version bigint, p_after_at timestamp with time zone, p_after_id bigint, p_except text[], OUT rows_seen bigint, OUT last_at timestamp with time zone, OUT last_id bigint, OUT ready text[], OUT ready_new text[], OUT dropped bigint) RETURNS record
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION steadfast_golden.sf_inbox_park(p_now timestamp with time zone, p_since timestamp with time zone, p_page integer, p_min_version bigint, p_max_version bigint) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION steadfast_golden.sf_insert_work(p_now timestamp with time zone, p_results bigint[], o_key bigint[], w_op integer[], w_instance text[], w_execution bigint[], w_activity bigint[], w_tag bytea[], w_session bytea[], w_payload bytea[], p_claim bigint, p_limit integer, p_lease_ms bigint, p_tags bytea[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_keys     bigint[];
    v_sessions bytea[];
BEGIN
    IF array_remove(w_instance, NULL) <> '{}' THEN
        -- Activities of an instance that has no row yet (only tests and tools queue those) hang on a new one.
        INSERT INTO sf_instance (instance_id)
        SELECT DISTINCT w.instance_id FROM unnest(w_op, w_instance) AS w(op, instance_id)
        WHERE w.instance_id IS NOT NULL AND p_results[w.op] = 0
          AND (SELECT true FROM sf_instance i WHERE i.instance_id = w.instance_id) IS NULL
        ORDER BY w.instance_id ON CONFLICT DO NOTHING;
        v_keys := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_id = ANY (w_instance)
                        ORDER BY i.instance_key + 0 FOR KEY SHARE);
        IF EXISTS (SELECT FROM unnest(w_op, w_instance) AS w(op, instance_id)
                   WHERE w.instance_id IS NOT NULL AND p_results[w.op] = 0
                     AND (SELECT i.instance_key = ANY (v_keys) FROM sf_instance i
                          WHERE i.instance_id = w.instance_id) IS NOT TRUE) THEN
            RAISE EXCEPTION 'an instance was deleted meanwhile' USING ERRCODE = 'serialization_failure';
        END IF;
    END IF;
    IF array_remove(w_session, NULL) <> '{}' THEN
        v_sessions := ARRAY(SELECT DISTINCT w.session_key FROM unnest(w_op, w_session) AS w(op, session_key)
                            WHERE w.session_key IS NOT NULL AND p_results[w.op] = 0);
        INSERT INTO sf_session (session_key) SELECT u.s FROM unnest(v_sessions) AS u(s) ORDER BY u.s
        ON CONFLICT DO NOTHING;
        IF cardinality(v_sessions) > cardinality(ARRAY(
               SELECT s.session_key FROM sf_session s WHERE s.session_key = ANY (v_sessions)
               ORDER BY s.session_key FOR KEY SHARE)) THEN
            RAISE EXCEPTION 'a session was swept meanwhile' USING ERRCODE = 'serialization_failure';
        END IF;
    END IF;
    INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, session_key, available_at, claim, leased_at,
                         lease_ms, attempt_count, payload)
    SELECT coalesce(i.instance_key, o_key[w.op]), w.execution_id, w.activity_id, w.tag, w.session_key,
           CASE WHEN h.handed THEN p_now + p_lease_ms * interval '1 millisecond' ELSE p_now END,
           CASE WHEN h.handed THEN p_claim ELSE 0 END, CASE WHEN h.handed THEN p_now END,
           CASE WHEN h.handed THEN p_lease_ms END, CASE WHEN h.handed THEN 1 ELSE 0 END, w.payload
    FROM unnest(w_op, w_instance, w_execution, w_activity, w_tag, w_session, w_payload) WITH ORDINALITY
         AS w(op, instance_id, execution_id, activity_id, tag, session_key, payload, n)
    LEFT JOIN sf_instance i ON i.instance_id = ANY (ARRAY[w.instance_id])
    CROSS JOIN LATERAL (SELECT p_claim IS NOT NULL AND w.n <= p_limit AND w.session_key IS NULL
                               AND w.instance_id IS NULL AND (p_tags IS NULL OR w.tag = ANY (p_tags)) AS handed) h
    WHERE p_results[w.op] = 0 ORDER BY w.n;
END $$;

CREATE FUNCTION steadfast_golden.sf_instance_detail(p_instance text) RETURNS TABLE(instance_key bigint, orchestration_name bytea, orchestration_version bytea, execution_id bigint, status text, output bytea, parent_instance_id text, created_ms bigint, updated_ms bigint, custom_status bytea, custom_status_version bigint, replay_version bigint, routed bigint, lease_ms_left bigint)
    LANGUAGE sql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
    SELECT i.instance_key, i.orchestration_name, i.orchestration_version, i.execution_id, i.status, x.output,
           i.parent_instance_id, floor(extract(epoch FROM i.created_at) * 1000)::bigint,
           floor(extract(epoch FROM i.updated_at) * 1000)::bigint, i.custom_status, i.custom_status_version,
           i.replay_version,
           (SELECT count(*) FROM sf_message s WHERE s.instance_key = i.instance_key)
             + (SELECT count(*) FROM sf_held h WHERE h.instance_key = i.instance_key)
             + (SELECT count(*) FROM sf_inbox s WHERE s.instance_id = i.instance_id),
           (SELECT ceil(extract(epoch FROM t.available_at - clock_timestamp()) * 1000)::bigint FROM sf_turn t
            WHERE t.instance_key = i.instance_key AND t.claim > 0)
    FROM sf_instance i
    LEFT JOIN sf_execution x ON x.instance_key = i.instance_key AND x.execution_id = i.execution_id
    WHERE i.instance_id = p_instance AND i.orchestration_name IS NOT NULL
$$;

CREATE FUNCTION steadfast_golden.sf_isolate(p_now timestamp with time zone, p_claim bigint, c_key bigint[], c_work bigint[], c_ended bigint[], c_lease_ms bigint[]) RETURNS TABLE(instance_key bigint, work_id bigint, off_until timestamp with time zone, unspent boolean)
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    v_claimer bigint := p_claim >> 32;
    v_ms      interval := interval '1 millisecond';
    v_one     bigint;              -- place of the suspect that is let through
BEGIN
    INSERT INTO sf_suspect AS s (instance_key, work_id, expired)
    SELECT c.key, c.work_id, 1 FROM unnest(c_key, c_work, c_ended) AS c(key, work_id, ended)
    WHERE c.ended > 0 ORDER BY c.key, c.work_id
    ON CONFLICT (instance_key, work_id) DO UPDATE SET expired = s.expired + 1;

    SELECT c.n INTO v_one FROM unnest(c_key, c_work, c_ended) WITH ORDINALITY AS c(key, work_id, ended, n)
    JOIN sf_suspect s ON s.instance_key = ANY (ARRAY[c.key]) AND s.work_id = c.work_id
    WHERE s.expired >= 3 AND (c.ended > 0) IS NOT TRUE ORDER BY c.n LIMIT 1;
    IF v_one IS NOT NULL AND (
        NOT pg_try_advisory_xact_lock(hashtextextended('sf_isolated', v_claimer))
        OR EXISTS (SELECT FROM sf_isolated i WHERE i.claimer = v_claimer AND i.alone_until > p_now AND coalesce(
               (SELECT true FROM sf_turn t WHERE i.work_id = 0 AND t.instance_key = i.instance_key AND t.claim = i.claim
                   AND t.available_at > p_now),
               (SELECT true FROM sf_work w WHERE w.instance_key = i.instance_key AND w.work_id = i.work_id
                   AND w.claim = i.claim AND w.available_at > p_now), false))) THEN
        v_one := NULL;
    END IF;
    IF v_one IS NOT NULL THEN
        INSERT INTO sf_isolated AS i (claimer, instance_key, work_id, claim, alone_until)
        SELECT v_claimer, s.instance_key, s.work_id, p_claim,
               p_now + least(300000, greatest(c_lease_ms[v_one], 10000) * 2.0 ^ least(s.expired - 3, 20)) * v_ms
        FROM sf_suspect s WHERE s.instance_key = c_key[v_one] AND s.work_id = c_work[v_one]
        ON CONFLICT (claimer) DO UPDATE SET instance_key = excluded.instance_key, work_id = excluded.work_id,
               claim = excluded.claim, alone_until = excluded.alone_until;
    END IF;
    RETURN QUERY
    SELECT d.key, d.work_id, d.off_until, d.unspent FROM (
        SELECT c.key, c.work_id,
               CASE WHEN s.expired < 3 THEN NULL
                    WHEN c.ended > 0 THEN p_now + v_ms * (0.5 + random() / 2)
                         * least(300000, greatest(c.lease_ms, 100) * 2.0 ^ least(s.expired - 6, 20))
                    WHEN c.n IS DISTINCT FROM v_one THEN p_now + v_ms * (500 + 500 * random()) END AS off_until,
               coalesce(c.ended > 0 AND s.expired <= 3 AND EXISTS (
                   SELECT FROM sf_isolated i JOIN sf_suspect x ON x.instance_key = i.instance_key AND x.work_id = i.work_id
                   WHERE i.claimer = c.ended >> 32 AND (i.instance_key, i.work_id) <> (c.key, c.work_id)), false) AS unspent
        FROM unnest(c_key, c_work, c_ended, c_lease_ms) WITH ORDINALITY AS c(key, work_id, ended, lease_ms, n)
        JOIN sf_suspect s ON s.instance_key = ANY (ARRAY[c.key]) AND s.work_id = c.work_id) d
    WHERE d.off_until IS NOT NULL OR d.unspent;

    IF random() < 0.03 THEN
        -- What was cancelled or deleted leaves its row behind, and who has died, his. Both tables are small.
        DELETE FROM sf_suspect s WHERE s.ctid = ANY (ARRAY(
            SELECT x.ctid FROM sf_suspect x
            WHERE x.instance_key >= 0
              AND CASE WHEN x.work_id = 0 THEN (SELECT true FROM sf_turn t WHERE t.instance_key = x.instance_key)
                       ELSE (SELECT true FROM sf_work w WHERE w.instance_key = x.instance_key AND w.work_id = x.work_id)
                  END IS NULL
            ORDER BY x.instance_key, x.work_id LIMIT 64 FOR UPDATE SKIP LOCKED));
        DELETE FROM sf_isolated i WHERE i.ctid = ANY (ARRAY(
            SELECT x.ctid FROM sf_isolated x WHERE x.claimer >= 0 AND x.alone_until < p_now - interval '1 day'
            ORDER BY x.claimer LIMIT 64 FOR UPDATE SKIP LOCKED));
    END IF;
END $$;

CREATE FUNCTION steadfast_golden.sf_isolate_turns(p_now timestamp with time zone, p_claim bigint, p_keys bigint[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
DECLARE
    v_keys    bigint[];
    v_ended   bigint[];
    v_leases  bigint[];
    v_off     bigint[];
    v_until   timestamptz[];
    v_unspent bigint[];
BEGIN
    SELECT array_agg(t.instance_key ORDER BY t.instance_key), array_agg(t.superseded ORDER BY t.instance_key),
           array_agg(coalesce(t.superseded_ms, t.lease_ms) ORDER BY t.instance_key)
      INTO v_keys, v_ended, v_leases FROM sf_turn t WHERE t.instance_key = ANY (p_keys);
    SELECT coalesce(array_agg(d.instance_key) FILTER (WHERE d.off_until IS NOT NULL), '{}'),
           array_agg(d.off_until) FILTER (WHERE d.off_until IS NOT NULL),
           coalesce(array_agg(d.instance_key) FILTER (WHERE d.unspent), '{}')
      INTO v_off, v_until, v_unspent
      FROM sf_isolate(p_now, p_claim, v_keys, array_fill(0::bigint, ARRAY[cardinality(v_keys)]), v_ended, v_leases) d;
    UPDATE sf_message s
       SET attempt_count = CASE WHEN s.instance_key = ANY (v_unspent) THEN greatest(0, s.attempt_count - 1)
                                ELSE s.attempt_count END,
           claim = CASE WHEN s.instance_key = ANY (v_off) THEN NULL ELSE s.claim END
    FROM unnest(v_keys, v_ended) AS c(key, ended)
    WHERE c.ended > 0 AND c.key = ANY (v_off || v_unspent)
      AND s.instance_key = ANY (ARRAY[c.key]) AND s.claim = c.ended;
    UPDATE sf_turn t SET claim = -1, available_at = o.until,
           lease_ms = coalesce(t.superseded_ms, t.lease_ms)
    FROM unnest(v_off, v_until) AS o(key, until) WHERE t.instance_key = ANY (ARRAY[o.key]);
    RETURN ARRAY(SELECT k.id FROM unnest(p_keys) AS k(id) WHERE NOT k.id = ANY (v_off));
END $$;

CREATE FUNCTION steadfast_golden.sf_isolate_work(p_now timestamp with time zone, p_claim bigint, p_keys bigint[], p_works bigint[], p_owners bytea[], OUT keys bigint[], OUT works bigint[], OUT owners bytea[]) RETURNS record
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
DECLARE
    v_ended  bigint[];
    v_leases bigint[];
    v_off    bigint[];
BEGIN
    SELECT array_agg(w.claim ORDER BY c.n), array_agg(coalesce(w.lease_ms, 0) ORDER BY c.n) INTO v_ended, v_leases
    FROM unnest(p_keys, p_works) WITH ORDINALITY AS c(key, work_id, n)
    JOIN sf_work w ON w.instance_key = ANY (ARRAY[c.key]) AND w.work_id = c.work_id;
    WITH judged AS MATERIALIZED (
        SELECT * FROM sf_isolate(p_now, p_claim, p_keys, p_works, v_ended, v_leases)
    ), changed AS (
        -- Put off, it is as if it had been given back with a delay.
        UPDATE sf_work w
           SET claim = CASE WHEN j.off_until IS NULL THEN w.claim ELSE 0 END,
               available_at = coalesce(j.off_until, w.available_at),
               attempt_count = CASE WHEN j.unspent THEN greatest(0, w.attempt_count - 1) ELSE w.attempt_count END
        FROM judged j WHERE w.instance_key = ANY (ARRAY[j.instance_key]) AND w.work_id = j.work_id)
    SELECT coalesce(array_agg(j.work_id) FILTER (WHERE j.off_until IS NOT NULL), '{}') INTO v_off FROM judged j;
    SELECT array_agg(c.key ORDER BY c.n), array_agg(c.work_id ORDER BY c.n), array_agg(c.owner ORDER BY c.n)
      INTO keys, works, owners
      FROM unnest(p_keys, p_works, p_owners) WITH ORDINALITY AS c(key, work_id, owner, n)
     WHERE NOT c.work_id = ANY (v_off);
END $$;

CREATE FUNCTION steadfast_golden.sf_list_children(p_instance text, p_deep boolean) RETURNS TABLE(instance_id text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
#variable_conflict use_column
BEGIN
    IF NOT p_deep THEN
        RETURN QUERY SELECT i.instance_id FROM sf_instance i WHERE i.parent_instance_id = p_instance
        ORDER BY i.instance_key;
    ELSE
        RETURN QUERY
        WITH RECURSIVE tree(id, depth, key) AS (
            SELECT p_instance COLLATE "C", 0, 0::bigint
            UNION
            SELECT c.instance_id, t.depth + 1, c.instance_key
            FROM tree t JOIN sf_instance c ON c.parent_instance_id = t.id)
        SELECT t.id FROM tree t ORDER BY t.depth, t.key;
    END IF;
END $$;

CREATE FUNCTION steadfast_golden.sf_list_executions(p_instance text, p_execution bigint, p_count boolean) RETURNS TABLE(execution_id bigint, status text, output bytea, started_ms bigint, completed_ms bigint, event_count bigint)
    LANGUAGE sql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
    SELECT x.execution_id, x.status, x.output, floor(extract(epoch FROM x.started_at) * 1000)::bigint,
           floor(extract(epoch FROM x.completed_at) * 1000)::bigint,
           CASE WHEN p_count THEN (SELECT count(*) FROM sf_event e
                                   WHERE e.instance_key = x.instance_key AND e.execution_id = x.execution_id) END
    FROM sf_instance i JOIN sf_execution x ON x.instance_key = i.instance_key
    WHERE i.instance_id = p_instance AND (p_execution IS NULL OR x.execution_id = p_execution)
    ORDER BY x.execution_id
$$;

CREATE FUNCTION steadfast_golden.sf_list_instances(p_status text, p_name bytea, p_prefix text, p_before_key bigint, p_limit bigint) RETURNS TABLE(instance_key bigint, instance_id text, orchestration_name bytea, orchestration_version bytea, execution_id bigint, status text, parent_instance_id text, created_ms bigint, updated_ms bigint)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT i.instance_key, i.instance_id, i.orchestration_name, i.orchestration_version, i.execution_id, i.status,
           i.parent_instance_id, floor(extract(epoch FROM i.created_at) * 1000)::bigint,
           floor(extract(epoch FROM i.updated_at) * 1000)::bigint
    FROM sf_instance i
    WHERE i.orchestration_name IS NOT NULL
      AND (p_status IS NULL OR i.status = p_status)
      AND (p_name IS NULL OR i.orchestration_name = p_name)
      AND (p_prefix IS NULL OR starts_with(i.instance_id, p_prefix))
      AND (p_before_key IS NULL OR i.instance_key < p_before_key)
    ORDER BY i.instance_key DESC LIMIT p_limit;
END $$;

CREATE FUNCTION steadfast_golden.sf_lock_cancelled(p_wait boolean, o_key bigint[], c_op integer[], c_instance text[], c_execution bigint[], c_activity bigint[]) RETURNS integer[]
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_wanted bigint[];
    v_ops    integer[];
    v_locked bigint[];
BEGIN
    SELECT array_agg(w.work_id), array_agg(d.op) INTO v_wanted, v_ops
    FROM (SELECT c.op, coalesce(i.instance_key, o_key[c.op]) AS key, c.execution_id, c.activity_id
          FROM unnest(c_op, c_instance, c_execution, c_activity) AS c(op, instance_id, execution_id, activity_id)
          LEFT JOIN sf_instance i ON i.instance_id = ANY (ARRAY[c.instance_id])) d
    JOIN sf_work w ON w.instance_key = ANY (ARRAY[d.key]) AND w.execution_id = d.execution_id AND w.activity_id = d.activity_id;
    IF v_wanted IS NULL THEN
        RETURN '{}';
    END IF;
    IF p_wait THEN
        PERFORM FROM sf_work w WHERE w.instance_key = ANY (o_key) AND w.work_id = ANY (v_wanted)
        ORDER BY w.instance_key, w.work_id FOR UPDATE;
        RETURN '{}';
    END IF;
    v_locked := ARRAY(SELECT w.work_id FROM sf_work w WHERE w.instance_key = ANY (o_key) AND w.work_id = ANY (v_wanted)
                      ORDER BY w.instance_key, w.work_id FOR UPDATE SKIP LOCKED);
    RETURN ARRAY(SELECT DISTINCT u.op FROM unnest(v_wanted, v_ops) AS u(work_id, op)
                 WHERE NOT u.work_id = ANY (v_locked));
END $$;

CREATE FUNCTION steadfast_golden.sf_lock_work(p_wait boolean, o_key bigint[], o_work bigint[]) RETURNS bigint[]
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF p_wait THEN
        PERFORM set_config('lock_timeout', '2s', true);
        RETURN ARRAY(SELECT w.work_id FROM unnest(o_key, o_work) AS o(key, work_id)
                     JOIN sf_work w ON w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
                     ORDER BY o.key, o.work_id FOR UPDATE OF w);
    END IF;
    RETURN ARRAY(SELECT w.work_id FROM unnest(o_key, o_work) AS o(key, work_id)
                 JOIN sf_work w ON w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
                 ORDER BY o.key, o.work_id FOR UPDATE OF w SKIP LOCKED);
END $$;

CREATE FUNCTION steadfast_golden.sf_look_ahead(p_now timestamp with time zone, p_upto timestamp with time zone, p_begun timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF p_upto <= p_now THEN
        RETURN p_now + interval '100 milliseconds';
    ELSIF p_upto > p_now + interval '10 seconds' OR clock_timestamp() - p_begun > interval '500 microseconds' THEN
        RETURN NULL;
    END IF;
    RETURN p_now + 2 * (p_upto - p_now);
END $$;

CREATE FUNCTION steadfast_golden.sf_look_read(p_work boolean) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF p_work THEN
        RETURN pg_stat_get_xact_tuples_returned('sf_work_due'::regclass)
             + pg_stat_get_xact_blocks_fetched('sf_work_due'::regclass) * 5;
    END IF;
    RETURN pg_stat_get_xact_tuples_returned('sf_turn_due'::regclass)
         + pg_stat_get_xact_blocks_fetched('sf_turn_due'::regclass) * 5
         + pg_stat_get_xact_tuples_returned('sf_inbox_due'::regclass)
         + pg_stat_get_xact_blocks_fetched('sf_inbox_due'::regclass) * 5;
END $$;

CREATE FUNCTION steadfast_golden.sf_look_recent(p_now timestamp with time zone) RETURNS timestamp with time zone
    LANGUAGE sql STABLE
    AS $$ SELECT p_now - interval '200 milliseconds' $$;

CREATE FUNCTION steadfast_golden.sf_look_since(p_now timestamp with time zone, p_since_us bigint) RETURNS timestamp with time zone
    LANGUAGE plpgsql STABLE
    AS $$
BEGIN
    IF p_since_us IS NULL OR p_since_us <= 0 THEN
        RETURN '-infinity';
    END IF;
    RETURN least(timestamptz 'epoch' + p_since_us * interval '1 microsecond', sf_look_recent(p_now));
END $$;

CREATE FUNCTION steadfast_golden.sf_pending_instances(p_instance text, p_prefix text, p_before bigint, p_limit bigint, p_bytes integer) RETURNS TABLE(message_id bigint, instance_id text, payload bytea, sent_ms bigint, touched_ms bigint, waiting bigint, lease_ms_left bigint)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
#variable_conflict use_column
BEGIN
    IF p_instance IS NOT NULL THEN
        RETURN QUERY
        SELECT s.message_id, p_instance, substring(s.payload FROM 1 FOR p_bytes),
               floor(extract(epoch FROM s.at) * 1000)::bigint,
               floor(extract(epoch FROM coalesce(i.updated_at, s.at)) * 1000)::bigint,
               (SELECT count(*) FROM sf_message m WHERE m.instance_key = i.instance_key)
                 + (SELECT count(*) FROM sf_inbox m WHERE m.instance_id = p_instance),
               (SELECT ceil(extract(epoch FROM t.available_at - clock_timestamp()) * 1000)::bigint FROM sf_turn t
                WHERE t.instance_key = i.instance_key AND t.claim IS NOT NULL)
        FROM (SELECT x.message_id, x.payload, coalesce(x.sent_at, x.visible_at) AS at FROM sf_inbox x
              WHERE x.instance_id = p_instance AND x.kind IN (1, 2) AND x.kind = 1
              UNION ALL
              SELECT m.message_id, m.payload, n.created_at FROM sf_instance n
              JOIN sf_message m ON m.instance_key = n.instance_key
              WHERE n.instance_id = p_instance AND m.kind IN (1, 2) AND m.kind = 1) s
        LEFT JOIN sf_instance i ON i.instance_id = p_instance
        WHERE i.orchestration_name IS NULL ORDER BY s.message_id LIMIT 1;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT s.message_id, s.instance_id, substring(s.payload FROM 1 FOR p_bytes),
           floor(extract(epoch FROM s.at) * 1000)::bigint, floor(extract(epoch FROM s.touched) * 1000)::bigint,
           0::bigint, NULL::bigint
    FROM (
        (SELECT x.message_id, x.instance_id, x.payload, coalesce(x.sent_at, x.visible_at) AS at,
                coalesce(x.sent_at, x.visible_at) AS touched
         FROM sf_inbox x LEFT JOIN sf_instance i ON i.instance_id = x.instance_id
         WHERE x.kind = 1 AND (p_before IS NULL OR x.message_id < p_before)
           AND (p_prefix IS NULL OR starts_with(x.instance_id, p_prefix)) AND i.orchestration_name IS NULL
           AND (SELECT true FROM sf_inbox y WHERE y.instance_id = x.instance_id AND y.kind IN (1, 2) AND y.kind = 1
                   AND y.message_id < x.message_id LIMIT 1) IS NULL
           AND (SELECT true FROM sf_message m WHERE m.instance_key = i.instance_key AND m.kind IN (1, 2) AND m.kind = 1
                LIMIT 1) IS NULL
         ORDER BY x.message_id DESC LIMIT p_limit)
        UNION ALL
        (SELECT m.message_id, i.instance_id, m.payload, i.created_at, i.updated_at
         FROM sf_message m JOIN sf_instance i ON i.instance_key = m.instance_key
         WHERE m.kind = 1 AND (p_before IS NULL OR m.message_id < p_before)
           AND (p_prefix IS NULL OR starts_with(i.instance_id, p_prefix)) AND i.orchestration_name IS NULL
           AND (SELECT true FROM sf_message y WHERE y.instance_key = m.instance_key AND y.kind IN (1, 2) AND y.kind = 1
                   AND y.message_id < m.message_id LIMIT 1) IS NULL
         ORDER BY m.message_id DESC LIMIT p_limit)) s
    ORDER BY s.message_id DESC LIMIT p_limit;
END $$;

CREATE FUNCTION steadfast_golden.sf_poll_due() RETURNS TABLE(turn_due_ms bigint, work_due_ms bigint)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    RETURN QUERY SELECT
        (SELECT ceil(extract(epoch FROM CASE WHEN min(d.at) < v_now THEN v_now ELSE min(d.at) END - v_now) * 1000)::bigint FROM (
            (SELECT x.visible_at AS at FROM sf_inbox x ORDER BY x.visible_at LIMIT 1)
            UNION ALL
            SELECT l.head_at FROM sf_turn_heads(NULL, NULL, NULL) l) d),
        (SELECT ceil(extract(epoch FROM CASE WHEN min(d.at) < v_now THEN v_now ELSE min(d.at) END - v_now) * 1000)::bigint FROM (
            SELECT c.available_at AS at FROM sf_work_tags(NULL) g CROSS JOIN LATERAL (
                SELECT w.available_at FROM sf_work w WHERE w.session_key IS NULL AND w.tag = g.tag
                ORDER BY w.available_at LIMIT 1) c
            UNION ALL
            -- Whose sessions are whose is for a claim to find out.
            (SELECT v_now FROM sf_work w WHERE w.session_key IS NOT NULL LIMIT 1)) d);
END $$;

CREATE FUNCTION steadfast_golden.sf_poll_waiting() RETURNS TABLE(turn_due_ms bigint, work_due_ms bigint, feed_pending boolean)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    RETURN QUERY SELECT
        (SELECT ceil(extract(epoch FROM CASE WHEN min(d.at) < v_now THEN v_now ELSE min(d.at) END - v_now) * 1000)::bigint FROM (
            (SELECT x.visible_at AS at FROM sf_inbox x ORDER BY x.visible_at LIMIT 1)
            UNION ALL
            SELECT l.head_at FROM sf_turn_heads(NULL, NULL, NULL) l) d),
        (SELECT ceil(extract(epoch FROM CASE WHEN min(d.at) < v_now THEN v_now ELSE min(d.at) END - v_now) * 1000)::bigint FROM (
            SELECT c.available_at AS at FROM sf_work_tags(NULL) g CROSS JOIN LATERAL (
                SELECT w.available_at FROM sf_work w WHERE w.session_key IS NULL AND w.tag = g.tag
                ORDER BY w.available_at LIMIT 1) c
            UNION ALL
            -- Whose sessions are whose is for a claim to find out.
            (SELECT v_now FROM sf_work w WHERE w.session_key IS NOT NULL LIMIT 1)) d),
        EXISTS (SELECT FROM sf_feed_pending_0) OR EXISTS (SELECT FROM sf_feed_pending_1);
END $$;

CREATE FUNCTION steadfast_golden.sf_prunable_instances(p_instances text[], p_filter_completed_before_ms bigint, p_limit bigint) RETURNS TABLE(instance_id text)
    LANGUAGE sql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
    SELECT i.instance_id FROM sf_instance i
    WHERE i.orchestration_name IS NOT NULL
      AND (p_instances IS NULL OR i.instance_id = ANY (p_instances))
      AND (p_filter_completed_before_ms IS NULL OR EXISTS (
            SELECT FROM sf_execution x WHERE x.instance_key = i.instance_key
               AND x.completed_at < to_timestamp(p_filter_completed_before_ms / 1000.0)))
    ORDER BY i.instance_key LIMIT p_limit
$$;

CREATE FUNCTION steadfast_golden.sf_prune_executions(p_batch_id uuid, p_retain_ms bigint, p_instances text[], p_keep_last bigint, p_completed_before_ms bigint, p_feed boolean) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, 3);
    v_keys    bigint[];
    v_doomed  bigint[];
    v_ids     bigint[];
    v_events  bigint;
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    v_keys := ARRAY(SELECT i.instance_key FROM sf_instance i
                    WHERE i.instance_id = ANY (p_instances) AND i.orchestration_name IS NOT NULL
                    ORDER BY i.instance_key + 0 FOR NO KEY UPDATE);
    SELECT array_agg(d.instance_key), array_agg(d.execution_id) INTO v_doomed, v_ids FROM (
        SELECT x.instance_key, x.execution_id, x.status, x.completed_at, i.execution_id AS current_id,
               row_number() OVER (PARTITION BY k.id ORDER BY x.execution_id DESC) AS place
        FROM unnest(v_keys) AS k(id) JOIN sf_instance i ON i.instance_key = ANY (ARRAY[k.id])
        JOIN sf_execution x ON x.instance_key = ANY (ARRAY[k.id])) d
    WHERE d.execution_id <> d.current_id AND d.status <> 'Running'
      AND (p_keep_last IS NULL OR d.place > p_keep_last)
      AND (p_completed_before_ms IS NULL OR d.completed_at < to_timestamp(p_completed_before_ms / 1000.0));
    DELETE FROM sf_event e USING unnest(v_doomed, v_ids) AS d(key, execution_id)
    WHERE e.instance_key = ANY (ARRAY[d.key]) AND e.execution_id = d.execution_id;
    GET DIAGNOSTICS v_events = ROW_COUNT;
    DELETE FROM sf_execution x USING unnest(v_doomed, v_ids) AS d(key, execution_id)
    WHERE x.instance_key = ANY (ARRAY[d.key]) AND x.execution_id = d.execution_id;
    IF p_feed THEN PERFORM sf_feed_note(v_doomed, v_ids, 81::smallint); END IF;
    v_results := ARRAY[cardinality(v_keys), coalesce(cardinality(v_ids), 0), v_events];
    PERFORM sf_batch_close(p_batch_id, false, v_results);
    RETURN v_results;
END $$;

CREATE FUNCTION steadfast_golden.sf_quarantine_messages(p_batch_id uuid, p_retain_ms bigint, p_key bigint, p_claim bigint, p_messages bigint[], p_errors text[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
DECLARE
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, 1);
    v_id      text;
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    SELECT i.instance_id INTO v_id FROM sf_instance i WHERE i.instance_key = p_key FOR NO KEY UPDATE;
    IF NOT EXISTS (SELECT FROM sf_turn t WHERE t.instance_key = p_key AND t.claim = p_claim) THEN
        v_results := ARRAY[1];
    ELSE
        WITH gone AS (
            DELETE FROM sf_message s USING unnest(p_messages, p_errors) AS u(message_id, error)
            WHERE s.instance_key = p_key AND s.message_id = u.message_id AND s.claim = p_claim
            RETURNING u.error, s.payload)
        INSERT INTO sf_quarantine (queue, instance_id, error, payload)
        SELECT 'orchestrator', v_id, g.error, g.payload FROM gone g;
        IF NOT EXISTS (SELECT FROM sf_message s WHERE s.instance_key = p_key AND s.claim = p_claim) THEN
            PERFORM sf_turn_reschedule(ARRAY[p_key], clock_timestamp());
        END IF;
        v_results := ARRAY[0];
    END IF;
    PERFORM sf_batch_close(p_batch_id, false, v_results);
    RETURN v_results;
END $$;

CREATE FUNCTION steadfast_golden.sf_quarantine_work_item(p_batch_id uuid, p_retain_ms bigint, p_key bigint, p_work bigint, p_claim bigint, p_error text, m_kind smallint, m_payload bytea) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET enable_seqscan TO 'off'
    AS $$
DECLARE
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, 1);
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    WITH gone AS (
        DELETE FROM sf_work w WHERE w.instance_key = p_key AND w.work_id = p_work AND w.claim = p_claim
        RETURNING w.instance_key, w.execution_id, w.activity_id, w.payload
    ), kept AS (
        INSERT INTO sf_quarantine (queue, instance_id, execution_id, activity_id, error, payload)
        SELECT 'worker', i.instance_id, g.execution_id, g.activity_id, p_error, g.payload
        FROM gone g JOIN sf_instance i ON i.instance_key = ANY (ARRAY[g.instance_key])
        RETURNING instance_id
    ), told AS (
        INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
        SELECT k.instance_id, clock_timestamp(), m_kind, m_payload FROM kept k)
    SELECT ARRAY[CASE WHEN count(*) = 0 THEN 1 ELSE 0 END] INTO v_results FROM kept;
    PERFORM sf_batch_close(p_batch_id, false, v_results);
    RETURN v_results;
END $$;

CREATE FUNCTION steadfast_golden.sf_queue_depths() RETURNS TABLE(orchestrator bigint, worker bigint)
    LANGUAGE sql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
    SELECT (SELECT count(*) FROM sf_inbox) + (SELECT count(*) FROM sf_message s WHERE s.claim IS NULL),
           (SELECT count(*) FROM sf_work w WHERE w.claim = 0)
$$;

CREATE FUNCTION steadfast_golden.sf_queue_report() RETURNS TABLE(queue text, ready bigint, delayed bigint, leased bigint, leases bigint, oldest_due_ms bigint, next_due_ms bigint)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    RETURN QUERY
    SELECT 'orchestrator'::text, count(*) FILTER (WHERE NOT m.leased AND m.at <= v_now),
           count(*) FILTER (WHERE NOT m.leased AND m.at > v_now), count(*) FILTER (WHERE m.leased),
           (SELECT count(*) FROM sf_turn t WHERE t.claim > 0 AND t.available_at > v_now),
           floor(extract(epoch FROM v_now - min(m.at) FILTER (WHERE NOT m.leased AND m.at <= v_now)) * 1000)::bigint,
           ceil(extract(epoch FROM min(m.at) FILTER (WHERE NOT m.leased AND m.at > v_now) - v_now) * 1000)::bigint
    FROM (SELECT x.visible_at AS at, false AS leased FROM sf_inbox x
          UNION ALL
          SELECT s.visible_at, coalesce(s.claim = t.claim AND t.available_at > v_now, false)
          FROM sf_message s LEFT JOIN sf_turn t ON t.instance_key = s.instance_key) m
    UNION ALL
    SELECT 'worker', count(*) FILTER (WHERE w.claim = 0 AND w.available_at <= v_now OR w.claim <> 0 AND w.available_at <= v_now),
           count(*) FILTER (WHERE w.claim = 0 AND w.available_at > v_now),
           count(*) FILTER (WHERE w.claim <> 0 AND w.available_at > v_now),
           count(*) FILTER (WHERE w.claim <> 0 AND w.available_at > v_now),
           floor(extract(epoch FROM v_now - min(w.available_at) FILTER (WHERE w.available_at <= v_now)) * 1000)::bigint,
           ceil(extract(epoch FROM min(w.available_at) FILTER (WHERE w.claim = 0 AND w.available_at > v_now) - v_now) * 1000)::bigint
    FROM sf_work w
    UNION ALL
    SELECT 'quarantine', count(*), 0, 0, 0,
           floor(extract(epoch FROM v_now - min(q.quarantined_at)) * 1000)::bigint, NULL
    FROM sf_quarantine q;
END $$;

CREATE FUNCTION steadfast_golden.sf_read_history(p_instance text[], p_execution bigint[], p_key bigint[], p_cached_execution bigint[], p_cached_event bigint[], p_cached_revision bigint[], p_max_bytes bigint) RETURNS TABLE(op bigint, instance_key bigint, execution_id bigint, history_revision bigint, partial boolean, events bytea[], complete boolean)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
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

CREATE FUNCTION steadfast_golden.sf_release_held(p_results bigint[], o_key bigint[], o_execution bigint[], o_status text[], e_op integer[], e_kind smallint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
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

CREATE FUNCTION steadfast_golden.sf_renew_orchestration_item_lock(p_wait boolean, o_key bigint[], o_claim bigint[], o_extend_ms bigint[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_now     timestamptz;
    v_results bigint[];
    v_locked  bigint[];
BEGIN
    IF p_wait THEN
        PERFORM set_config('lock_timeout', '2s', true);
        v_locked := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_key = ANY (o_key)
                          ORDER BY i.instance_key FOR NO KEY UPDATE);
    ELSE
        v_locked := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_key = ANY (o_key)
                          ORDER BY i.instance_key FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
    v_now := clock_timestamp();
    v_results := ARRAY(
        SELECT CASE WHEN t.claim IS DISTINCT FROM o.claim THEN 1
                    WHEN NOT o.key = ANY (v_locked) THEN 4
                    WHEN t.available_at <= v_now THEN 2 ELSE 0 END::bigint
        FROM unnest(o_key, o_claim) WITH ORDINALITY AS o(key, claim, op)
        LEFT JOIN sf_turn t ON t.instance_key = ANY (ARRAY[o.key])
        ORDER BY o.op);
    UPDATE sf_turn t SET available_at = v_now + o.extend_ms * interval '1 millisecond', leased_at = v_now,
           lease_ms = o.extend_ms
    FROM (SELECT u.key, max(u.extend_ms) AS extend_ms
          FROM unnest(o_key, o_extend_ms) WITH ORDINALITY AS u(key, extend_ms, op)
          WHERE v_results[u.op] = 0 GROUP BY u.key) o
    WHERE t.instance_key = ANY (ARRAY[o.key]);
    RETURN v_results;
END $$;

CREATE FUNCTION steadfast_golden.sf_renew_session_lock(p_owners bytea[], p_extend_ms bigint, p_idle_ms bigint) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_now   timestamptz := clock_timestamp();
    v_held  bytea[];
    v_count bigint;
BEGIN
    -- Locked by one statement and updated by the next: an update in the statement that locks would start from the
    -- version that its snapshot shows, and queue for the newer one behind those who wait for us.
    v_held := ARRAY(
        SELECT s.session_key FROM sf_session s
        WHERE s.owner = ANY (p_owners) AND (s.locked_until > v_now) IS TRUE
          AND s.last_activity_at > v_now - p_idle_ms * interval '1 millisecond'
        ORDER BY s.session_key || '' FOR NO KEY UPDATE);
    UPDATE sf_session s SET locked_until = v_now + p_extend_ms * interval '1 millisecond'
    WHERE s.session_key = ANY (v_held);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END $$;

CREATE FUNCTION steadfast_golden.sf_renew_work_item_lock(p_wait boolean, o_key bigint[], o_work bigint[], o_claim bigint[], o_extend_ms bigint[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
DECLARE
    v_now      timestamptz;
    v_results  bigint[];
    v_locked   bigint[] := sf_lock_work(p_wait, o_key, o_work);
    v_sessions bytea[];
BEGIN
    v_now := clock_timestamp();
    v_results := ARRAY(
        SELECT CASE WHEN w.work_id IS NULL OR w.claim <> o.claim THEN 1
                    WHEN NOT o.work_id = ANY (v_locked) THEN 4
                    WHEN w.available_at <= v_now THEN 2 ELSE 0 END::bigint
        FROM unnest(o_key, o_work, o_claim) WITH ORDINALITY AS o(key, work_id, claim, op)
        LEFT JOIN sf_work w ON w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
        ORDER BY o.op);
    WITH renewed AS (
        UPDATE sf_work w SET available_at = v_now + o.extend_ms * interval '1 millisecond', leased_at = v_now,
               lease_ms = o.extend_ms
        FROM (SELECT u.key, u.work_id, max(u.extend_ms) AS extend_ms
              FROM unnest(o_key, o_work, o_extend_ms) WITH ORDINALITY AS u(key, work_id, extend_ms, op)
              WHERE v_results[u.op] = 0 GROUP BY u.key, u.work_id) o
        WHERE w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
        RETURNING w.session_key)
    SELECT array_agg(DISTINCT r.session_key) FILTER (WHERE r.session_key IS NOT NULL) INTO v_sessions FROM renewed r;
    IF v_sessions IS NOT NULL THEN
        PERFORM sf_touch_sessions(v_sessions, v_now);
    END IF;
    RETURN v_results;
END $$;

CREATE FUNCTION steadfast_golden.sf_route_claimed(p_keys bigint[], p_again boolean, p_claim bigint, p_now timestamp with time zone, p_max_messages integer, p_max_bytes bigint) RETURNS bigint[]
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION steadfast_golden.sf_session_next_due(p_now timestamp with time zone, p_tags bytea[], p_owners bytea[]) RETURNS timestamp with time zone
    LANGUAGE plpgsql STABLE
    AS $$
BEGIN
    IF p_owners IS NULL OR NOT EXISTS (SELECT FROM sf_session) THEN
        RETURN NULL;
    END IF;
    RETURN (
        SELECT min(d.at) FROM (
            (SELECT s.locked_until AS at FROM sf_session s WHERE s.locked_until > p_now ORDER BY s.locked_until LIMIT 1)
            UNION ALL
            SELECT n.available_at FROM (
                SELECT s.session_key FROM sf_session s WHERE s.owner = ANY (p_owners) AND (s.locked_until > p_now) IS TRUE
                UNION ALL
                (SELECT s.session_key FROM sf_session s WHERE s.locked_until <= p_now
                 ORDER BY s.locked_until LIMIT 512)) mine
            CROSS JOIN LATERAL unnest(
                coalesce(p_tags, ARRAY(SELECT g.tag FROM sf_work_tags(mine.session_key) g))) AS t(tag)
            CROSS JOIN LATERAL (
                SELECT w.available_at FROM sf_work w
                WHERE w.session_key = mine.session_key AND w.tag = t.tag AND w.available_at > p_now
                ORDER BY w.available_at LIMIT 1) n) d);
END $$;

CREATE FUNCTION steadfast_golden.sf_stage_rows(p_copy_id uuid, p_first_row bigint, p_kinds smallint[], p_instances text[], p_n1 bigint[], p_n2 bigint[], p_n3 bigint[], p_n4 bigint[], p_n5 bigint[], p_n6 bigint[], p_b1 bytea[], p_b2 bytea[], p_b3 bytea[], p_b4 bytea[], p_b5 bytea[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
BEGIN
    IF p_first_row = 0 THEN
        DELETE FROM sf_copied c WHERE c.copy_id <> p_copy_id;
    END IF;
    INSERT INTO sf_copied (copy_id, row_no, kind, instance_id, n1, n2, n3, n4, n5, n6, b1, b2, b3, b4, b5)
    SELECT p_copy_id, p_first_row + u.n - 1, u.kind, u.instance_id, u.n1, u.n2, u.n3, u.n4, u.n5, u.n6,
           u.b1, u.b2, u.b3, u.b4, u.b5
    FROM unnest(p_kinds, p_instances, p_n1, p_n2, p_n3, p_n4, p_n5, p_n6, p_b1, p_b2, p_b3, p_b4, p_b5)
         WITH ORDINALITY AS u(kind, instance_id, n1, n2, n3, n4, n5, n6, b1, b2, b3, b4, b5, n)
    ON CONFLICT DO NOTHING;
END $$;

CREATE FUNCTION steadfast_golden.sf_system_metrics() RETURNS TABLE(instances bigint, executions bigint, running bigint, completed bigint, failed bigint, events bigint)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
DECLARE
    v_events     bigint;
    v_executions bigint;
BEGIN
    v_events := (SELECT count(*) FROM (SELECT FROM sf_event LIMIT 100000) e);
    IF v_events = 100000 THEN
        v_events := greatest(v_events, (SELECT c.reltuples::bigint FROM pg_class c WHERE c.oid = 'sf_event'::regclass));
    END IF;
    v_executions := (SELECT count(*) FROM (SELECT FROM sf_execution LIMIT 100000) e);
    IF v_executions = 100000 THEN
        v_executions := greatest(v_executions,
            (SELECT c.reltuples::bigint FROM pg_class c WHERE c.oid = 'sf_execution'::regclass));
    END IF;
    RETURN QUERY
    SELECT count(*), v_executions, count(*) FILTER (WHERE i.status = 'Running'),
           count(*) FILTER (WHERE i.status = 'Completed'), count(*) FILTER (WHERE i.status = 'Failed'), v_events
    FROM sf_instance i WHERE i.orchestration_name IS NOT NULL;
END $$;

CREATE FUNCTION steadfast_golden.sf_take_staged(p_batch_id uuid, p_retain_ms bigint, p_copy_id uuid, p_rows bigint, OUT results bigint[]) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
    v_ms  interval := interval '1 millisecond';
BEGIN
    results := sf_batch_open(p_batch_id, p_retain_ms, 1);
    IF results IS NOT NULL THEN
        RETURN;
    END IF;
    LOCK TABLE sf_instance, sf_inbox, sf_work IN SHARE ROW EXCLUSIVE MODE;
    results := CASE WHEN NOT (SELECT s.is_empty FROM sf_transfer_state() s) THEN ARRAY[1]
                    WHEN p_rows <> (SELECT count(*) FROM sf_copied c WHERE c.copy_id = p_copy_id) THEN ARRAY[2]
                    ELSE ARRAY[0] END;
    IF results[1] <> 0 THEN
        PERFORM sf_batch_close(p_batch_id, false, results);
        RETURN;
    END IF;
    INSERT INTO sf_instance (instance_id, execution_id, replay_version, custom_status_version, created_at, updated_at,
                             orchestration_name, orchestration_version, status, custom_status, parent_instance_id)
    SELECT c.instance_id, c.n1, c.n2, c.n3, timestamptz 'epoch' + c.n4 * v_ms, timestamptz 'epoch' + c.n5 * v_ms,
           c.b1, c.b2, convert_from(c.b3, 'UTF8'), c.b4, convert_from(c.b5, 'UTF8')
    FROM sf_copied c WHERE c.copy_id = p_copy_id AND c.kind = 1 ORDER BY c.n6;
    -- What has no instance yet hangs on a row all the same; messages that nobody has tried need none.
    INSERT INTO sf_instance (instance_id)
    SELECT DISTINCT c.instance_id FROM sf_copied c
    WHERE c.copy_id = p_copy_id AND (c.kind IN (2, 3, 6, 8) OR c.kind = 4 AND c.n2 > 0)
    ORDER BY c.instance_id ON CONFLICT DO NOTHING;
    INSERT INTO sf_execution (instance_key, execution_id, replay_version, started_at, completed_at, status, output)
    SELECT i.instance_key, c.n1, c.n2, timestamptz 'epoch' + c.n3 * v_ms, timestamptz 'epoch' + c.n4 * v_ms,
           convert_from(c.b1, 'UTF8'), c.b2
    FROM sf_copied c JOIN sf_instance i USING (instance_id) WHERE c.copy_id = p_copy_id AND c.kind = 2;
    INSERT INTO sf_event (instance_key, execution_id, event_id, kind, payload)
    SELECT i.instance_key, c.n1, c.n2, c.n3::smallint, c.b1
    FROM sf_copied c JOIN sf_instance i USING (instance_id) WHERE c.copy_id = p_copy_id AND c.kind = 3
    ORDER BY c.row_no;
    -- What has been tried keeps its attempts, and comes before the rest.
    INSERT INTO sf_message (instance_key, message_id, visible_at, attempt_count, kind, payload)
    SELECT o.instance_key, nextval(pg_get_serial_sequence('sf_inbox', 'message_id')), o.visible_at, o.attempt_count, o.kind,
           o.payload
    FROM (SELECT i.instance_key, timestamptz 'epoch' + c.n1 * v_ms AS visible_at, c.n2::integer AS attempt_count,
                 c.n3::smallint AS kind, c.b1 AS payload
          FROM sf_copied c JOIN sf_instance i USING (instance_id)
          WHERE c.copy_id = p_copy_id AND c.kind = 4 AND c.n2 > 0 ORDER BY c.n6) o;
    INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
    SELECT c.instance_id, timestamptz 'epoch' + c.n1 * v_ms, c.n3::smallint, c.b1
    FROM sf_copied c WHERE c.copy_id = p_copy_id AND c.kind = 4 AND c.n2 = 0 ORDER BY c.n6;
    INSERT INTO sf_turn (instance_key, lane, available_at)
    SELECT DISTINCT m.instance_key, 0, v_now FROM sf_message m;
    PERFORM sf_turn_reschedule(ARRAY(SELECT t.instance_key FROM sf_turn t), v_now);
    INSERT INTO sf_work (instance_key, execution_id, activity_id, available_at, attempt_count, tag, session_key, payload)
    SELECT i.instance_key, c.n1, c.n2, timestamptz 'epoch' + c.n3 * v_ms, c.n4::integer, c.b1, c.b2, c.b3
    FROM sf_copied c JOIN sf_instance i USING (instance_id) WHERE c.copy_id = p_copy_id AND c.kind = 6 ORDER BY c.n6;
    INSERT INTO sf_session (session_key, last_activity_at)
    SELECT c.b1, timestamptz 'epoch' + c.n1 * v_ms FROM sf_copied c WHERE c.copy_id = p_copy_id AND c.kind = 7;
    INSERT INTO sf_kv (instance_key, key_id, key, base_value, base_at_ms, changed, delta_value, delta_at_ms)
    SELECT i.instance_key, c.b4, c.b1, c.b2, c.n1, c.n2 <> 0, c.b3, c.n3
    FROM sf_copied c JOIN sf_instance i USING (instance_id) WHERE c.copy_id = p_copy_id AND c.kind = 8;
    INSERT INTO sf_quarantine (instance_id, execution_id, activity_id, quarantined_at, queue, error, payload)
    SELECT c.instance_id, c.n1, c.n2, timestamptz 'epoch' + c.n3 * v_ms, convert_from(c.b1, 'UTF8'),
           convert_from(c.b2, 'UTF8'), c.b3
    FROM sf_copied c WHERE c.copy_id = p_copy_id AND c.kind = 9 ORDER BY c.n6;
    DELETE FROM sf_copied c;
    PERFORM sf_batch_close(p_batch_id, false, results);
END $$;

CREATE FUNCTION steadfast_golden.sf_text_of(p_bytes bytea) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
BEGIN
    RETURN convert_from(p_bytes, 'UTF8');
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
    RETURN encode(p_bytes, 'escape');
END $$;

CREATE FUNCTION steadfast_golden.sf_touch_sessions(p_sessions bytea[], p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_held bytea[];
BEGIN
    -- Two statements: see sf_renew_session_lock.
    v_held := ARRAY(SELECT l.session_key FROM sf_session l
                    WHERE l.session_key = ANY (p_sessions) AND (l.locked_until > p_now) IS TRUE
                    ORDER BY l.session_key FOR NO KEY UPDATE SKIP LOCKED);
    UPDATE sf_session s SET last_activity_at = p_now WHERE s.session_key = ANY (v_held);
END $$;

CREATE FUNCTION steadfast_golden.sf_transfer_state(OUT leases bigint, OUT longest_ms bigint, OUT is_empty boolean) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    SELECT count(*), coalesce(ceil(extract(epoch FROM max(l.until) - v_now) * 1000)::bigint, 0) INTO leases, longest_ms
    FROM (SELECT t.available_at AS until FROM sf_turn t WHERE t.claim > 0 AND t.available_at > v_now
          UNION ALL
          SELECT w.available_at FROM sf_work w WHERE w.claim <> 0 AND w.available_at > v_now
          UNION ALL
          SELECT s.locked_until FROM sf_session s WHERE s.owner IS NOT NULL AND s.locked_until > v_now) l;
    is_empty := NOT EXISTS (SELECT FROM sf_instance) AND NOT EXISTS (SELECT FROM sf_inbox)
        AND NOT EXISTS (SELECT FROM sf_work) AND NOT EXISTS (SELECT FROM sf_session)
        AND NOT EXISTS (SELECT FROM sf_quarantine);
END $$;

CREATE FUNCTION steadfast_golden.sf_turn_heads(p_since timestamp with time zone, p_upto timestamp with time zone, p_lanes bigint[]) RETURNS TABLE(lane bigint, head_at timestamp with time zone)
    LANGUAGE plpgsql STABLE ROWS 4
    AS $$
#variable_conflict use_column
DECLARE
    v_lane bigint := -1;
BEGIN
    IF p_lanes IS NOT NULL THEN
        RETURN QUERY
        SELECT l.id, h.at FROM (SELECT DISTINCT u.id FROM unnest(p_lanes) AS u(id)) l CROSS JOIN LATERAL (
            SELECT t.available_at AS at FROM sf_turn t WHERE t.lane = l.id AND t.available_at BETWEEN p_since AND p_upto
            ORDER BY t.available_at LIMIT 1) h;
        RETURN;
    END IF;
    LOOP
        SELECT t.lane, t.available_at INTO lane, head_at FROM sf_turn t
        WHERE t.lane > v_lane ORDER BY t.lane, t.available_at LIMIT 1;
        EXIT WHEN NOT FOUND;
        v_lane := lane;
        RETURN NEXT;
    END LOOP;
END $$;

CREATE FUNCTION steadfast_golden.sf_turn_next_due(p_now timestamp with time zone, p_since timestamp with time zone, p_lanes bigint[], p_min_version bigint, p_max_version bigint) RETURNS timestamp with time zone
    LANGUAGE plpgsql STABLE
    AS $$
DECLARE
    v_begun timestamptz := clock_timestamp();
    v_from  timestamptz := p_since;
    v_upto  timestamptz := CASE WHEN p_since = '-infinity' THEN 'infinity' ELSE p_now END;
    v_at    timestamptz;
BEGIN
    LOOP
        SELECT min(d.at) INTO v_at FROM (
            SELECT l.head_at AS at FROM sf_turn_heads(v_from, v_upto, p_lanes) l
            WHERE l.lane = 0 OR p_min_version IS NULL OR l.lane BETWEEN p_min_version AND p_max_version
            UNION ALL
            (SELECT x.visible_at FROM sf_inbox x WHERE x.visible_at > greatest(v_from, p_now) AND x.visible_at <= v_upto
             ORDER BY x.visible_at LIMIT 1)) d;
        EXIT WHEN v_at IS NOT NULL OR v_upto = 'infinity';
        v_from := v_upto;
        v_upto := sf_look_ahead(p_now, v_upto, v_begun);
        IF v_upto IS NULL THEN
            RETURN v_from;
        END IF;
    END LOOP;
    RETURN v_at;
END $$;

CREATE FUNCTION steadfast_golden.sf_turn_reschedule(p_keys bigint[], p_now timestamp with time zone) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    v_gone bigint;
BEGIN
    DELETE FROM sf_turn t WHERE t.instance_key = ANY (p_keys)
       AND (SELECT true FROM sf_message s WHERE s.instance_key = t.instance_key LIMIT 1) IS NULL;
    GET DIAGNOSTICS v_gone = ROW_COUNT;
    IF v_gone = cardinality(p_keys) THEN
        RETURN;
    END IF;
    -- Only the oldest messages are looked at: a backlog of 50,000 must not slow the ack of one turn. A claim
    -- takes at most 1,000, so whatever was delayed together is among them.
    -- An instance that nobody has started waits for its start: until a routed one is due, or (lane -1) until one
    -- arrives.
    UPDATE sf_turn t SET claim = NULL, leased_at = NULL, lease_ms = NULL,
           lane = CASE WHEN n.unstarted AND n.start_at IS NULL THEN -1 ELSE coalesce(i.replay_version, 0) END,
           -- Hardly in the past: a claim may begin its look at sf_look_recent, and this is still to be committed.
           available_at = greatest(CASE WHEN n.unstarted AND n.start_at IS NOT NULL THEN n.start_at ELSE n.due_at END,
                                   sf_look_recent(p_now) + interval '100 milliseconds')
    FROM sf_instance i CROSS JOIN LATERAL (
        SELECT i.orchestration_name IS NULL
               AND (SELECT true FROM sf_event e WHERE e.instance_key = i.instance_key LIMIT 1) IS NULL AS unstarted,
               (SELECT min(s.visible_at) FROM sf_message s
                WHERE s.instance_key = i.instance_key AND s.kind IN (1, 2)) AS start_at,
               (SELECT min(o.visible_at) FROM (
                    SELECT s.visible_at FROM sf_message s WHERE s.instance_key = i.instance_key
                    ORDER BY s.message_id LIMIT 1001) o) AS due_at) n
    WHERE t.instance_key = ANY (p_keys) AND i.instance_key = ANY (ARRAY[t.instance_key]);
END $$;

CREATE FUNCTION steadfast_golden.sf_waiting_workers(p_lock_class integer) RETURNS TABLE(pid integer, application text, address text)
    LANGUAGE sql STABLE
    SET search_path TO 'steadfast_golden', 'pg_temp'
    AS $$
    SELECT DISTINCT l.pid, a.application_name, host(a.client_addr)
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.mode = 'ShareLock' AND l.granted AND l.objsubid = 2
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      -- Lock numbers are shown unsigned. 1 and 2 are the queues, 3 is the feed.
      AND l.classid::bigint = p_lock_class::bigint & 4294967295 AND l.objid IN (1, 2)
    ORDER BY l.pid
$$;

CREATE FUNCTION steadfast_golden.sf_work_next_due(p_now timestamp with time zone, p_since timestamp with time zone, p_tags bytea[]) RETURNS timestamp with time zone
    LANGUAGE plpgsql STABLE
    AS $$
DECLARE
    v_begun timestamptz := clock_timestamp();
    v_from  timestamptz := p_since;
    v_upto  timestamptz := CASE WHEN p_since = '-infinity' THEN 'infinity' ELSE p_now END;
    v_at    timestamptz;
BEGIN
    LOOP
        SELECT min(n.at) INTO v_at FROM unnest(p_tags) AS t(tag) CROSS JOIN LATERAL (
            SELECT w.available_at AS at FROM sf_work w WHERE w.session_key IS NULL AND w.tag = t.tag
              AND w.available_at BETWEEN v_from AND v_upto
            ORDER BY w.available_at LIMIT 1) n;
        EXIT WHEN v_at IS NOT NULL OR v_upto = 'infinity';
        v_from := v_upto;
        v_upto := sf_look_ahead(p_now, v_upto, v_begun);
        IF v_upto IS NULL THEN
            RETURN v_from;
        END IF;
    END LOOP;
    RETURN v_at;
END $$;

CREATE FUNCTION steadfast_golden.sf_work_tags(p_session bytea) RETURNS TABLE(tag bytea)
    LANGUAGE plpgsql STABLE ROWS 4
    AS $$
#variable_conflict use_column
BEGIN
    IF p_session IS NULL THEN
        RETURN QUERY
        WITH RECURSIVE walk(tag) AS (
            (SELECT w.tag FROM sf_work w WHERE w.session_key IS NULL ORDER BY w.tag LIMIT 1)
            UNION ALL
            SELECT (SELECT w.tag FROM sf_work w WHERE w.session_key IS NULL AND w.tag > k.tag ORDER BY w.tag LIMIT 1)
            FROM walk k WHERE k.tag IS NOT NULL)
        SELECT k.tag FROM walk k WHERE k.tag IS NOT NULL;
    ELSE
        RETURN QUERY
        WITH RECURSIVE walk(tag) AS (
            (SELECT w.tag FROM sf_work w WHERE w.session_key = p_session ORDER BY w.tag LIMIT 1)
            UNION ALL
            SELECT (SELECT w.tag FROM sf_work w WHERE w.session_key = p_session AND w.tag > k.tag
                    ORDER BY w.tag LIMIT 1)
            FROM walk k WHERE k.tag IS NOT NULL)
        SELECT k.tag FROM walk k WHERE k.tag IS NOT NULL;
    END IF;
END $$;

CREATE TABLE steadfast_golden.sf_batch (
    batch_id uuid NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    results bigint[] NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='10000');

CREATE TABLE steadfast_golden.sf_copied (
    copy_id uuid NOT NULL,
    row_no bigint NOT NULL,
    kind smallint NOT NULL,
    instance_id text COLLATE pg_catalog."C",
    n1 bigint,
    n2 bigint,
    n3 bigint,
    n4 bigint,
    n5 bigint,
    n6 bigint,
    b1 bytea,
    b2 bytea,
    b3 bytea,
    b4 bytea,
    b5 bytea
);

CREATE TABLE steadfast_golden.sf_event (
    instance_key bigint NOT NULL,
    execution_id bigint NOT NULL,
    event_id bigint NOT NULL,
    kind smallint NOT NULL,
    payload bytea NOT NULL
);

CREATE TABLE steadfast_golden.sf_execution (
    instance_key bigint NOT NULL,
    execution_id bigint NOT NULL,
    status text NOT NULL COLLATE pg_catalog."C",
    output bytea,
    replay_version bigint,
    started_at timestamp with time zone NOT NULL,
    completed_at timestamp with time zone
)
WITH (fillfactor='85');

CREATE TABLE steadfast_golden.sf_feed (
    last_sequence bigint NOT NULL,
    mark bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    instance_key bigint NOT NULL,
    instance_id text NOT NULL COLLATE pg_catalog."C",
    execution_id bigint NOT NULL,
    orchestration_name bytea,
    event_ids bigint[] NOT NULL,
    kinds smallint[] NOT NULL
);

CREATE TABLE steadfast_golden.sf_feed_cursor (
    name text NOT NULL COLLATE pg_catalog."C",
    epoch uuid NOT NULL,
    sequence bigint NOT NULL,
    mark bigint NOT NULL,
    lost boolean DEFAULT false NOT NULL,
    committed_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
)
WITH (fillfactor='50');

CREATE TABLE steadfast_golden.sf_feed_head (
    only_row boolean DEFAULT true NOT NULL,
    epoch uuid DEFAULT gen_random_uuid() NOT NULL,
    first_sequence bigint DEFAULT 1 NOT NULL,
    trimmed_mark bigint DEFAULT 0 NOT NULL,
    filling smallint DEFAULT 0 NOT NULL,
    CONSTRAINT sf_feed_head_only_row_check CHECK (only_row)
);

CREATE TABLE steadfast_golden.sf_feed_pending_0 (
    pending_id bigint NOT NULL,
    transaction_id xid8 NOT NULL,
    mark bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    instance_key bigint NOT NULL,
    instance_id text NOT NULL COLLATE pg_catalog."C",
    execution_id bigint NOT NULL,
    orchestration_name bytea,
    event_ids bigint[] NOT NULL,
    kinds smallint[] NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='5000');

CREATE TABLE steadfast_golden.sf_feed_pending_1 (
    pending_id bigint NOT NULL,
    transaction_id xid8 NOT NULL,
    mark bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    instance_key bigint NOT NULL,
    instance_id text NOT NULL COLLATE pg_catalog."C",
    execution_id bigint NOT NULL,
    orchestration_name bytea,
    event_ids bigint[] NOT NULL,
    kinds smallint[] NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='5000');

CREATE SEQUENCE steadfast_golden.sf_feed_pending_id
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE steadfast_golden.sf_feed_pending_id OWNED BY steadfast_golden.sf_feed_pending_0.pending_id;

CREATE TABLE steadfast_golden.sf_held (
    instance_key bigint NOT NULL,
    message_id bigint NOT NULL,
    queue bytea NOT NULL,
    visible_at timestamp with time zone NOT NULL,
    attempt_count integer NOT NULL,
    kind smallint NOT NULL,
    payload bytea NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='5000', autovacuum_analyze_scale_factor='0.0', autovacuum_analyze_threshold='10000000');

CREATE TABLE steadfast_golden.sf_instance (
    instance_key bigint NOT NULL,
    instance_id text NOT NULL COLLATE pg_catalog."C",
    parent_instance_id text COLLATE pg_catalog."C",
    orchestration_name bytea,
    orchestration_version bytea,
    execution_id bigint DEFAULT 1 NOT NULL,
    status text DEFAULT 'Running'::text NOT NULL COLLATE pg_catalog."C",
    replay_version bigint,
    custom_status bytea,
    custom_status_version bigint DEFAULT 0 NOT NULL,
    history_revision bigint DEFAULT 0 NOT NULL,
    cache_owner bigint,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
)
WITH (fillfactor='75', autovacuum_vacuum_scale_factor='0.05');

CREATE VIEW steadfast_golden.sf_history AS
 SELECT i.instance_id,
    e.execution_id,
    e.event_id,
    e.kind,
    steadfast_golden.sf_text_of(e.payload) AS event
   FROM (steadfast_golden.sf_event e
     JOIN steadfast_golden.sf_instance i ON ((i.instance_key = e.instance_key)));

CREATE TABLE steadfast_golden.sf_inbox (
    message_id bigint NOT NULL,
    instance_id text NOT NULL COLLATE pg_catalog."C",
    visible_at timestamp with time zone NOT NULL,
    kind smallint NOT NULL,
    payload bytea NOT NULL,
    sent_at timestamp with time zone
)
WITH (autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='5000', autovacuum_analyze_scale_factor='0.0', autovacuum_analyze_threshold='10000000');

ALTER TABLE steadfast_golden.sf_inbox ALTER COLUMN message_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME steadfast_golden.sf_inbox_message_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE steadfast_golden.sf_instance ALTER COLUMN instance_key ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME steadfast_golden.sf_instance_instance_key_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE VIEW steadfast_golden.sf_instances AS
 SELECT i.instance_id,
    steadfast_golden.sf_text_of(i.orchestration_name) AS orchestration_name,
    steadfast_golden.sf_text_of(i.orchestration_version) AS orchestration_version,
    i.execution_id,
    i.status,
    steadfast_golden.sf_text_of(x.output) AS output,
    steadfast_golden.sf_text_of(i.custom_status) AS custom_status,
    i.parent_instance_id,
    i.created_at,
    i.updated_at
   FROM (steadfast_golden.sf_instance i
     LEFT JOIN steadfast_golden.sf_execution x ON (((x.instance_key = i.instance_key) AND (x.execution_id = i.execution_id))))
  WHERE (i.orchestration_name IS NOT NULL);

CREATE TABLE steadfast_golden.sf_isolated (
    claimer bigint NOT NULL,
    instance_key bigint NOT NULL,
    work_id bigint NOT NULL,
    claim bigint NOT NULL,
    alone_until timestamp with time zone NOT NULL
)
WITH (fillfactor='75');

CREATE TABLE steadfast_golden.sf_kv (
    instance_key bigint NOT NULL,
    key_id bytea NOT NULL,
    key bytea NOT NULL,
    base_value bytea,
    base_at_ms bigint,
    changed boolean NOT NULL,
    delta_value bytea,
    delta_at_ms bigint
)
WITH (fillfactor='80');

CREATE TABLE steadfast_golden.sf_ledger (
    kind text NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    version bigint NOT NULL,
    applied_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

CREATE TABLE steadfast_golden.sf_message (
    instance_key bigint NOT NULL,
    message_id bigint NOT NULL,
    visible_at timestamp with time zone NOT NULL,
    attempt_count integer NOT NULL,
    claim bigint,
    kind smallint NOT NULL,
    payload bytea NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='5000', autovacuum_analyze_scale_factor='0.0', autovacuum_analyze_threshold='10000000');

CREATE TABLE steadfast_golden.sf_quarantine (
    quarantine_id bigint NOT NULL,
    queue text NOT NULL,
    instance_id text NOT NULL COLLATE pg_catalog."C",
    execution_id bigint,
    activity_id bigint,
    error text NOT NULL,
    payload bytea NOT NULL,
    quarantined_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE steadfast_golden.sf_quarantine ALTER COLUMN quarantine_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME steadfast_golden.sf_quarantine_quarantine_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE steadfast_golden.sf_work (
    instance_key bigint NOT NULL,
    work_id bigint NOT NULL,
    execution_id bigint NOT NULL,
    activity_id bigint NOT NULL,
    tag bytea NOT NULL,
    session_key bytea,
    available_at timestamp with time zone NOT NULL,
    claim bigint DEFAULT 0 NOT NULL,
    leased_at timestamp with time zone,
    lease_ms bigint,
    attempt_count integer DEFAULT 0 NOT NULL,
    payload bytea NOT NULL
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='5000', autovacuum_analyze_scale_factor='0.0', autovacuum_analyze_threshold='10000000');

CREATE VIEW steadfast_golden.sf_queued_work AS
 SELECT i.instance_id,
    w.execution_id,
    w.activity_id,
    steadfast_golden.sf_text_of(w.tag) AS tag_key,
    steadfast_golden.sf_text_of(w.session_key) AS session_key,
    w.available_at,
    (w.claim <> 0) AS leased,
    w.attempt_count,
    steadfast_golden.sf_text_of(w.payload) AS work_item
   FROM (steadfast_golden.sf_work w
     JOIN steadfast_golden.sf_instance i ON ((i.instance_key = w.instance_key)));

CREATE TABLE steadfast_golden.sf_session (
    session_key bytea NOT NULL,
    owner bytea,
    locked_until timestamp with time zone DEFAULT '-infinity'::timestamp with time zone NOT NULL,
    last_activity_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
)
WITH (fillfactor='75');

CREATE TABLE steadfast_golden.sf_suspect (
    instance_key bigint NOT NULL,
    work_id bigint NOT NULL,
    expired integer NOT NULL
)
WITH (fillfactor='75');

CREATE TABLE steadfast_golden.sf_turn (
    instance_key bigint NOT NULL,
    lane bigint NOT NULL,
    available_at timestamp with time zone NOT NULL,
    claim bigint,
    leased_at timestamp with time zone,
    lease_ms bigint,
    superseded bigint,
    superseded_ms bigint
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.0', autovacuum_vacuum_threshold='2000', autovacuum_analyze_scale_factor='0.0', autovacuum_analyze_threshold='10000000');

ALTER TABLE steadfast_golden.sf_work ALTER COLUMN work_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME steadfast_golden.sf_work_work_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

ALTER TABLE ONLY steadfast_golden.sf_batch
    ADD CONSTRAINT sf_batch_pkey PRIMARY KEY (batch_id);

ALTER TABLE ONLY steadfast_golden.sf_copied
    ADD CONSTRAINT sf_copied_pkey PRIMARY KEY (copy_id, row_no);

ALTER TABLE ONLY steadfast_golden.sf_event
    ADD CONSTRAINT sf_event_pkey PRIMARY KEY (instance_key, execution_id, event_id);

ALTER TABLE ONLY steadfast_golden.sf_execution
    ADD CONSTRAINT sf_execution_pkey PRIMARY KEY (instance_key, execution_id);

ALTER TABLE ONLY steadfast_golden.sf_feed_cursor
    ADD CONSTRAINT sf_feed_cursor_pkey PRIMARY KEY (name);

ALTER TABLE ONLY steadfast_golden.sf_feed_head
    ADD CONSTRAINT sf_feed_head_pkey PRIMARY KEY (only_row);

ALTER TABLE ONLY steadfast_golden.sf_feed_pending_0
    ADD CONSTRAINT sf_feed_pending_0_pkey PRIMARY KEY (pending_id);

ALTER TABLE ONLY steadfast_golden.sf_feed_pending_1
    ADD CONSTRAINT sf_feed_pending_1_pkey PRIMARY KEY (pending_id);

ALTER TABLE ONLY steadfast_golden.sf_feed
    ADD CONSTRAINT sf_feed_pkey PRIMARY KEY (last_sequence);

ALTER TABLE ONLY steadfast_golden.sf_held
    ADD CONSTRAINT sf_held_pkey PRIMARY KEY (instance_key, message_id);

ALTER TABLE ONLY steadfast_golden.sf_inbox
    ADD CONSTRAINT sf_inbox_pkey PRIMARY KEY (instance_id, visible_at, message_id);

ALTER TABLE ONLY steadfast_golden.sf_instance
    ADD CONSTRAINT sf_instance_instance_id_key UNIQUE (instance_id);

ALTER TABLE ONLY steadfast_golden.sf_instance
    ADD CONSTRAINT sf_instance_pkey PRIMARY KEY (instance_key);

ALTER TABLE ONLY steadfast_golden.sf_isolated
    ADD CONSTRAINT sf_isolated_pkey PRIMARY KEY (claimer);

ALTER TABLE ONLY steadfast_golden.sf_kv
    ADD CONSTRAINT sf_kv_pkey PRIMARY KEY (instance_key, key_id);

ALTER TABLE ONLY steadfast_golden.sf_ledger
    ADD CONSTRAINT sf_ledger_pkey PRIMARY KEY (kind, name);

ALTER TABLE ONLY steadfast_golden.sf_message
    ADD CONSTRAINT sf_message_pkey PRIMARY KEY (instance_key, message_id);

ALTER TABLE ONLY steadfast_golden.sf_quarantine
    ADD CONSTRAINT sf_quarantine_pkey PRIMARY KEY (quarantine_id);

ALTER TABLE ONLY steadfast_golden.sf_session
    ADD CONSTRAINT sf_session_pkey PRIMARY KEY (session_key);

ALTER TABLE ONLY steadfast_golden.sf_suspect
    ADD CONSTRAINT sf_suspect_pkey PRIMARY KEY (instance_key, work_id);

ALTER TABLE ONLY steadfast_golden.sf_turn
    ADD CONSTRAINT sf_turn_pkey PRIMARY KEY (instance_key);

ALTER TABLE ONLY steadfast_golden.sf_work
    ADD CONSTRAINT sf_work_pkey PRIMARY KEY (instance_key, work_id);

CREATE INDEX sf_batch_expiry ON steadfast_golden.sf_batch USING btree (expires_at);

CREATE INDEX sf_held_queue ON steadfast_golden.sf_held USING btree (instance_key, queue, message_id);

CREATE INDEX sf_inbox_due ON steadfast_golden.sf_inbox USING btree (visible_at, message_id);

CREATE INDEX sf_inbox_pending ON steadfast_golden.sf_inbox USING btree (message_id) WHERE (kind = 1);

CREATE INDEX sf_inbox_start ON steadfast_golden.sf_inbox USING btree (instance_id, visible_at, message_id) WHERE (kind = ANY (ARRAY[1, 2]));

CREATE INDEX sf_instance_parent ON steadfast_golden.sf_instance USING btree (parent_instance_id) WHERE (parent_instance_id IS NOT NULL);

CREATE INDEX sf_instance_status ON steadfast_golden.sf_instance USING btree (status, instance_key);

CREATE INDEX sf_message_pending ON steadfast_golden.sf_message USING btree (message_id) WHERE (kind = 1);

CREATE INDEX sf_message_start ON steadfast_golden.sf_message USING btree (instance_key, message_id) WHERE (kind = ANY (ARRAY[1, 2]));

CREATE INDEX sf_session_free ON steadfast_golden.sf_session USING btree (locked_until, session_key);

CREATE INDEX sf_session_owner ON steadfast_golden.sf_session USING btree (owner) WHERE (owner IS NOT NULL);

CREATE INDEX sf_turn_due ON steadfast_golden.sf_turn USING btree (lane, available_at);

CREATE INDEX sf_work_due ON steadfast_golden.sf_work USING btree (tag, available_at, work_id) WHERE (session_key IS NULL);

CREATE INDEX sf_work_session_due ON steadfast_golden.sf_work USING btree (session_key, tag, available_at, work_id) WHERE (session_key IS NOT NULL);

CREATE TRIGGER sf_event_deleted AFTER DELETE ON steadfast_golden.sf_event REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION steadfast_golden.sf_history_changed();

CREATE TRIGGER sf_event_updated AFTER UPDATE ON steadfast_golden.sf_event REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION steadfast_golden.sf_history_changed();
