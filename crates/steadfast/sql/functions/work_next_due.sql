-- sf_work_next_due: when an activity of these tags, in no session, is due next; not later than p_now: it is due already.
-- p_since: -infinity, or the beginning of a look that passes over what is behind it. Then dead rows are in the way, those of
-- ended leases also ahead of p_now: it looks ahead in steps (sf_look_ahead), and what is returned is how far it has come if
-- there was nothing.
-- Called by: sf_fetch_work_item.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_work_next_due(p_now timestamptz, p_since timestamptz, p_tags bytea[]) RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_begun timestamptz := clock_timestamp();
    v_from  timestamptz := p_since;
    v_upto  timestamptz := CASE WHEN p_since = '-infinity' THEN 'infinity' ELSE p_now END;
    v_at    timestamptz;
BEGIN
    LOOP
        SELECT min(n.at) INTO v_at FROM unnest(p_tags) AS t(tag) CROSS JOIN LATERAL (
            SELECT w.available_at AS at FROM sf_work w WHERE w.session_key IS NULL AND w.tag = t.tag
              AND w.available_at BETWEEN v_from AND v_upto
            ORDER BY w.available_at LIMIT 1) n;
        EXIT WHEN v_at IS NOT NULL OR v_upto = 'infinity';
        v_from := v_upto;
        v_upto := sf_look_ahead(p_now, v_upto, v_begun);
        IF v_upto IS NULL THEN
            RETURN v_from;
        END IF;
    END LOOP;
    RETURN v_at;
END $$;
