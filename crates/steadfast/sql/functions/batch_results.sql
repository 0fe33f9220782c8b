-- sf_batch_results: what the call with this id answered, or NULL when it has not run.
-- Called by: every mutating function, first.
-- Locks: advisory transaction lock of the batch id, held to the end of the caller's transaction. A retry
--        therefore waits for an original that is still running, and an original that the server starts
--        late finds what its retry has answered.
-- Hints: none.  Errors: none of its own.
CREATE OR REPLACE FUNCTION sf_batch_results(p_batch_id uuid) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(uuid_hash_extended(p_batch_id, 0));
    RETURN (SELECT b.results FROM sf_batch b WHERE b.batch_id = p_batch_id);
END $$;
