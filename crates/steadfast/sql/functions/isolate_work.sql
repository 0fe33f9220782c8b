-- sf_isolate_work: of the activities that this call is about to claim, those that may be handed over; the others are put off
-- (sf_isolate).
-- Called by: sf_fetch_work_item, with the activities locked.
-- Locks: as sf_isolate.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_isolate_work(
    p_now timestamptz, p_claim bigint, p_keys bigint[], p_works bigint[], p_owners bytea[],
    OUT keys bigint[], OUT works bigint[], OUT owners bytea[])
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    v_ended  bigint[];
    v_leases bigint[];
    v_off    bigint[];
BEGIN
    SELECT array_agg(w.claim ORDER BY c.n), array_agg(coalesce(w.lease_ms, 0) ORDER BY c.n) INTO v_ended, v_leases
    FROM unnest(p_keys, p_works) WITH ORDINALITY AS c(key, work_id, n)
    JOIN sf_work w ON w.instance_key = ANY (ARRAY[c.key]) AND w.work_id = c.work_id;
    WITH judged AS MATERIALIZED (
        SELECT * FROM sf_isolate(p_now, p_claim, p_keys, p_works, v_ended, v_leases)
    ), changed AS (
        -- Put off, it is as if it had been given back with a delay.
        UPDATE sf_work w
           SET claim = CASE WHEN j.off_until IS NULL THEN w.claim ELSE 0 END,
               available_at = coalesce(j.off_until, w.available_at),
               attempt_count = CASE WHEN j.unspent THEN greatest(0, w.attempt_count - 1) ELSE w.attempt_count END
        FROM judged j WHERE w.instance_key = ANY (ARRAY[j.instance_key]) AND w.work_id = j.work_id)
    SELECT coalesce(array_agg(j.work_id) FILTER (WHERE j.off_until IS NOT NULL), '{}') INTO v_off FROM judged j;
    SELECT array_agg(c.key ORDER BY c.n), array_agg(c.work_id ORDER BY c.n), array_agg(c.owner ORDER BY c.n)
      INTO keys, works, owners
      FROM unnest(p_keys, p_works, p_owners) WITH ORDINALITY AS c(key, work_id, owner, n)
     WHERE NOT c.work_id = ANY (v_off);
END $$;
