-- sf_ack_orchestration_item: commits many orchestration turns, each wholly or not at all.
-- Returns one code per turn: 0 done, 1 invalid token, 2 the lease has ended, 3 an event id exists already,
-- 4 a row that it needs is locked elsewhere (ask again with p_wait, apart from the others),
-- 5 done, and messages wait for the instance (only with p_tell; an answer given again says so of all).
--
-- o_*: one entry per turn (upto: the highest message of the claim); e_* events, w_* activities, m_* messages,
-- c_* activities to cancel, k_* key-values: each with the index of its turn (from 1). Instances of w_ and c_
-- are NULL when they are the turn's own. m_visible_ms: NULL is now. o_kv_clear comes before k_*.
-- p_hand_*: the claim under which up to p_hand_limit of the activities are queued, if p_hand_claim is given: for
-- waiters of the caller, who knows of nothing else that they might take. Sessions and foreign tags are left out.
-- p_hand_batch: the claim's identity, as in sf_fetch_work_item. sf_handed_work tells what was handed.
-- k_value NULL clears the key. p_feed: the feed's kinds of e_*, or nothing where none is to be recorded.
--
-- Called by: op/ack_orchestration_item.rs.
-- Locks: batch id; instance rows by key ascending; work rows that are cancelled, by key ascending; then its
--        own writes (sessions, work, key-values, inbox). Waits only with p_wait, at
--        most 2 s for a lock (lock_timeout; the caller asks again).
-- Hints: the caller's, after commit.  Errors: none of its own; what is unexpected makes the caller split.
CREATE OR REPLACE FUNCTION sf_ack_orchestration_item(
    p_batch_id uuid, p_retain_ms bigint, p_sweep boolean, p_wait boolean, p_owner bigint,
    o_key bigint[], o_claim bigint[], o_upto bigint[], o_execution bigint[], o_name bytea[], o_version bytea[],
    o_parent text[], o_status text[], o_output bytea[], o_pinned bigint[], o_custom smallint[],
    o_custom_status bytea[], o_kv_clear boolean[],
    e_op integer[], e_event bigint[], e_kind smallint[], e_payload bytea[],
    w_op integer[], w_instance text[], w_execution bigint[], w_activity bigint[], w_tag bytea[], w_session bytea[],
    w_payload bytea[],
    m_instance text[], m_op integer[], m_visible_ms bigint[], m_kind smallint[], m_payload bytea[],
    c_op integer[], c_instance text[], c_execution bigint[], c_activity bigint[],
    k_op integer[], k_id bytea[], k_key bytea[], k_value bytea[], k_at_ms bigint[],
    p_feed smallint[], p_tell boolean,
    p_hand_batch uuid, p_hand_claim bigint, p_hand_limit integer, p_hand_lease_ms bigint, p_hand_tags bytea[])
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
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
