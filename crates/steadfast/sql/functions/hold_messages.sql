-- sf_hold_messages: takes messages out of a claim that its turn cannot be handed: queue events beyond what can be carried
-- over (m_queue: key of the queue; kept in sf_held), and what waits for the next turn (m_queue NULL; stays routed). They
-- get their attempt back. If nothing of the claim is left, the lease ends. Codes: 0 done, 1 invalid token.
-- Called by: op/fetch_orchestration_item.rs.
-- Locks: batch id; the instance row.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_hold_messages(
    p_batch_id uuid, p_retain_ms bigint, p_key bigint, p_claim bigint, m_id bigint[], m_queue bytea[])
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
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
