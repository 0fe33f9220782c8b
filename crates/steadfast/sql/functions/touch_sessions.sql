-- sf_touch_sessions: these sessions have just been active, as far as they are still held.
-- Called by: sf_ack_work_item, sf_renew_work_item_lock.
-- Locks: session rows by key ascending, never waiting: whoever holds one is touching it too.
-- Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_touch_sessions(p_sessions bytea[], p_now timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_held bytea[];
BEGIN
    -- Two statements: see sf_renew_session_lock.
    v_held := ARRAY(SELECT l.session_key FROM sf_session l
                    WHERE l.session_key = ANY (p_sessions) AND (l.locked_until > p_now) IS TRUE
                    ORDER BY l.session_key FOR NO KEY UPDATE SKIP LOCKED);
    UPDATE sf_session s SET last_activity_at = p_now WHERE s.session_key = ANY (v_held);
END $$;
