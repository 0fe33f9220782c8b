-- sf_feed_read: a stretch of the feed behind p_after, and where the feed begins and ends, in one snapshot. Looks at
-- p_limit rows at most; those that match are returned (one row without them when none does), each beside the head.
-- upto: where the stretch ends; mark_after, mark_upto: marks of the rows that hold p_after and upto; events: number of
-- positions the looked-at rows hold; from_sequence: their first one. p_*: NULL filters nothing.
-- Called by: postgres/feed.rs. A role that may only read may call it.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_feed_read(
    p_after bigint, p_limit integer, p_instances text[], p_prefix text, p_names bytea[], p_kinds smallint[],
    p_payload boolean)
RETURNS TABLE (epoch uuid, first_sequence bigint, head bigint, pending boolean, standby boolean, mark_after bigint,
               upto bigint, mark_upto bigint, from_sequence bigint, events bigint,
               last_sequence bigint, mark bigint, at_ms bigint, instance_id text, execution_id bigint, orchestration_name bytea,
               event_ids bigint[], kinds smallint[], payloads bytea[])
LANGUAGE sql STABLE SET search_path FROM CURRENT SET enable_seqscan = off SET enable_bitmapscan = off AS $$
    WITH h AS MATERIALIZED (
        SELECT h.epoch, h.first_sequence, h.trimmed_mark, coalesce(
                   (SELECT f.last_sequence FROM sf_feed f ORDER BY f.last_sequence DESC LIMIT 1),
                   h.first_sequence - 1) AS head
        FROM sf_feed_head h),
    scanned AS MATERIALIZED (
        SELECT f.* FROM sf_feed f WHERE f.last_sequence > greatest(p_after, (SELECT h.first_sequence - 1 FROM h))
        ORDER BY f.last_sequence LIMIT p_limit),
    stretch AS MATERIALIZED (
        -- Not least() alone: it passes over NULL, and nothing has no end.
        SELECT CASE WHEN count(*) > 0 THEN least(max(s.last_sequence), p_after + p_limit) END AS upto,
               sum(cardinality(s.kinds)) AS events,
               min(s.last_sequence - cardinality(s.kinds) + 1) AS from_sequence FROM scanned s),
    matching AS (
        SELECT s.* FROM scanned s
        WHERE (p_instances IS NULL OR s.instance_id = ANY (p_instances))
          AND (p_prefix IS NULL OR starts_with(s.instance_id, p_prefix))
          AND (p_names IS NULL OR s.orchestration_name = ANY (p_names))
          AND (p_kinds IS NULL OR s.kinds && p_kinds)
          AND s.last_sequence - cardinality(s.kinds) < (SELECT t.upto FROM stretch t))
    SELECT h.epoch, h.first_sequence, h.head,
           EXISTS (SELECT FROM sf_feed_pending_0) OR EXISTS (SELECT FROM sf_feed_pending_1), pg_is_in_recovery(),
           CASE WHEN p_after = h.first_sequence - 1 THEN h.trimmed_mark
                ELSE (SELECT f.mark FROM sf_feed f WHERE f.last_sequence >= p_after
                      ORDER BY f.last_sequence LIMIT 1) END,
           t.upto, (SELECT s.mark FROM scanned s WHERE s.last_sequence >= t.upto ORDER BY s.last_sequence LIMIT 1),
           t.from_sequence, t.events::bigint, m.last_sequence, m.mark, (extract(epoch FROM m.at) * 1000)::bigint,
           m.instance_id, m.execution_id, m.orchestration_name, m.event_ids, m.kinds,
           CASE WHEN p_payload AND m.last_sequence IS NOT NULL
                THEN sf_feed_payloads(m.instance_key, m.execution_id, m.event_ids) END
    FROM h CROSS JOIN stretch t LEFT JOIN matching m ON true
    ORDER BY m.last_sequence
$$;
