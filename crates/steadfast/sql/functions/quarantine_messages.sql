-- sf_quarantine_messages: sets claimed messages aside that cannot be decoded. The claim stays; if nothing
-- of it is left, the lease ends. Codes: 0 done, 1 invalid token.
-- Called by: op/fetch_orchestration_item.rs.
-- Locks: batch id; the instance row.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_quarantine_messages(
    p_batch_id uuid, p_retain_ms bigint, p_key bigint, p_claim bigint, p_messages bigint[], p_errors text[])
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET enable_seqscan = off AS $$
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
