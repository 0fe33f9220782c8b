-- sf_batch_open: NULL when the call with this id is new; otherwise what it answered (p_count operations).
-- Called by: every mutating function but the claims, first.
-- Locks: its own new row. A retry waits here for an original that is still running, and an original that the
--        server starts late finds what its retry has answered.
-- Hints: none.  Errors: none of its own.
CREATE OR REPLACE FUNCTION sf_batch_open(p_batch_id uuid, p_retain_ms bigint, p_count integer) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    -- Empty: every operation answers 0. Mostly it stays so, and one row is all that is written.
    INSERT INTO sf_batch (batch_id, expires_at, results)
    VALUES (p_batch_id, clock_timestamp() + p_retain_ms * interval '1 millisecond', '{}') ON CONFLICT DO NOTHING;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT CASE WHEN b.results = '{}' THEN array_fill(0::bigint, ARRAY[p_count]) ELSE b.results END
            FROM sf_batch b WHERE b.batch_id = p_batch_id);
END $$;
