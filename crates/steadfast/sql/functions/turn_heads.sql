-- sf_turn_heads: the distinct lanes in use, without orphans (-1), and the earliest time in each, by one index probe each.
-- p_lanes: just these, and in each the earliest time from p_since to p_upto, where there is one.
-- Called by: sf_fetch_orchestration_item, sf_turn_next_due, sf_poll_due, sf_poll_waiting.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_turn_heads(p_since timestamptz, p_upto timestamptz, p_lanes bigint[])
RETURNS TABLE (lane bigint, head_at timestamptz)
LANGUAGE plpgsql STABLE ROWS 4 AS $$
#variable_conflict use_column
DECLARE
    v_lane bigint := -1;
BEGIN
    IF p_lanes IS NOT NULL THEN
        RETURN QUERY
        SELECT l.id, h.at FROM (SELECT DISTINCT u.id FROM unnest(p_lanes) AS u(id)) l CROSS JOIN LATERAL (
            SELECT t.available_at AS at FROM sf_turn t WHERE t.lane = l.id AND t.available_at BETWEEN p_since AND p_upto
            ORDER BY t.available_at LIMIT 1) h;
        RETURN;
    END IF;
    LOOP
        SELECT t.lane, t.available_at INTO lane, head_at FROM sf_turn t
        WHERE t.lane > v_lane ORDER BY t.lane, t.available_at LIMIT 1;
        EXIT WHEN NOT FOUND;
        v_lane := lane;
        RETURN NEXT;
    END LOOP;
END $$;
