-- sf_feed_trim: removes the oldest rows: those older than p_older_ms, and those that more than p_keep positions follow;
-- p_limit rows at most. Named cursors keep what they have not read, unless more than p_hold positions follow it: then they
-- are marked as lost. NULL: no such bound. Returns how many rows went.
-- Called by: postgres/feed.rs.
-- Locks: the head row (waits for another trim); the rows that go.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_feed_trim(p_older_ms bigint, p_keep bigint, p_hold bigint, p_limit integer)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    v_first bigint;
    v_last  bigint;
    v_held  bigint;
    v_upto  bigint;
    v_mark  bigint;
    v_count bigint;
    v_old   timestamptz := clock_timestamp() - p_older_ms * interval '1 millisecond';
BEGIN
    SELECT h.first_sequence INTO v_first FROM sf_feed_head h FOR NO KEY UPDATE;
    v_last := coalesce((SELECT f.last_sequence FROM sf_feed f ORDER BY f.last_sequence DESC LIMIT 1), v_first - 1);
    v_held := (SELECT min(c.sequence) FROM sf_feed_cursor c, sf_feed_head h WHERE NOT c.lost AND c.epoch = h.epoch);
    v_held := greatest(v_held, CASE WHEN v_held IS NOT NULL THEN v_last - p_hold END);
    -- The first row that has to stay ends the stretch.
    SELECT s.last_sequence, s.mark INTO v_upto, v_mark FROM (
        SELECT f.last_sequence, f.mark, bool_and(
                   (v_held IS NULL OR f.last_sequence <= v_held)
                   AND (coalesce(f.at < v_old, false) OR coalesce(f.last_sequence <= v_last - p_keep, false)))
                   OVER (ORDER BY f.last_sequence) AS goes
        FROM (SELECT * FROM sf_feed x WHERE x.last_sequence >= v_first ORDER BY x.last_sequence LIMIT p_limit) f) s
    WHERE s.goes ORDER BY s.last_sequence DESC LIMIT 1;
    IF v_upto IS NULL THEN
        RETURN 0;
    END IF;
    DELETE FROM sf_feed f WHERE f.last_sequence >= v_first AND f.last_sequence <= v_upto;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    UPDATE sf_feed_head SET first_sequence = v_upto + 1, trimmed_mark = v_mark;
    UPDATE sf_feed_cursor c SET lost = true WHERE c.sequence < v_upto AND NOT c.lost;
    RETURN v_count;
END $$;
