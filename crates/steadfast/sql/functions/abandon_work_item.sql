-- sf_abandon_work_item: gives claimed activities back, also after their lease ended, as long as nobody has
-- claimed them since. Codes: 0 done, 1 invalid token, 4 locked elsewhere (ask again with p_wait).
-- Called by: op/abandon_work_item.rs.
-- Locks: batch id; work rows by key ascending. Waits only with p_wait.
-- Hints: the caller's, after commit.  Errors: none.
CREATE OR REPLACE FUNCTION sf_abandon_work_item(
    p_batch_id uuid, p_retain_ms bigint, p_sweep boolean, p_wait boolean,
    o_key bigint[], o_work bigint[], o_claim bigint[], o_delay_ms bigint[], o_ignore_attempt boolean[])
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
DECLARE
    v_now     timestamptz;
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, cardinality(o_key));
    v_locked  bigint[];
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    v_locked := sf_lock_work(p_wait, o_key, o_work);
    v_now := clock_timestamp();
    v_results := ARRAY(
        SELECT CASE WHEN w.work_id IS NULL OR w.claim <> o.claim THEN 1
                    WHEN NOT o.work_id = ANY (v_locked) THEN 4
                    WHEN row_number() OVER (PARTITION BY o.work_id, o.claim ORDER BY o.op) > 1 THEN 1
                    ELSE 0 END::bigint
        FROM unnest(o_key, o_work, o_claim) WITH ORDINALITY AS o(key, work_id, claim, op)
        LEFT JOIN sf_work w ON w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
        ORDER BY o.op);
    -- Claim 0 belongs to nobody: the token is spent.
    UPDATE sf_work w SET claim = 0, leased_at = NULL, lease_ms = NULL,
           available_at = v_now + coalesce(o.delay_ms, 0) * interval '1 millisecond',
           attempt_count = CASE WHEN o.ignore_attempt THEN greatest(0, w.attempt_count - 1) ELSE w.attempt_count END
    FROM unnest(o_key, o_work, o_delay_ms, o_ignore_attempt) WITH ORDINALITY
         AS o(key, work_id, delay_ms, ignore_attempt, op)
    WHERE v_results[o.op] = 0 AND w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id;
    PERFORM sf_batch_close(p_batch_id, p_sweep, v_results);
    RETURN v_results;
END $$;
