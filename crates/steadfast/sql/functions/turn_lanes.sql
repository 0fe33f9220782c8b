-- sf_turn_lanes: the distinct lanes in use, without orphans (-1), by one index probe each.
-- Called by: sf_fetch_orchestration_item, sf_poll_due.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_turn_lanes() RETURNS TABLE (lane bigint)
LANGUAGE sql STABLE ROWS 4 SET search_path FROM CURRENT SET enable_seqscan = off SET enable_bitmapscan = off AS $$
    WITH RECURSIVE walk(lane) AS (
        (SELECT t.lane FROM sf_turn t WHERE t.lane >= 0 ORDER BY t.lane LIMIT 1)
        UNION ALL
        SELECT (SELECT t.lane FROM sf_turn t WHERE t.lane > w.lane ORDER BY t.lane LIMIT 1)
        FROM walk w WHERE w.lane IS NOT NULL)
    SELECT w.lane FROM walk w WHERE w.lane IS NOT NULL
$$;
