-- sf_handed_work: the activities that sf_ack_orchestration_item has queued as claimed by p_claim, in the same statement;
-- rows as of sf_fetch_work_item.
-- p_keys: instances whose turns were acknowledged.
-- Called by: op/fetch_work_item.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_handed_work(p_claim bigint, p_limit integer, p_keys bigint[], p_cache_owner bigint)
RETURNS TABLE (
    instance_key bigint, work_id bigint, instance_id text, execution_id bigint, activity_id bigint,
    attempt_count integer, owner bytea, in_session boolean, payload bytea, cached boolean, next_due_ms bigint, busy boolean)
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT w.instance_key, w.work_id, i.instance_id, w.execution_id, w.activity_id, w.attempt_count, NULL::bytea,
           false, w.payload, coalesce(i.cache_owner = p_cache_owner, false), NULL::bigint, false
    FROM unnest(p_keys) AS k(id)
    JOIN sf_work w ON w.instance_key = ANY (ARRAY[k.id])
    JOIN sf_instance i ON i.instance_key = ANY (ARRAY[k.id])
    WHERE w.claim = p_claim ORDER BY w.work_id LIMIT p_limit;
END $$;
