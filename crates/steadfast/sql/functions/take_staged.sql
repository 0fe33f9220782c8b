-- sf_take_staged: fills the empty store with the p_rows rows that were kept aside for p_copy_id. Answers {code}: 0 done,
-- 1 the store is not empty, 2 they are not all there. Codes 1 and 2 have changed nothing.
-- Called by: op/take_staged.rs, once everything has been carried.
-- Locks: its batch row; the tables that work begins in, against everybody else who writes; then its own rows.
-- Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_take_staged(
    p_batch_id uuid, p_retain_ms bigint, p_copy_id uuid, p_rows bigint, OUT results bigint[])
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
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
