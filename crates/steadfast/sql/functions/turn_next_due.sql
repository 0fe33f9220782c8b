-- sf_turn_next_due: when something is due next for dispatchers of these replay versions; not later than p_now: it is due already.
-- p_since, p_lanes: as of sf_turn_lanes.
-- Called by: sf_fetch_orchestration_item.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_turn_next_due(
    p_now timestamptz, p_since timestamptz, p_lanes bigint[], p_min_version bigint, p_max_version bigint)
RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT min(d.at) FROM (
            SELECT l.head_at AS at FROM sf_turn_lanes(p_since, p_lanes) l
            WHERE l.lane = 0 OR p_min_version IS NULL OR l.lane BETWEEN p_min_version AND p_max_version
            UNION ALL
            (SELECT x.visible_at FROM sf_inbox x WHERE x.visible_at > p_now ORDER BY x.visible_at LIMIT 1)) d);
END $$;
