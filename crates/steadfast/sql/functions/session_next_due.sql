-- sf_session_next_due: when an activity in a session may become available to these owners: the end of the
-- first session lease, or the end of a delay or lease in a session that they hold or that nobody holds.
-- Called by: sf_fetch_work_item.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_session_next_due(p_now timestamptz, p_tags bytea[], p_owners bytea[])
RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p_owners IS NULL OR NOT EXISTS (SELECT FROM sf_session) THEN
        RETURN NULL;
    END IF;
    RETURN (
        SELECT min(d.at) FROM (
            (SELECT s.locked_until AS at FROM sf_session s WHERE s.locked_until > p_now ORDER BY s.locked_until LIMIT 1)
            UNION ALL
            SELECT n.available_at FROM (
                SELECT s.session_key FROM sf_session s WHERE s.owner = ANY (p_owners) AND (s.locked_until > p_now) IS TRUE
                UNION ALL
                (SELECT s.session_key FROM sf_session s WHERE s.locked_until <= p_now
                 ORDER BY s.locked_until LIMIT 512)) mine
            CROSS JOIN LATERAL unnest(
                coalesce(p_tags, ARRAY(SELECT g.tag FROM sf_work_tags(mine.session_key) g))) AS t(tag)
            CROSS JOIN LATERAL (
                SELECT w.available_at FROM sf_work w
                WHERE w.session_key = mine.session_key AND w.tag = t.tag AND w.available_at > p_now
                ORDER BY w.available_at LIMIT 1) n) d);
END $$;
