-- sf_waiting_workers: the listeners that wait for work of this schema now (see postgres/listen.rs), besides nobody's own:
-- what runs here, also while it is idle. Names and addresses are NULL for a role that may not see them.
-- Called by: op/waiting_workers.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_waiting_workers(p_lock_class integer)
RETURNS TABLE (pid integer, application text, address text)
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT DISTINCT l.pid, a.application_name, host(a.client_addr)
    FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.mode = 'ShareLock' AND l.granted AND l.objsubid = 2
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      -- Lock numbers are shown unsigned. 1 and 2 are the queues, 3 is the feed.
      AND l.classid::bigint = p_lock_class::bigint & 4294967295 AND l.objid IN (1, 2)
    ORDER BY l.pid
$$;
