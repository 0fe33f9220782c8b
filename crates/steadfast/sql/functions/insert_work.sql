-- sf_insert_work: queues activities, and makes their sessions known.
-- p_claim: given, the first p_limit of them are queued as claimed by it, if they belong to the turn's own instance, to
-- no session, and to one of p_tags (NULL: any).
-- Called by: sf_ack_orchestration_item, sf_enqueue_for_worker.
-- Locks: instance rows of other instances (key share), session rows (key share), by key ascending: neither may
--        be removed before this commits.  Hints: the caller's, after commit.
-- Errors: 40001 when an instance or session was removed between being found and being locked: the caller begins
--        again, for to insert it now, out of order, could deadlock.
CREATE OR REPLACE FUNCTION sf_insert_work(
    p_now timestamptz, p_results bigint[], o_key bigint[], w_op integer[], w_instance text[], w_execution bigint[],
    w_activity bigint[], w_tag bytea[], w_session bytea[], w_payload bytea[],
    p_claim bigint, p_limit integer, p_lease_ms bigint, p_tags bytea[])
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
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
