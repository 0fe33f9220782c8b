-- sf_queue_depths: items that nobody holds, as the framework's management interface counts them.
-- Called by: op/queue_depths.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_queue_depths() RETURNS TABLE (orchestrator bigint, worker bigint)
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT (SELECT count(*) FROM sf_inbox) + (SELECT count(*) FROM sf_message s WHERE s.claim IS NULL),
           (SELECT count(*) FROM sf_work w WHERE w.claim = 0)
$$;
