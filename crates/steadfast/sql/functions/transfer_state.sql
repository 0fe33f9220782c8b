-- sf_transfer_state: what must be known before a store is carried elsewhere or filled: leases that have not ended, when
-- the last of them ends, and whether nothing is in it.
-- Called by: op/export_rows.rs, sf_take_staged.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_transfer_state(OUT leases bigint, OUT longest_ms bigint, OUT is_empty boolean)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    SELECT count(*), coalesce(ceil(extract(epoch FROM max(l.until) - v_now) * 1000)::bigint, 0) INTO leases, longest_ms
    FROM (SELECT t.available_at AS until FROM sf_turn t WHERE t.claim > 0 AND t.available_at > v_now
          UNION ALL
          SELECT w.available_at FROM sf_work w WHERE w.claim <> 0 AND w.available_at > v_now
          UNION ALL
          SELECT s.locked_until FROM sf_session s WHERE s.owner IS NOT NULL AND s.locked_until > v_now) l;
    is_empty := NOT EXISTS (SELECT FROM sf_instance) AND NOT EXISTS (SELECT FROM sf_inbox)
        AND NOT EXISTS (SELECT FROM sf_work) AND NOT EXISTS (SELECT FROM sf_session)
        AND NOT EXISTS (SELECT FROM sf_quarantine);
END $$;
