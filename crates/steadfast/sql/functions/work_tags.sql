-- sf_work_tags: the distinct tags of queued activities, by one index probe each: of those without a session
-- (p_session NULL), or of one session.
-- Called by: sf_fetch_work_item, sf_claim_sessions, sf_session_next_due, for waiters that take any tag.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_work_tags(p_session bytea) RETURNS TABLE (tag bytea)
LANGUAGE plpgsql STABLE ROWS 4 AS $$
#variable_conflict use_column
BEGIN
    IF p_session IS NULL THEN
        RETURN QUERY
        WITH RECURSIVE walk(tag) AS (
            (SELECT w.tag FROM sf_work w WHERE w.session_key IS NULL ORDER BY w.tag LIMIT 1)
            UNION ALL
            SELECT (SELECT w.tag FROM sf_work w WHERE w.session_key IS NULL AND w.tag > k.tag ORDER BY w.tag LIMIT 1)
            FROM walk k WHERE k.tag IS NOT NULL)
        SELECT k.tag FROM walk k WHERE k.tag IS NOT NULL;
    ELSE
        RETURN QUERY
        WITH RECURSIVE walk(tag) AS (
            (SELECT w.tag FROM sf_work w WHERE w.session_key = p_session ORDER BY w.tag LIMIT 1)
            UNION ALL
            SELECT (SELECT w.tag FROM sf_work w WHERE w.session_key = p_session AND w.tag > k.tag
                    ORDER BY w.tag LIMIT 1)
            FROM walk k WHERE k.tag IS NOT NULL)
        SELECT k.tag FROM walk k WHERE k.tag IS NOT NULL;
    END IF;
END $$;
