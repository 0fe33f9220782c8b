-- sf_insert_work: queues activities, and makes their sessions known.
-- Called by: sf_ack_orchestration_item, sf_enqueue_for_worker.
-- Locks: instance rows of other instances (key share), session rows (key share), by key ascending: neither may
--        be removed before this commits.  Hints: the caller's, after commit.
-- Errors: 40001 when an instance or session was removed between being found and being locked: the caller begins
--        again, for to insert it now, out of order, could deadlock.
CREATE OR REPLACE FUNCTION sf_insert_work(
    p_now timestamptz, p_results bigint[], o_key bigint[], w_op integer[], w_instance text[], w_execution bigint[],
    w_activity bigint[], w_tag bytea[], w_session bytea[], w_payload bytea[])
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
          AND NOT EXISTS (SELECT FROM sf_instance i WHERE i.instance_id = w.instance_id)
        ORDER BY w.instance_id ON CONFLICT DO NOTHING;
        v_keys := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_id = ANY (w_instance)
                        ORDER BY i.instance_key FOR KEY SHARE);
        IF EXISTS (SELECT FROM unnest(w_op, w_instance) AS w(op, instance_id)
                   WHERE w.instance_id IS NOT NULL AND p_results[w.op] = 0
                     AND NOT EXISTS (SELECT FROM sf_instance i WHERE i.instance_id = w.instance_id
                                        AND i.instance_key = ANY (v_keys))) THEN
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
    INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, session_key, available_at, payload)
    SELECT coalesce(i.instance_key, o_key[w.op]), w.execution_id, w.activity_id, w.tag, w.session_key, p_now, w.payload
    FROM unnest(w_op, w_instance, w_execution, w_activity, w_tag, w_session, w_payload) WITH ORDINALITY
         AS w(op, instance_id, execution_id, activity_id, tag, session_key, payload, n)
    LEFT JOIN sf_instance i ON i.instance_id = w.instance_id
    WHERE p_results[w.op] = 0 ORDER BY w.n;
END $$;
