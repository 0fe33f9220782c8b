-- sf_lock_cancelled: locks the work rows that turns want to cancel; returns the turns whose rows are held
-- by somebody else (none with p_wait, which waits for them).
-- Called by: sf_ack_orchestration_item, with the instance rows locked.
-- Locks: work rows by key ascending.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_lock_cancelled(
    p_wait boolean, o_key bigint[], c_op integer[], c_instance text[], c_execution bigint[], c_activity bigint[])
RETURNS integer[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_wanted bigint[];
    v_ops    integer[];
    v_locked bigint[];
BEGIN
    SELECT array_agg(w.work_id), array_agg(d.op) INTO v_wanted, v_ops
    FROM (SELECT c.op, coalesce(i.instance_key, o_key[c.op]) AS key, c.execution_id, c.activity_id
          FROM unnest(c_op, c_instance, c_execution, c_activity) AS c(op, instance_id, execution_id, activity_id)
          LEFT JOIN sf_instance i ON i.instance_id = ANY (ARRAY[c.instance_id])) d
    JOIN sf_work w ON w.instance_key = ANY (ARRAY[d.key]) AND w.execution_id = d.execution_id AND w.activity_id = d.activity_id;
    IF v_wanted IS NULL THEN
        RETURN '{}';
    END IF;
    IF p_wait THEN
        PERFORM FROM sf_work w WHERE w.instance_key = ANY (o_key) AND w.work_id = ANY (v_wanted)
        ORDER BY w.instance_key, w.work_id FOR UPDATE;
        RETURN '{}';
    END IF;
    v_locked := ARRAY(SELECT w.work_id FROM sf_work w WHERE w.instance_key = ANY (o_key) AND w.work_id = ANY (v_wanted)
                      ORDER BY w.instance_key, w.work_id FOR UPDATE SKIP LOCKED);
    RETURN ARRAY(SELECT DISTINCT u.op FROM unnest(v_wanted, v_ops) AS u(work_id, op)
                 WHERE NOT u.work_id = ANY (v_locked));
END $$;
