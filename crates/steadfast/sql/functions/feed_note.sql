-- sf_feed_note: writes down one thing that happened to each of several instances: deleted (80), pruned (81; p_executions:
-- the executions that went, of which the newest is recorded).
-- Called by: sf_delete_instances, sf_prune_executions, with the instance rows locked and still there.
-- Locks: none beyond.  Hints: the caller's, after commit.  Errors: none.
CREATE OR REPLACE FUNCTION sf_feed_note(p_keys bigint[], p_executions bigint[], p_kind smallint)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_keys       bigint[];
    v_executions bigint[];
BEGIN
    SELECT array_agg(k.key), array_agg(k.execution_id) INTO v_keys, v_executions FROM (
        SELECT u.key, max(u.execution_id) AS execution_id
        FROM unnest(p_keys, p_executions) AS u(key, execution_id)
        JOIN sf_instance i ON i.instance_key = ANY (ARRAY[u.key]) AND i.orchestration_name IS NOT NULL
        GROUP BY u.key) k;
    IF v_keys IS NOT NULL THEN
        PERFORM sf_feed_append(clock_timestamp(), NULL, v_keys, v_executions,
                               ARRAY(SELECT generate_series(1, cardinality(v_keys))),
                               array_fill(0::bigint, ARRAY[cardinality(v_keys)]),
                               array_fill(p_kind, ARRAY[cardinality(v_keys)]));
    END IF;
END $$;
