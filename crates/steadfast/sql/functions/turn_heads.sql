-- sf_turn_heads: of these lanes, the earliest time in each from p_since to p_upto, where there is one; p_lanes NULL: of all, and
-- whenever it is.
-- Called by: sf_fetch_orchestration_item, sf_turn_next_due.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_turn_heads(p_since timestamptz, p_upto timestamptz, p_lanes bigint[])
RETURNS TABLE (lane bigint, head_at timestamptz)
LANGUAGE plpgsql STABLE ROWS 4 AS $$
BEGIN
    IF p_lanes IS NULL THEN
        RETURN QUERY SELECT l.lane, l.head_at FROM sf_turn_lanes() l;
    ELSE
        RETURN QUERY
        SELECT l.id, h.at FROM (SELECT DISTINCT u.id FROM unnest(p_lanes) AS u(id)) l CROSS JOIN LATERAL (
            SELECT t.available_at AS at FROM sf_turn t WHERE t.lane = l.id AND t.available_at BETWEEN p_since AND p_upto
            ORDER BY t.available_at LIMIT 1) h;
    END IF;
END $$;
