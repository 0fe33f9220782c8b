-- sf_lock_work: locks the given activities, waiting for others only with p_wait; returns those it got.
-- Called by: sf_ack_work_item, sf_abandon_work_item, sf_renew_work_item_lock.
-- Locks: work rows by key ascending.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_lock_work(p_wait boolean, o_key bigint[], o_work bigint[]) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF p_wait THEN
        PERFORM set_config('lock_timeout', '2s', true);
        RETURN ARRAY(SELECT w.work_id FROM unnest(o_key, o_work) AS o(key, work_id)
                     JOIN sf_work w ON w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
                     ORDER BY o.key, o.work_id FOR UPDATE OF w);
    END IF;
    RETURN ARRAY(SELECT w.work_id FROM unnest(o_key, o_work) AS o(key, work_id)
                 JOIN sf_work w ON w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
                 ORDER BY o.key, o.work_id FOR UPDATE OF w SKIP LOCKED);
END $$;
