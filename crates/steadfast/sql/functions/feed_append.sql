-- sf_feed_append: writes down what operations did, one pending row for each at most.
-- o_*: one entry per operation (o_execution NULL: the instance's current one); e_*: their events, each with the index of
-- its operation; an event of kind 0 is not recorded, nor is one whose operation has another result than 0.
-- Called by: every function that changes what can be observed of an instance, with its row locked.
-- Locks: none beyond; its own new rows.  Hints: the caller's, after commit.  Errors: none.
CREATE OR REPLACE FUNCTION sf_feed_append(
    p_at timestamptz, p_results bigint[], o_key bigint[], o_execution bigint[],
    e_op integer[], e_event bigint[], e_kind smallint[])
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    -- Only the table that is written to is locked, so that the other can be truncated. Hence two statements that differ in
    -- nothing but the table, each of which is one insertion for the whole batch.
    IF (SELECT h.filling FROM sf_feed_head h) = 0 THEN
        INSERT INTO sf_feed_pending_0
        SELECT nextval('sf_feed_pending_id'), pg_current_xact_id(), floor(random() * 9e15)::bigint, p_at, i.instance_key,
               i.instance_id, coalesce(o_execution[f.op], i.execution_id), i.orchestration_name, f.event_ids, f.kinds
        FROM (SELECT s.op, array_agg(s.event_id) AS event_ids, array_agg(s.kind) AS kinds
              FROM (SELECT e.op, e.event_id, e.kind
                    FROM unnest(e_op, e_event, e_kind) WITH ORDINALITY AS e(op, event_id, kind, n)
                    WHERE e.kind <> 0 AND coalesce(p_results[e.op], 0) = 0 ORDER BY e.op, e.n) s GROUP BY s.op) f
        JOIN sf_instance i ON i.instance_key = ANY (ARRAY[o_key[f.op]]);
    ELSE
        INSERT INTO sf_feed_pending_1
        SELECT nextval('sf_feed_pending_id'), pg_current_xact_id(), floor(random() * 9e15)::bigint, p_at, i.instance_key,
               i.instance_id, coalesce(o_execution[f.op], i.execution_id), i.orchestration_name, f.event_ids, f.kinds
        FROM (SELECT s.op, array_agg(s.event_id) AS event_ids, array_agg(s.kind) AS kinds
              FROM (SELECT e.op, e.event_id, e.kind
                    FROM unnest(e_op, e_event, e_kind) WITH ORDINALITY AS e(op, event_id, kind, n)
                    WHERE e.kind <> 0 AND coalesce(p_results[e.op], 0) = 0 ORDER BY e.op, e.n) s GROUP BY s.op) f
        JOIN sf_instance i ON i.instance_key = ANY (ARRAY[o_key[f.op]]);
    END IF;
END $$;
