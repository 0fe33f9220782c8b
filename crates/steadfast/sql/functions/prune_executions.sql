-- sf_prune_executions: removes ended executions of instances, never the current one, a running one or one of
-- the p_keep_last newest. Answers {instances, executions, events}.
-- Called by: op/prune_executions.rs.
-- Locks: batch id; instance rows by key ascending (waits for them).  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_prune_executions(
    p_batch_id uuid, p_retain_ms bigint, p_instances text[], p_keep_last bigint, p_completed_before_ms bigint,
    p_feed boolean)
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
DECLARE
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, 3);
    v_keys    bigint[];
    v_doomed  bigint[];
    v_ids     bigint[];
    v_events  bigint;
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    v_keys := ARRAY(SELECT i.instance_key FROM sf_instance i
                    WHERE i.instance_id = ANY (p_instances) AND i.orchestration_name IS NOT NULL
                    ORDER BY i.instance_key + 0 FOR NO KEY UPDATE);
    SELECT array_agg(d.instance_key), array_agg(d.execution_id) INTO v_doomed, v_ids FROM (
        SELECT x.instance_key, x.execution_id, x.status, x.completed_at, i.execution_id AS current_id,
               row_number() OVER (PARTITION BY k.id ORDER BY x.execution_id DESC) AS place
        FROM unnest(v_keys) AS k(id) JOIN sf_instance i ON i.instance_key = ANY (ARRAY[k.id])
        JOIN sf_execution x ON x.instance_key = ANY (ARRAY[k.id])) d
    WHERE d.execution_id <> d.current_id AND d.status <> 'Running'
      AND (p_keep_last IS NULL OR d.place > p_keep_last)
      AND (p_completed_before_ms IS NULL OR d.completed_at < to_timestamp(p_completed_before_ms / 1000.0));
    DELETE FROM sf_event e USING unnest(v_doomed, v_ids) AS d(key, execution_id)
    WHERE e.instance_key = ANY (ARRAY[d.key]) AND e.execution_id = d.execution_id;
    GET DIAGNOSTICS v_events = ROW_COUNT;
    DELETE FROM sf_execution x USING unnest(v_doomed, v_ids) AS d(key, execution_id)
    WHERE x.instance_key = ANY (ARRAY[d.key]) AND x.execution_id = d.execution_id;
    IF p_feed THEN PERFORM sf_feed_note(v_doomed, v_ids, 81::smallint); END IF;
    v_results := ARRAY[cardinality(v_keys), coalesce(cardinality(v_ids), 0), v_events];
    PERFORM sf_batch_close(p_batch_id, false, v_results);
    RETURN v_results;
END $$;
