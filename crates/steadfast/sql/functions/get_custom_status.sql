-- sf_get_custom_status: custom statuses that are newer than the caller has seen; no row otherwise.
-- Called by: op/get_custom_status.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_get_custom_status(p_instance text[], p_seen bigint[])
RETURNS TABLE (op bigint, custom_status bytea, custom_status_version bigint)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT r.op, i.custom_status, i.custom_status_version
    FROM unnest(p_instance, p_seen) WITH ORDINALITY AS r(instance_id, seen, op)
    JOIN sf_instance i ON i.instance_id = ANY (ARRAY[r.instance_id])
    WHERE i.custom_status_version > r.seen;
END $$;
