-- sf_ack_metadata: instance and execution rows of acknowledged turns.
-- Called by: sf_ack_orchestration_item, with the instance rows locked.
-- Locks: none beyond.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_ack_metadata(
    p_now timestamptz, p_owner bigint, p_results bigint[], o_key bigint[], o_execution bigint[], o_name bytea[],
    o_version bytea[], o_parent text[], o_status text[], o_output bytea[], o_pinned bigint[], o_custom smallint[],
    o_custom_status bytea[])
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE sf_instance i SET
        orchestration_name = CASE WHEN o.version IS NULL THEN i.orchestration_name
                                  ELSE coalesce(o.name, i.orchestration_name) END,
        orchestration_version = CASE WHEN o.name IS NULL THEN i.orchestration_version
                                     ELSE coalesce(o.version, i.orchestration_version) END,
        -- The parent is set with the first name and never changes.
        parent_instance_id = CASE WHEN i.orchestration_name IS NULL AND o.name IS NOT NULL
                                  THEN o.parent ELSE i.parent_instance_id END,
        execution_id = greatest(i.execution_id, o.execution),
        status = CASE WHEN o.execution < i.execution_id THEN i.status
                      WHEN o.execution > i.execution_id THEN coalesce(o.status, 'Running')
                      ELSE coalesce(o.status, i.status) END,
        replay_version = CASE WHEN o.execution < i.execution_id THEN i.replay_version
                              WHEN o.execution > i.execution_id THEN o.pinned
                              ELSE coalesce(o.pinned, i.replay_version) END,
        custom_status = CASE o.custom WHEN 0 THEN i.custom_status ELSE o.custom_status END,
        custom_status_version = i.custom_status_version + CASE o.custom WHEN 0 THEN 0 ELSE 1 END,
        cache_owner = p_owner, updated_at = p_now
    FROM (SELECT u.key, u.op, u.execution, u.name, u.version, u.parent, u.status, u.pinned, u.custom, u.custom_status
          FROM unnest(o_key, o_execution, o_name, o_version, o_parent, o_status, o_pinned, o_custom, o_custom_status)
               WITH ORDINALITY
               AS u(key, execution, name, version, parent, status, pinned, custom, custom_status, op)) o
    WHERE p_results[o.op] = 0 AND i.instance_key = ANY (ARRAY[o.key]);

    -- A turn in the middle of an execution changes nothing here, and writes nothing.
    INSERT INTO sf_execution AS x (instance_key, execution_id, status, output, replay_version, started_at, completed_at)
    SELECT o.key, o.execution, coalesce(o.status, 'Running'), o.output, o.pinned, p_now,
           CASE WHEN o.status IS NOT NULL THEN p_now END
    FROM unnest(o_key, o_execution, o_status, o_output, o_pinned) WITH ORDINALITY
         AS o(key, execution, status, output, pinned, op)
    WHERE p_results[o.op] = 0 AND (o.status IS NOT NULL OR o.pinned IS NOT NULL OR (
        SELECT true FROM sf_execution y WHERE y.instance_key = o.key AND y.execution_id = o.execution) IS NULL)
    ON CONFLICT (instance_key, execution_id) DO UPDATE SET
        status = CASE WHEN excluded.completed_at IS NULL THEN x.status ELSE excluded.status END,
        output = CASE WHEN excluded.completed_at IS NULL THEN x.output ELSE excluded.output END,
        completed_at = coalesce(excluded.completed_at, x.completed_at),
        replay_version = coalesce(excluded.replay_version, x.replay_version);
END $$;
