-- sf_poll_waiting: one cheap look that bounds what a lost hint can cost: how long until each queue has something
-- due (0: now, NULL: nothing known), and whether something waits for a position in the change feed, as it does when the
-- process that wrote it was killed.
-- Called by: listen.rs, once per fallback interval while somebody waits; also its heartbeat.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_poll_waiting() RETURNS TABLE (turn_due_ms bigint, work_due_ms bigint, feed_pending boolean)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    RETURN QUERY SELECT
        (SELECT ceil(extract(epoch FROM CASE WHEN min(d.at) < v_now THEN v_now ELSE min(d.at) END - v_now) * 1000)::bigint FROM (
            (SELECT x.visible_at AS at FROM sf_inbox x ORDER BY x.visible_at LIMIT 1)
            UNION ALL
            SELECT l.head_at FROM sf_turn_heads(NULL, NULL, NULL) l) d),
        (SELECT ceil(extract(epoch FROM CASE WHEN min(d.at) < v_now THEN v_now ELSE min(d.at) END - v_now) * 1000)::bigint FROM (
            SELECT c.available_at AS at FROM sf_work_tags(NULL) g CROSS JOIN LATERAL (
                SELECT w.available_at FROM sf_work w WHERE w.session_key IS NULL AND w.tag = g.tag
                ORDER BY w.available_at LIMIT 1) c
            UNION ALL
            -- Whose sessions are whose is for a claim to find out.
            (SELECT v_now FROM sf_work w WHERE w.session_key IS NOT NULL LIMIT 1)) d),
        EXISTS (SELECT FROM sf_feed_pending_0) OR EXISTS (SELECT FROM sf_feed_pending_1);
END $$;
