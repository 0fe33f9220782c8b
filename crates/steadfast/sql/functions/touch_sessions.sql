-- sf_touch_sessions: these sessions have just been active, as far as they are still held.
-- Called by: sf_ack_work_item, sf_renew_work_item_lock.
-- Locks: session rows by key ascending, never waiting: whoever holds one is touching it too.
-- Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_touch_sessions(p_sessions bytea[], p_now timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
BEGIN
    UPDATE sf_session s SET last_activity_at = p_now
    FROM (SELECT l.session_key FROM sf_session l WHERE l.session_key = ANY (p_sessions) AND l.locked_until > p_now
          ORDER BY l.session_key FOR NO KEY UPDATE SKIP LOCKED) k
    WHERE s.session_key = k.session_key;
END $$;
