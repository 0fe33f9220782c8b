-- sf_renew_orchestration_item_lock: leases last o_extend_ms from now. Codes: 0 done, 1 invalid token,
-- 2 the lease has ended, 4 locked elsewhere. Doing it twice is doing it once, so it keeps no batch id.
-- Called by: op/renew_orchestration_item_lock.rs.
-- Locks: instance rows by key ascending. Waits only with p_wait, at
--        most 2 s for a lock (lock_timeout; the caller asks again).
-- Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_renew_orchestration_item_lock(
    p_wait boolean, o_key bigint[], o_claim bigint[], o_extend_ms bigint[])
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
DECLARE
    v_now     timestamptz;
    v_results bigint[];
    v_locked  bigint[];
BEGIN
    IF p_wait THEN
        PERFORM set_config('lock_timeout', '2s', true);
        v_locked := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_key = ANY (o_key)
                          ORDER BY i.instance_key FOR NO KEY UPDATE);
    ELSE
        v_locked := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_key = ANY (o_key)
                          ORDER BY i.instance_key FOR NO KEY UPDATE SKIP LOCKED);
    END IF;
    v_now := clock_timestamp();
    v_results := ARRAY(
        SELECT CASE WHEN t.claim IS DISTINCT FROM o.claim THEN 1
                    WHEN NOT o.key = ANY (v_locked) THEN 4
                    WHEN t.available_at <= v_now THEN 2 ELSE 0 END::bigint
        FROM unnest(o_key, o_claim) WITH ORDINALITY AS o(key, claim, op)
        LEFT JOIN sf_turn t ON t.instance_key = ANY (ARRAY[o.key])
        ORDER BY o.op);
    UPDATE sf_turn t SET available_at = v_now + o.extend_ms * interval '1 millisecond', leased_at = v_now,
           lease_ms = o.extend_ms
    FROM (SELECT u.key, max(u.extend_ms) AS extend_ms
          FROM unnest(o_key, o_extend_ms) WITH ORDINALITY AS u(key, extend_ms, op)
          WHERE v_results[u.op] = 0 GROUP BY u.key) o
    WHERE t.instance_key = ANY (ARRAY[o.key]);
    RETURN v_results;
END $$;
