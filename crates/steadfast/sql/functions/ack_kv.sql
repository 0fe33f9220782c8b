-- sf_ack_kv: key-value changes of acknowledged turns, and the merge when an execution ends.
-- Called by: sf_ack_orchestration_item, with the instance rows locked.
-- Locks: none beyond.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_ack_kv(
    p_now timestamptz, p_results bigint[], o_key bigint[], o_status text[], o_kv_clear boolean[],
    k_op integer[], k_id bytea[], k_key bytea[], k_value bytea[], k_at_ms bigint[])
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now_ms bigint := floor(extract(epoch FROM p_now) * 1000);
    v_ended  bigint[];
BEGIN
    UPDATE sf_kv v SET changed = true, delta_value = NULL, delta_at_ms = v_now_ms
    FROM unnest(o_key, o_kv_clear) WITH ORDINALITY AS o(key, clear, op)
    WHERE o.clear AND p_results[o.op] = 0 AND v.instance_key = ANY (ARRAY[o.key]);

    INSERT INTO sf_kv AS v (instance_key, key_id, key, changed, delta_value, delta_at_ms)
    SELECT o_key[k.op], k.id, k.key, true, k.value, coalesce(k.at_ms, v_now_ms)
    FROM unnest(k_op, k_id, k_key, k_value, k_at_ms) AS k(op, id, key, value, at_ms)
    WHERE p_results[k.op] = 0
    ON CONFLICT (instance_key, key_id) DO UPDATE
       SET changed = true, delta_value = excluded.delta_value, delta_at_ms = excluded.delta_at_ms;

    v_ended := ARRAY(SELECT o.key FROM unnest(o_key, o_status) WITH ORDINALITY AS o(key, status, op)
                     WHERE p_results[o.op] = 0 AND o.status IN ('Completed', 'Failed', 'ContinuedAsNew'));
    IF cardinality(v_ended) > 0 THEN
        DELETE FROM sf_kv v WHERE v.instance_key = ANY (v_ended) AND v.changed AND v.delta_value IS NULL;
        UPDATE sf_kv v SET changed = false, base_value = v.delta_value, base_at_ms = v.delta_at_ms,
               delta_value = NULL, delta_at_ms = NULL
        WHERE v.instance_key = ANY (v_ended) AND v.changed;
    END IF;
END $$;
