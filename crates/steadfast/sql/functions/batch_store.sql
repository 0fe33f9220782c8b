-- sf_batch_store: keeps the answer of a call for p_retain_ms; with p_sweep also drops up to 1,024 old ones.
-- Called by: every mutating function, last.
-- Locks: its own new row; rows that expired, without waiting.
-- Hints: none.  Errors: none of its own.
CREATE OR REPLACE FUNCTION sf_batch_store(p_batch_id uuid, p_retain_ms bigint, p_sweep boolean, p_results bigint[])
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO sf_batch (batch_id, expires_at, results)
    VALUES (p_batch_id, clock_timestamp() + p_retain_ms * interval '1 millisecond', p_results);
    IF p_sweep THEN
        DELETE FROM sf_batch b USING (
            SELECT o.batch_id FROM sf_batch o WHERE o.expires_at < clock_timestamp()
            ORDER BY o.expires_at LIMIT 1024 FOR UPDATE SKIP LOCKED
        ) expired WHERE b.batch_id = expired.batch_id;
    END IF;
END $$;
