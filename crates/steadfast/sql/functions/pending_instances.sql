-- sf_pending_instances: starts that have not become an instance yet, newest first, after p_before (NULL: from the newest);
-- or that of p_instance alone. One row an id: a second start of it is not another instance. `payload` is cut after p_bytes.
-- waiting (messages for it) and lease_ms_left are told of p_instance only.
-- Called by: op/pending_instances.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_pending_instances(
    p_instance text, p_prefix text, p_before bigint, p_limit bigint, p_bytes integer)
RETURNS TABLE (message_id bigint, instance_id text, payload bytea, sent_ms bigint, touched_ms bigint, waiting bigint,
               lease_ms_left bigint)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_bitmapscan = off
SET enable_sort = off AS $$
#variable_conflict use_column
BEGIN
    IF p_instance IS NOT NULL THEN
        RETURN QUERY
        SELECT s.message_id, p_instance, substring(s.payload FROM 1 FOR p_bytes),
               floor(extract(epoch FROM s.at) * 1000)::bigint,
               floor(extract(epoch FROM coalesce(i.updated_at, s.at)) * 1000)::bigint,
               (SELECT count(*) FROM sf_message m WHERE m.instance_key = i.instance_key)
                 + (SELECT count(*) FROM sf_inbox m WHERE m.instance_id = p_instance),
               (SELECT ceil(extract(epoch FROM t.available_at - clock_timestamp()) * 1000)::bigint FROM sf_turn t
                WHERE t.instance_key = i.instance_key AND t.claim IS NOT NULL)
        FROM (SELECT x.message_id, x.payload, coalesce(x.sent_at, x.visible_at) AS at FROM sf_inbox x
              WHERE x.instance_id = p_instance AND x.kind IN (1, 2) AND x.kind = 1
              UNION ALL
              SELECT m.message_id, m.payload, n.created_at FROM sf_instance n
              JOIN sf_message m ON m.instance_key = n.instance_key
              WHERE n.instance_id = p_instance AND m.kind IN (1, 2) AND m.kind = 1) s
        LEFT JOIN sf_instance i ON i.instance_id = p_instance
        WHERE i.orchestration_name IS NULL ORDER BY s.message_id LIMIT 1;
        RETURN;
    END IF;
    RETURN QUERY
    SELECT s.message_id, s.instance_id, substring(s.payload FROM 1 FOR p_bytes),
           floor(extract(epoch FROM s.at) * 1000)::bigint, floor(extract(epoch FROM s.touched) * 1000)::bigint,
           0::bigint, NULL::bigint
    FROM (
        (SELECT x.message_id, x.instance_id, x.payload, coalesce(x.sent_at, x.visible_at) AS at,
                coalesce(x.sent_at, x.visible_at) AS touched
         FROM sf_inbox x LEFT JOIN sf_instance i ON i.instance_id = x.instance_id
         WHERE x.kind = 1 AND (p_before IS NULL OR x.message_id < p_before)
           AND (p_prefix IS NULL OR starts_with(x.instance_id, p_prefix)) AND i.orchestration_name IS NULL
           AND (SELECT true FROM sf_inbox y WHERE y.instance_id = x.instance_id AND y.kind IN (1, 2) AND y.kind = 1
                   AND y.message_id < x.message_id LIMIT 1) IS NULL
           AND (SELECT true FROM sf_message m WHERE m.instance_key = i.instance_key AND m.kind IN (1, 2) AND m.kind = 1
                LIMIT 1) IS NULL
         ORDER BY x.message_id DESC LIMIT p_limit)
        UNION ALL
        (SELECT m.message_id, i.instance_id, m.payload, i.created_at, i.updated_at
         FROM sf_message m JOIN sf_instance i ON i.instance_key = m.instance_key
         WHERE m.kind = 1 AND (p_before IS NULL OR m.message_id < p_before)
           AND (p_prefix IS NULL OR starts_with(i.instance_id, p_prefix)) AND i.orchestration_name IS NULL
           AND (SELECT true FROM sf_message y WHERE y.instance_key = m.instance_key AND y.kind IN (1, 2) AND y.kind = 1
                   AND y.message_id < m.message_id LIMIT 1) IS NULL
         ORDER BY m.message_id DESC LIMIT p_limit)) s
    ORDER BY s.message_id DESC LIMIT p_limit;
END $$;
