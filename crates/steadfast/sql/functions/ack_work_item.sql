-- sf_ack_work_item: removes done activities and delivers their completions, each wholly or not at all.
-- Codes: 0 done, 1 invalid token, 2 the lease has ended, 4 locked elsewhere (ask again with p_wait).
-- m_payload NULL: no completion.
-- Called by: op/ack_work_item.rs.
-- Locks: batch id; work rows by key ascending; session rows by key ascending, never waiting.
--        Waits for work rows only with p_wait.
-- Hints: the caller's, after commit.  Errors: none.
CREATE OR REPLACE FUNCTION sf_ack_work_item(
    p_batch_id uuid, p_retain_ms bigint, p_sweep boolean, p_wait boolean,
    o_key bigint[], o_work bigint[], o_claim bigint[], m_instance text[], m_kind smallint[], m_payload bytea[])
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
DECLARE
    v_now      timestamptz;
    v_results  bigint[] := sf_batch_open(p_batch_id, p_retain_ms, cardinality(o_key));
    v_good     bigint;
    v_locked   bigint[];
    v_sessions bytea[];
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    -- Mostly all of them are as they should be: one statement finds that out. v_good counts activities, not
    -- operations, so that a token used twice is looked at more closely.
    IF NOT p_wait THEN
        v_good := (SELECT count(DISTINCT l.work_id) FROM (
            SELECT w.work_id, w.claim = o.claim AND w.available_at > clock_timestamp() AS holds
            FROM unnest(o_key, o_work, o_claim) AS o(key, work_id, claim)
            JOIN sf_work w ON w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
            ORDER BY o.key, o.work_id FOR UPDATE OF w SKIP LOCKED) l WHERE l.holds);
    END IF;
    v_now := clock_timestamp();
    IF v_good = cardinality(o_work) THEN
        v_results := array_fill(0::bigint, ARRAY[cardinality(o_work)]);
    ELSE
        v_locked := sf_lock_work(p_wait, o_key, o_work);
        v_now := clock_timestamp();
        v_results := ARRAY(
            SELECT CASE WHEN w.work_id IS NULL OR w.claim <> o.claim THEN 1
                        WHEN NOT o.work_id = ANY (v_locked) THEN 4
                        WHEN row_number() OVER (PARTITION BY o.work_id, o.claim ORDER BY o.op) > 1 THEN 1
                        WHEN w.available_at <= v_now THEN 2 ELSE 0 END::bigint
            FROM unnest(o_key, o_work, o_claim) WITH ORDINALITY AS o(key, work_id, claim, op)
            LEFT JOIN sf_work w ON w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
            ORDER BY o.op);
    END IF;
    WITH done AS (
        DELETE FROM sf_work w USING unnest(o_key, o_work) WITH ORDINALITY AS o(key, work_id, op)
        WHERE v_results[o.op] = 0 AND w.instance_key = ANY (ARRAY[o.key]) AND w.work_id = o.work_id
        RETURNING w.session_key)
    SELECT array_agg(DISTINCT d.session_key) FILTER (WHERE d.session_key IS NOT NULL) INTO v_sessions FROM done d;
    IF EXISTS (SELECT FROM sf_suspect) THEN
        DELETE FROM sf_suspect s USING unnest(o_key, o_work) WITH ORDINALITY AS o(key, work_id, op)
        WHERE v_results[o.op] = 0 AND s.instance_key = ANY (ARRAY[o.key]) AND s.work_id = o.work_id;
    END IF;
    IF v_sessions IS NOT NULL THEN
        PERFORM sf_touch_sessions(v_sessions, v_now);
    END IF;
    INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
    SELECT m.instance_id, v_now, m.kind, m.payload
    FROM unnest(m_instance, m_kind, m_payload) WITH ORDINALITY AS m(instance_id, kind, payload, op)
    WHERE v_results[m.op] = 0 AND m.payload IS NOT NULL ORDER BY m.op;
    PERFORM sf_batch_close(p_batch_id, p_sweep, v_results);
    RETURN v_results;
END $$;
