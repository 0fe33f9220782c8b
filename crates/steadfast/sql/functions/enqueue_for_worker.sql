-- sf_enqueue_for_worker: queues activities outside a turn (tests, tools). Codes: all 0.
-- Called by: op/enqueue_for_worker.rs.
-- Locks: batch id; new instance and session rows.  Hints: the caller's, after commit.  Errors: none.
CREATE OR REPLACE FUNCTION sf_enqueue_for_worker(
    p_batch_id uuid, p_retain_ms bigint, p_sweep boolean,
    w_instance text[], w_execution bigint[], w_activity bigint[], w_tag bytea[], w_session bytea[], w_payload bytea[])
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
DECLARE
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, cardinality(w_instance));
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    v_results := array_fill(0::bigint, ARRAY[cardinality(w_instance)]);
    PERFORM sf_insert_work(clock_timestamp(), v_results, '{}',
                           ARRAY(SELECT n::integer FROM generate_series(1, cardinality(w_instance)) AS g(n)),
                           w_instance, w_execution, w_activity, w_tag, w_session, w_payload, NULL, 0, 0, NULL);
    PERFORM sf_batch_close(p_batch_id, p_sweep, v_results);
    RETURN v_results;
END $$;
