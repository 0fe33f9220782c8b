-- sf_renew_work_item_lock: leases last o_extend_ms from now, and the sessions count as active.
-- Codes: 0 done, 1 invalid token, 2 the lease has ended, 4 locked elsewhere. Doing it twice is doing it once.
-- Called by: op/renew_work_item_lock.rs.
-- Locks: work rows by key ascending; session rows by key ascending, never waiting. Waits only with p_wait.
-- Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_renew_work_item_lock(
    p_wait boolean, o_key bigint[], o_work bigint[], o_claim bigint[], o_extend_ms bigint[])
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
DECLARE
    v_now      timestamptz;
    v_results  bigint[];
    v_locked   bigint[] := sf_lock_work(p_wait, o_key, o_work);
    v_sessions bytea[];
BEGIN
    v_now := clock_timestamp();
    v_results := ARRAY(
        SELECT CASE WHEN w.work_id IS NULL OR w.claim <> o.claim THEN 1
                    WHEN NOT o.work_id = ANY (v_locked) THEN 4
                    WHEN w.available_at <= v_now THEN 2 ELSE 0 END::bigint
        FROM unnest(o_key, o_work, o_claim) WITH ORDINALITY AS o(key, work_id, claim, op)
        LEFT JOIN sf_work w ON w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
        ORDER BY o.op);
    WITH renewed AS (
        UPDATE sf_work w SET available_at = v_now + o.extend_ms * interval '1 millisecond', leased_at = v_now,
               lease_ms = o.extend_ms
        FROM (SELECT u.key, u.work_id, max(u.extend_ms) AS extend_ms
              FROM unnest(o_key, o_work, o_extend_ms) WITH ORDINALITY AS u(key, work_id, extend_ms, op)
              WHERE v_results[u.op] = 0 GROUP BY u.key, u.work_id) o
        WHERE w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
        RETURNING w.session_key)
    SELECT array_agg(DISTINCT r.session_key) FILTER (WHERE r.session_key IS NOT NULL) INTO v_sessions FROM renewed r;
    IF v_sessions IS NOT NULL THEN
        PERFORM sf_touch_sessions(v_sessions, v_now);
    END IF;
    RETURN v_results;
END $$;
