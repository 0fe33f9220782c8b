-- sf_export_rows: a page of one part of the store, to be carried elsewhere: up to p_max_rows rows and about p_max_bytes
-- of payloads after the position (p_1, p_2, p_3, p_key) in the order of an index. c1 to c3 and ckey are each row's own
-- position. What the other columns mean depends on the part: src/transfer.rs. Times in milliseconds since the epoch.
-- Called by: op/export_rows.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_export_rows(
    p_part smallint, p_1 bigint, p_2 bigint, p_3 bigint, p_key bytea, p_max_rows integer, p_max_bytes bigint)
RETURNS TABLE (
    instance_id text, n1 bigint, n2 bigint, n3 bigint, n4 bigint, n5 bigint, n6 bigint,
    b1 bytea, b2 bytea, b3 bytea, b4 bytea, b5 bytea, c1 bigint, c2 bigint, c3 bigint, ckey bytea)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    c       refcursor;
    v_rows  integer := 0;
    v_bytes bigint := 0;
BEGIN
    IF p_part = 1 THEN
        -- Rows that only hang messages on an id are no instances.
        OPEN c FOR SELECT i.instance_id, i.execution_id, i.replay_version, i.custom_status_version,
            floor(extract(epoch FROM i.created_at) * 1000)::bigint, floor(extract(epoch FROM i.updated_at) * 1000)::bigint,
            i.instance_key, i.orchestration_name, i.orchestration_version, convert_to(i.status, 'UTF8'), i.custom_status,
            convert_to(i.parent_instance_id, 'UTF8'), i.instance_key, 0::bigint, 0::bigint, ''::bytea
        FROM sf_instance i WHERE i.instance_key > p_1 AND (i.orchestration_name IS NOT NULL
            OR EXISTS (SELECT FROM sf_event e WHERE e.instance_key = i.instance_key))
        ORDER BY i.instance_key LIMIT p_max_rows;
    ELSIF p_part = 2 THEN
        OPEN c FOR SELECT i.instance_id, x.execution_id, x.replay_version,
            floor(extract(epoch FROM x.started_at) * 1000)::bigint, floor(extract(epoch FROM x.completed_at) * 1000)::bigint,
            NULL::bigint, NULL::bigint, convert_to(x.status, 'UTF8'), x.output, NULL::bytea, NULL::bytea, NULL::bytea,
            x.instance_key, x.execution_id, 0::bigint, ''::bytea
        FROM sf_execution x JOIN sf_instance i USING (instance_key)
        WHERE (x.instance_key, x.execution_id) > (p_1, p_2) ORDER BY x.instance_key, x.execution_id LIMIT p_max_rows;
    ELSIF p_part = 3 THEN
        OPEN c FOR SELECT i.instance_id, e.execution_id, e.event_id, e.kind::bigint, NULL::bigint, NULL::bigint, NULL::bigint,
            e.payload, NULL::bytea, NULL::bytea, NULL::bytea, NULL::bytea,
            e.instance_key, e.execution_id, e.event_id, ''::bytea
        FROM sf_event e JOIN sf_instance i USING (instance_key)
        WHERE (e.instance_key, e.execution_id, e.event_id) > (p_1, p_2, p_3)
        ORDER BY e.instance_key, e.execution_id, e.event_id LIMIT p_max_rows;
    ELSIF p_part = 4 THEN
        OPEN c FOR SELECT i.instance_id, floor(extract(epoch FROM m.visible_at) * 1000)::bigint, m.attempt_count::bigint,
            m.kind::bigint, NULL::bigint, NULL::bigint, m.message_id, m.payload, NULL::bytea, NULL::bytea, NULL::bytea,
            NULL::bytea, m.instance_key, m.message_id, 0::bigint, ''::bytea
        -- Held or not: the target holds what it must.
        FROM (SELECT a.* FROM (SELECT s.instance_key, s.message_id, s.visible_at, s.attempt_count, s.kind, s.payload
                               FROM sf_message s WHERE (s.instance_key, s.message_id) > (p_1, p_2)
                               ORDER BY s.instance_key, s.message_id LIMIT p_max_rows) a
              UNION ALL
              SELECT b.* FROM (SELECT h.instance_key, h.message_id, h.visible_at, h.attempt_count, h.kind, h.payload
                               FROM sf_held h WHERE (h.instance_key, h.message_id) > (p_1, p_2)
                               ORDER BY h.instance_key, h.message_id LIMIT p_max_rows) b) m
        JOIN sf_instance i ON i.instance_key = ANY (ARRAY[m.instance_key])
        ORDER BY m.instance_key, m.message_id LIMIT p_max_rows;
    ELSIF p_part = 5 THEN
        -- Messages that no claim has routed yet: nobody has tried them.
        OPEN c FOR SELECT x.instance_id, floor(extract(epoch FROM x.visible_at) * 1000)::bigint, 0::bigint, x.kind::bigint,
            NULL::bigint, NULL::bigint, x.message_id, x.payload, NULL::bytea, NULL::bytea, NULL::bytea, NULL::bytea,
            (extract(epoch FROM x.visible_at) * 1000000)::bigint, x.message_id, 0::bigint, ''::bytea
        FROM sf_inbox x
        WHERE (x.visible_at, x.message_id) > (CASE WHEN p_2 < 0 THEN '-infinity'
                                              ELSE timestamptz 'epoch' + p_1 * interval '1 microsecond' END, p_2)
        ORDER BY x.visible_at, x.message_id LIMIT p_max_rows;
    ELSIF p_part = 6 THEN
        OPEN c FOR SELECT i.instance_id, w.execution_id, w.activity_id,
            floor(extract(epoch FROM w.available_at) * 1000)::bigint, w.attempt_count::bigint, NULL::bigint, w.work_id,
            w.tag, w.session_key, w.payload, NULL::bytea, NULL::bytea, w.instance_key, w.work_id, 0::bigint, ''::bytea
        FROM sf_work w JOIN sf_instance i USING (instance_key)
        WHERE (w.instance_key, w.work_id) > (p_1, p_2) ORDER BY w.instance_key, w.work_id LIMIT p_max_rows;
    ELSIF p_part = 7 THEN
        OPEN c FOR SELECT NULL::text, floor(extract(epoch FROM s.last_activity_at) * 1000)::bigint, NULL::bigint,
            NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint, s.session_key, NULL::bytea, NULL::bytea, NULL::bytea,
            NULL::bytea, 0::bigint, 0::bigint, 0::bigint, s.session_key
        FROM sf_session s WHERE s.session_key > p_key ORDER BY s.session_key LIMIT p_max_rows;
    ELSIF p_part = 8 THEN
        OPEN c FOR SELECT i.instance_id, v.base_at_ms, v.changed::integer::bigint, v.delta_at_ms, NULL::bigint, NULL::bigint,
            NULL::bigint, v.key, v.base_value, v.delta_value, NULL::bytea, NULL::bytea,
            v.instance_key, 0::bigint, 0::bigint, v.key_id
        FROM sf_kv v JOIN sf_instance i USING (instance_key)
        WHERE (v.instance_key, v.key_id) > (p_1, p_key) ORDER BY v.instance_key, v.key_id LIMIT p_max_rows;
    ELSE
        OPEN c FOR SELECT q.instance_id, q.execution_id, q.activity_id,
            floor(extract(epoch FROM q.quarantined_at) * 1000)::bigint, NULL::bigint, NULL::bigint, q.quarantine_id,
            convert_to(q.queue, 'UTF8'), convert_to(q.error, 'UTF8'), q.payload, NULL::bytea, NULL::bytea,
            q.quarantine_id, 0::bigint, 0::bigint, ''::bytea
        FROM sf_quarantine q WHERE q.quarantine_id > p_1 ORDER BY q.quarantine_id LIMIT p_max_rows;
    END IF;
    LOOP
        FETCH c INTO instance_id, n1, n2, n3, n4, n5, n6, b1, b2, b3, b4, b5, c1, c2, c3, ckey;
        EXIT WHEN NOT FOUND;
        RETURN NEXT;
        v_rows := v_rows + 1;
        v_bytes := v_bytes + coalesce(octet_length(b1), 0) + coalesce(octet_length(b2), 0) + coalesce(octet_length(b3), 0)
                   + coalesce(octet_length(b4), 0) + coalesce(octet_length(b5), 0);
        EXIT WHEN v_rows >= p_max_rows OR v_bytes >= p_max_bytes;
    END LOOP;
    CLOSE c;
END $$;
