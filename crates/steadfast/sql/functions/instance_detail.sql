-- sf_instance_detail: one instance and its current execution; no row when it does not exist.
-- Called by: op/instance_detail.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_instance_detail(p_instance text)
RETURNS TABLE (instance_key bigint, orchestration_name bytea, orchestration_version bytea, execution_id bigint,
               status text, output bytea, parent_instance_id text, created_ms bigint, updated_ms bigint,
               custom_status bytea, custom_status_version bigint, replay_version bigint, routed bigint,
               lease_ms_left bigint)
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT i.instance_key, i.orchestration_name, i.orchestration_version, i.execution_id, i.status, x.output,
           i.parent_instance_id, floor(extract(epoch FROM i.created_at) * 1000)::bigint,
           floor(extract(epoch FROM i.updated_at) * 1000)::bigint, i.custom_status, i.custom_status_version,
           i.replay_version,
           (SELECT count(*) FROM sf_message s WHERE s.instance_key = i.instance_key)
             + (SELECT count(*) FROM sf_held h WHERE h.instance_key = i.instance_key)
             + (SELECT count(*) FROM sf_inbox s WHERE s.instance_id = i.instance_id),
           (SELECT ceil(extract(epoch FROM t.available_at - clock_timestamp()) * 1000)::bigint FROM sf_turn t
            WHERE t.instance_key = i.instance_key AND t.claim > 0)
    FROM sf_instance i
    LEFT JOIN sf_execution x ON x.instance_key = i.instance_key AND x.execution_id = i.execution_id
    WHERE i.instance_id = p_instance AND i.orchestration_name IS NOT NULL
$$;
