-- sf_renew_session_lock: extends the sessions of these owners that are held and were active within
-- p_idle_ms; returns how many. Doing it twice is doing it once.
-- Called by: op/renew_session_lock.rs.
-- Locks: session rows by key ascending.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_renew_session_lock(p_owners bytea[], p_extend_ms bigint, p_idle_ms bigint)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
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
