-- sf_cleanup_orphaned_sessions: removes up to p_limit sessions that nobody holds and no activity needs;
-- returns how many.
-- Called by: op/cleanup_orphaned_sessions.rs.
-- Locks: session rows by key ascending, never waiting.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_cleanup_orphaned_sessions(p_limit integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
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
