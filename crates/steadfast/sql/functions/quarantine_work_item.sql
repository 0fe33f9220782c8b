-- sf_quarantine_work_item: sets an activity aside that cannot be decoded, and tells its orchestration that it
-- failed. Codes: 0 done, 1 invalid token.
-- Called by: op/fetch_work_item.rs.
-- Locks: batch id; the work row.  Hints: the caller's, after commit.  Errors: none.
CREATE OR REPLACE FUNCTION sf_quarantine_work_item(
    p_batch_id uuid, p_retain_ms bigint, p_key bigint, p_work bigint, p_claim bigint, p_error text,
    m_kind smallint, m_payload bytea)
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, 1);
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    WITH gone AS (
        DELETE FROM sf_work w WHERE w.instance_key = p_key AND w.work_id = p_work AND w.claim = p_claim
        RETURNING w.instance_key, w.execution_id, w.activity_id, w.payload
    ), kept AS (
        INSERT INTO sf_quarantine (queue, instance_id, execution_id, activity_id, error, payload)
        SELECT 'worker', i.instance_id, g.execution_id, g.activity_id, p_error, g.payload
        FROM gone g JOIN sf_instance i ON i.instance_key = ANY (ARRAY[g.instance_key])
        RETURNING instance_id
    ), told AS (
        INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
        SELECT k.instance_id, clock_timestamp(), m_kind, m_payload FROM kept k)
    SELECT ARRAY[CASE WHEN count(*) = 0 THEN 1 ELSE 0 END] INTO v_results FROM kept;
    PERFORM sf_batch_close(p_batch_id, false, v_results);
    RETURN v_results;
END $$;
