-- sf_claim_instances: claims those of p_instances that are free and have due messages, for a caller who knows that
-- nothing else is due; parameters and rows as of sf_fetch_orchestration_item. `busy`: one of them is held elsewhere.
-- One that is leased, or that the caller may not run, is passed over: the end of its lease is told by its ack.
--
-- Called by: op/fetch_orchestration_item.rs, behind sf_ack_work_item in one statement.
-- Locks: batch id; instance rows by key ascending, never waiting; what sf_isolate locks.
-- Hints: none.  Errors: none of its own.
CREATE OR REPLACE FUNCTION sf_claim_instances(
    p_batch_id uuid, p_retry boolean, p_claim bigint, p_limit integer, p_lease_ms bigint,
    p_min_version bigint, p_max_version bigint, p_owner bigint, p_evicted bigint[],
    p_max_messages integer, p_max_bytes bigint, p_instances text[])
RETURNS TABLE (
    instance_key bigint, instance_id text, orchestration_name bytea, orchestration_version bytea,
    execution_id bigint, history_revision bigint, last_event_id bigint, cached boolean, attempt_count integer,
    message_ids bigint[], messages bytea[], events bytea[], kv_keys bytea[], kv_values bytea[], kv_at_ms bigint[],
    next_due_ms bigint, busy boolean, dropped bigint)
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    v_now    timestamptz := clock_timestamp();
    v_locked bigint[];
    v_keys   bigint[];
    v_again  boolean;
    v_busy   boolean;
    v_closed boolean;
BEGIN
    -- A retry waits for this call, or has closed it before it began: then somebody has looked already.
    v_closed := pg_advisory_xact_lock(uuid_hash_extended(p_batch_id, 0)) IS NULL;
    v_closed := EXISTS (SELECT FROM sf_batch b WHERE b.batch_id = p_batch_id);
    IF v_closed OR p_retry THEN
        RETURN;
    END IF;
    -- Cut here: a LIMIT below would have the planner walk all instances by key.
    v_locked := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_id = ANY (p_instances[1:p_limit])
                      ORDER BY i.instance_key + 0 FOR NO KEY UPDATE SKIP LOCKED);
    v_busy := cardinality(v_locked) < least(p_limit, cardinality(p_instances));
    WITH claimed AS (
        INSERT INTO sf_turn AS t (instance_key, lane, available_at, claim, leased_at, lease_ms)
        SELECT i.instance_key, coalesce(i.replay_version, 0), v_now + p_lease_ms * interval '1 millisecond', p_claim,
               v_now, p_lease_ms
        FROM unnest(v_locked) AS k(id) JOIN sf_instance i ON i.instance_key = ANY (ARRAY[k.id])
        WHERE i.replay_version IS NULL OR p_min_version IS NULL
           OR i.replay_version BETWEEN p_min_version AND p_max_version
        ON CONFLICT (instance_key) DO UPDATE
           SET lane = excluded.lane, available_at = excluded.available_at, claim = excluded.claim,
               leased_at = excluded.leased_at, lease_ms = excluded.lease_ms, superseded = t.claim, superseded_ms = t.lease_ms
         WHERE t.claim IS NULL OR t.available_at <= v_now
        -- A row that this call has inserted has never been locked or updated.
        RETURNING t.instance_key, t.xmax <> 0 AS had_row)
    SELECT coalesce(array_agg(c.instance_key), '{}'), coalesce(bool_or(c.had_row), false)
      INTO v_keys, v_again FROM claimed c;
    IF cardinality(v_keys) > 0 THEN
        v_locked := v_keys;
        v_keys := sf_route_claimed(v_keys, v_again, p_claim, v_now, p_max_messages, p_max_bytes);
        v_busy := v_busy OR cardinality(v_keys) < cardinality(v_locked);
    END IF;
    IF cardinality(v_keys) > 0 THEN
        RETURN QUERY SELECT c.*, NULL::bigint, v_busy, 0::bigint
        FROM sf_claimed_turns(v_keys, p_claim, p_owner, p_evicted, 4 * p_max_bytes) c;
    ELSIF v_busy THEN
        RETURN QUERY SELECT NULL::bigint, NULL::text, NULL::bytea, NULL::bytea, NULL::bigint, NULL::bigint,
            NULL::bigint, NULL::boolean, NULL::integer, NULL::bigint[], NULL::bytea[], NULL::bytea[], NULL::bytea[],
            NULL::bytea[], NULL::bigint[], NULL::bigint, v_busy, 0::bigint;
    END IF;
END $$;
