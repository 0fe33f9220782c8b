-- sf_turn_next_due: when something is due next for dispatchers of these replay versions; not later than p_now: it is due already.
-- p_since, p_lanes: as of sf_turn_heads; a look that does not begin at the beginning ends as in sf_work_next_due.
-- Called by: sf_fetch_orchestration_item.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_turn_next_due(
    p_now timestamptz, p_since timestamptz, p_lanes bigint[], p_min_version bigint, p_max_version bigint)
RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_begun timestamptz := clock_timestamp();
    v_from  timestamptz := p_since;
    v_upto  timestamptz := CASE WHEN p_since = '-infinity' THEN 'infinity' ELSE p_now END;
    v_at    timestamptz;
BEGIN
    LOOP
        SELECT min(d.at) INTO v_at FROM (
            SELECT l.head_at AS at FROM sf_turn_heads(v_from, v_upto, p_lanes) l
            WHERE l.lane = 0 OR p_min_version IS NULL OR l.lane BETWEEN p_min_version AND p_max_version
            UNION ALL
            (SELECT x.visible_at FROM sf_inbox x WHERE x.visible_at > greatest(v_from, p_now) AND x.visible_at <= v_upto
             ORDER BY x.visible_at LIMIT 1)) d;
        EXIT WHEN v_at IS NOT NULL OR v_upto = 'infinity';
        v_from := v_upto;
        v_upto := sf_look_ahead(p_now, v_upto, v_begun);
        IF v_upto IS NULL THEN
            RETURN v_from;
        END IF;
    END LOOP;
    RETURN v_at;
END $$;
