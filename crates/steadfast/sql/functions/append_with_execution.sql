-- sf_append_with_execution: appends events outside a turn (tests, repair). Codes: 0 done, 3 an event id
-- exists already (nothing is appended then).
-- Called by: op/append_with_execution.rs.
-- Locks: batch id; the instance row (waits for it).  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_append_with_execution(
    p_batch_id uuid, p_retain_ms bigint, p_instance text, p_execution bigint,
    e_event bigint[], e_kind smallint[], e_payload bytea[],
    p_feed smallint[])
RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
DECLARE
    v_results bigint[] := sf_batch_open(p_batch_id, p_retain_ms, 1);
    v_key     bigint;
    v_named   boolean;
BEGIN
    IF v_results IS NOT NULL THEN
        RETURN v_results;
    END IF;
    -- A deletion may remove the instance between the two statements: then once more.
    LOOP
        INSERT INTO sf_instance (instance_id, execution_id) VALUES (p_instance, p_execution) ON CONFLICT DO NOTHING;
        SELECT i.instance_key, i.orchestration_name IS NOT NULL INTO v_key, v_named
        FROM sf_instance i WHERE i.instance_id = p_instance FOR NO KEY UPDATE;
        EXIT WHEN FOUND;
    END LOOP;
    IF EXISTS (SELECT FROM unnest(e_event) AS u(event_id) JOIN sf_event h ON h.instance_key = v_key
                  AND h.execution_id = p_execution AND h.event_id = u.event_id) THEN
        v_results := ARRAY[3];
    ELSE
        INSERT INTO sf_event (instance_key, execution_id, event_id, kind, payload)
        SELECT v_key, p_execution, e.event_id, e.kind, e.payload
        FROM unnest(e_event, e_kind, e_payload) AS e(event_id, kind, payload);
        UPDATE sf_turn t SET lane = 0 WHERE t.instance_key = v_key AND t.lane = -1;
        -- Nobody's cache has these (nor, where they fill a gap, would it notice); and an instance without a name is as far as its events are.
        UPDATE sf_instance i SET cache_owner = NULL, history_revision = i.history_revision + 1,
               execution_id = CASE WHEN v_named THEN i.execution_id ELSE greatest(i.execution_id, p_execution) END
        WHERE i.instance_key = v_key;
        IF cardinality(p_feed) > 0 THEN
            PERFORM sf_feed_append(clock_timestamp(), NULL, ARRAY[v_key], ARRAY[p_execution],
                                   array_fill(1, ARRAY[cardinality(e_event)]), e_event, p_feed);
        END IF;
        v_results := ARRAY[0];
    END IF;
    PERFORM sf_batch_close(p_batch_id, false, v_results);
    RETURN v_results;
END $$;
