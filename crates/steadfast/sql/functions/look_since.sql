-- sf_look_since: where a look at a queue begins, of which p_since_us (µs of the epoch) says where an earlier one found the first
-- live row; NULL, 0: at the beginning. A clock that has been set back puts what arrives now behind where an earlier look ended:
-- so it is never later than sf_look_recent.
-- Called by: sf_fetch_orchestration_item, sf_fetch_work_item.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_look_since(p_now timestamptz, p_since_us bigint) RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF p_since_us IS NULL OR p_since_us <= 0 THEN
        RETURN '-infinity';
    END IF;
    RETURN least(timestamptz 'epoch' + p_since_us * interval '1 microsecond', sf_look_recent(p_now));
END $$;
