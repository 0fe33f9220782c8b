-- sf_delete_instances: removes instances with all that belongs to them. Answers {code, instances, executions,
-- events, messages}; code 0 done, 5 one is still running and p_force is false (or it is p_ended, which must have
-- ended in any case), 7 the same of one that nobody has begun, 6 one has a sub-orchestration
-- that is not among p_instances. The offender is in `culprit`.
-- Called by: op/delete_instances.rs.
-- Locks: batch id; instance rows by key ascending (waits for them), then all that belongs to them; messages, never
--        waiting.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_delete_instances(
    p_batch_id uuid, p_retain_ms bigint, p_instances text[], p_force boolean, p_ended text,
    p_feed boolean,
    OUT results bigint[], OUT culprit text)
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
DECLARE
    v_keys       bigint[];
    v_count      bigint;
    v_executions bigint;
    v_events     bigint;
    v_messages   bigint := 0;
    v_pending    text[];     -- ids of those that nobody has begun
    v_gone       text[];     -- of those, the ones whose start is deleted here
BEGIN
    results := sf_batch_open(p_batch_id, p_retain_ms, 5);
    IF results IS NOT NULL THEN
        RETURN;
    END IF;
    v_keys := ARRAY(SELECT i.instance_key FROM sf_instance i WHERE i.instance_id = ANY (p_instances)
                    ORDER BY i.instance_key + 0 FOR UPDATE);
    SELECT i.instance_id INTO culprit FROM sf_instance i
    -- Between two executions is running, too.
    WHERE i.instance_key = ANY (v_keys) AND i.status NOT IN ('Completed', 'Failed')
      AND i.orchestration_name IS NOT NULL AND (NOT p_force OR i.instance_id = p_ended) ORDER BY i.instance_key LIMIT 1;
    IF culprit IS NOT NULL THEN
        results := ARRAY[5, 0, 0, 0, 0];
        -- Nothing was done, so a retry looks anew: it finds the culprit again, or does the work.
        DELETE FROM sf_batch b WHERE b.batch_id = p_batch_id;
        RETURN;
    END IF;
    -- LIMIT keeps these probes of one instance each: an EXISTS may be hashed over a whole table.
    v_pending := ARRAY(
        SELECT u.id FROM unnest(p_instances) AS u(id) LEFT JOIN sf_instance i ON i.instance_id = ANY (ARRAY[u.id])
        WHERE i.orchestration_name IS NULL AND (
            (SELECT true FROM sf_inbox x WHERE x.instance_id = u.id AND x.kind IN (1, 2) AND x.kind = 1 LIMIT 1)
            OR (SELECT true FROM sf_message s WHERE s.instance_key = i.instance_key AND s.kind IN (1, 2) AND s.kind = 1
                LIMIT 1)));
    IF cardinality(v_pending) > 0 AND (NOT p_force OR p_ended = ANY (v_pending)) THEN
        results := ARRAY[7, 0, 0, 0, 0];
        culprit := v_pending[1];
        DELETE FROM sf_batch b WHERE b.batch_id = p_batch_id;
        RETURN;
    END IF;
    SELECT i.instance_id INTO culprit FROM sf_instance i
    WHERE i.parent_instance_id = ANY (p_instances) AND NOT i.instance_id = ANY (p_instances) LIMIT 1;
    IF culprit IS NOT NULL THEN
        results := ARRAY[6, 0, 0, 0, 0];
        -- Nothing was done, so a retry looks anew: it finds the culprit again, or does the work.
        DELETE FROM sf_batch b WHERE b.batch_id = p_batch_id;
        RETURN;
    END IF;
    DELETE FROM sf_event e WHERE e.instance_key = ANY (v_keys);
    GET DIAGNOSTICS v_events = ROW_COUNT;
    DELETE FROM sf_execution x WHERE x.instance_key = ANY (v_keys);
    GET DIAGNOSTICS v_executions = ROW_COUNT;
    DELETE FROM sf_kv v WHERE v.instance_key = ANY (v_keys);
    v_gone := ARRAY(SELECT i.instance_id FROM sf_instance i WHERE i.instance_key = ANY (v_keys)
                    AND i.instance_id = ANY (v_pending) AND (
                        SELECT true FROM sf_message s WHERE s.instance_key = i.instance_key AND s.kind IN (1, 2) AND s.kind = 1
                LIMIT 1));
    DELETE FROM sf_turn t WHERE t.instance_key = ANY (v_keys);
    DELETE FROM sf_message s WHERE s.instance_key = ANY (v_keys);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_messages := v_messages + v_count;
    DELETE FROM sf_suspect s WHERE s.instance_key = ANY (v_keys);
    DELETE FROM sf_held h WHERE h.instance_key = ANY (v_keys);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_messages := v_messages + v_count;
    DELETE FROM sf_work w WHERE w.instance_key = ANY (v_keys);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_messages := v_messages + v_count;
    -- What a claim is routing at this moment counts as sent after the deletion: a claim that holds a start message
    -- may be waiting for us to insert its instance.
    WITH doomed AS MATERIALIZED (
        SELECT x.ctid AS tid FROM sf_inbox x WHERE x.instance_id = ANY (p_instances) FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM sf_inbox x USING doomed d WHERE x.ctid = d.tid RETURNING x.instance_id, x.kind)
    SELECT count(*), v_gone || coalesce(array_agg(DISTINCT g.instance_id)
               FILTER (WHERE g.kind = 1 AND g.instance_id = ANY (v_pending)), '{}')
      INTO v_count, v_gone FROM gone g;
    v_messages := v_messages + v_count;
    IF cardinality(v_gone) > 0 THEN
        -- They are deleted as instances, so each gets a row. One that a claim has just made of another start is not ours.
        WITH made AS (
            INSERT INTO sf_instance (instance_id)
            SELECT DISTINCT u.id FROM unnest(v_gone) AS u(id)
            WHERE (SELECT true FROM sf_instance i WHERE i.instance_id = u.id) IS NULL ORDER BY u.id
            ON CONFLICT DO NOTHING RETURNING instance_key)
        SELECT v_keys || coalesce(array_agg(m.instance_key), '{}') INTO v_keys FROM made m;
        IF p_feed THEN
            PERFORM sf_feed_append(clock_timestamp(), NULL, k.keys, NULL, ARRAY(SELECT generate_series(1, k.n)),
                                   array_fill(0::bigint, ARRAY[k.n]), array_fill(80::smallint, ARRAY[k.n]))
            FROM (SELECT array_agg(i.instance_key) AS keys, count(*)::integer AS n FROM sf_instance i
                  WHERE i.instance_key = ANY (v_keys) AND i.instance_id = ANY (v_gone)) k WHERE k.n > 0;
        END IF;
    END IF;
    IF p_feed THEN PERFORM sf_feed_note(v_keys, NULL, 80::smallint); END IF;
    DELETE FROM sf_instance i WHERE i.instance_key = ANY (v_keys);
    GET DIAGNOSTICS v_count = ROW_COUNT;
    results := ARRAY[0, v_count, v_executions, v_events, v_messages];
    PERFORM sf_batch_close(p_batch_id, false, results);
END $$;
