-- sf_feed_commit: keeps how far a named cursor has come; within an epoch it never goes back. Returns where it stands.
-- Called by: postgres/feed.rs.
-- Locks: the cursor's row (waits for it).  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_feed_commit(p_name text, p_epoch uuid, p_sequence bigint, p_mark bigint)
RETURNS bigint
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    INSERT INTO sf_feed_cursor AS c (name, epoch, sequence, mark) VALUES (p_name, p_epoch, p_sequence, p_mark)
    ON CONFLICT (name) DO UPDATE SET
        epoch = excluded.epoch,
        sequence = CASE WHEN c.epoch = excluded.epoch THEN greatest(c.sequence, excluded.sequence)
                        ELSE excluded.sequence END,
        mark = CASE WHEN c.epoch = excluded.epoch AND c.sequence > excluded.sequence THEN c.mark ELSE excluded.mark END,
        lost = c.lost AND c.epoch = excluded.epoch AND c.sequence >= excluded.sequence,
        committed_at = clock_timestamp()
    RETURNING sequence
$$;
