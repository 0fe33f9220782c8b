-- sf_get_kv: the key-values of an instance as its clients see them: what the current execution changed, and
-- below it what earlier ones left. p_key_id NULL: all.
-- Called by: op/get_kv.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_get_kv(p_instance text, p_key_id bytea) RETURNS TABLE (key bytea, value bytea)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    IF p_key_id IS NULL THEN
        RETURN QUERY SELECT v.key, CASE WHEN v.changed THEN v.delta_value ELSE v.base_value END
        FROM sf_instance i JOIN sf_kv v ON v.instance_key = ANY (ARRAY[i.instance_key])
        WHERE i.instance_id = p_instance AND CASE WHEN v.changed THEN v.delta_value ELSE v.base_value END IS NOT NULL;
    ELSE
        RETURN QUERY SELECT v.key, CASE WHEN v.changed THEN v.delta_value ELSE v.base_value END
        FROM sf_instance i JOIN sf_kv v ON v.instance_key = ANY (ARRAY[i.instance_key]) AND v.key_id = p_key_id
        WHERE i.instance_id = p_instance AND CASE WHEN v.changed THEN v.delta_value ELSE v.base_value END IS NOT NULL;
    END IF;
END $$;
