-- sf_turn_lanes: the distinct lanes in use, without orphans (-1), and the earliest time in each, by one index probe
-- each.
-- Called by: sf_turn_heads, sf_poll_due.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_turn_lanes() RETURNS TABLE (lane bigint, head_at timestamptz)
LANGUAGE plpgsql STABLE ROWS 4 AS $$
#variable_conflict use_column
DECLARE
    v_lane bigint := -1;
BEGIN
    LOOP
        SELECT t.lane, t.available_at INTO lane, head_at FROM sf_turn t
        WHERE t.lane > v_lane ORDER BY t.lane, t.available_at LIMIT 1;
        EXIT WHEN NOT FOUND;
        v_lane := lane;
        RETURN NEXT;
    END LOOP;
END $$;
