-- sf_enqueue_for_orchestrator: puts messages into the inbox, due after m_delay_ms or at m_visible_ms
-- (epoch; timers), whichever is given; now otherwise. Codes: all 0.
-- Called by: op/enqueue_for_orchestrator.rs.
-- Locks: batch id.  Hints: the caller's, after commit.  Errors: none.
CREATE OR REPLACE FUNCTION sf_enqueue_for_orchestrator(
    p_batch_id uuid, p_retain_ms bigint, p_sweep boolean,
    m_instance text[], m_delay_ms bigint[], m_visible_ms bigint[], m_kind smallint[], m_payload bytea[])
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
DECLARE
    v_now     timestamptz := clock_timestamp();
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, cardinality(m_instance));
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    INSERT INTO sf_inbox (instance_id, sent_at, visible_at, kind, payload)
    SELECT m.instance_id, CASE WHEN m.kind = 1 AND m.delay_ms > 0 THEN v_now END,
           coalesce(v_now + m.delay_ms * interval '1 millisecond', to_timestamp(m.visible_ms / 1000.0), v_now),
           m.kind, m.payload
    FROM unnest(m_instance, m_delay_ms, m_visible_ms, m_kind, m_payload) WITH ORDINALITY
         AS m(instance_id, delay_ms, visible_ms, kind, payload, n)
    ORDER BY m.n;
    v_results := array_fill(0::bigint, ARRAY[cardinality(m_instance)]);
    PERFORM sf_batch_close(p_batch_id, p_sweep, v_results);
    RETURN v_results;
END $$;
