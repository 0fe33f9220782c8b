-- sf_abandon_orchestration_item: gives claimed instances back, also after their lease ended, as long as
-- nobody has claimed them since. Codes: 0 done, 1 invalid token, 4 locked elsewhere (ask again with p_wait).
-- o_delay_ms: NULL leaves the messages due as they were; o_ignore_attempt takes the attempt back.
-- Called by: op/abandon_orchestration_item.rs.
-- Locks: batch id; instance rows by key ascending. Waits only with p_wait, at
--        most 2 s for a lock (lock_timeout; the caller asks again).
-- Hints: the caller's, after commit.  Errors: none.
CREATE OR REPLACE FUNCTION sf_abandon_orchestration_item(
    p_batch_id uuid, p_retain_ms bigint, p_sweep boolean, p_wait boolean,
    o_key bigint[], o_claim bigint[], o_upto bigint[], o_delay_ms bigint[], o_ignore_attempt boolean[])
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
                    WHEN row_number() OVER (PARTITION BY o.key, o.claim ORDER BY o.op) > 1 THEN 1
                    ELSE 0 END::bigint
        FROM unnest(o_key, o_claim) WITH ORDINALITY AS o(key, claim, op)
        LEFT JOIN sf_turn t ON t.instance_key = ANY (ARRAY[o.key])
        ORDER BY o.op);
    UPDATE sf_message s SET claim = NULL,
           visible_at = coalesce(v_now + o.delay_ms * interval '1 millisecond', s.visible_at),
           attempt_count = CASE WHEN o.ignore_attempt THEN greatest(0, s.attempt_count - 1) ELSE s.attempt_count END
    FROM unnest(o_key, o_claim, o_upto, o_delay_ms, o_ignore_attempt) WITH ORDINALITY
         AS o(key, claim, upto, delay_ms, ignore_attempt, op)
    WHERE v_results[o.op] = 0 AND s.instance_key = ANY (ARRAY[o.key]) AND s.message_id <= o.upto AND s.claim = o.claim;
    PERFORM sf_turn_reschedule(
        ARRAY(SELECT o.key FROM unnest(o_key) WITH ORDINALITY AS o(key, op) WHERE v_results[o.op] = 0), v_now);
    PERFORM sf_batch_close(p_batch_id, p_sweep, v_results);
    RETURN v_results;
END $$;
