-- sf_batch_close: keeps the answer of a call; with p_sweep also drops up to 1,024 old ones.
-- Called by: every mutating function but the claims, last.
-- Locks: rows that expired, without waiting.
-- Hints: none.  Errors: none of its own.
CREATE OR REPLACE FUNCTION sf_batch_close(p_batch_id uuid, p_sweep boolean, p_results bigint[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF array_remove(p_results, 0) <> '{}' THEN
        UPDATE sf_batch b SET results = p_results WHERE b.batch_id = p_batch_id;
    END IF;
    IF p_sweep THEN
        DELETE FROM sf_batch b USING (
            SELECT o.ctid AS tid FROM sf_batch o WHERE o.expires_at < clock_timestamp()
            ORDER BY o.expires_at LIMIT 1024 FOR UPDATE SKIP LOCKED
        ) expired WHERE b.ctid = expired.tid;
    END IF;
END $$;
