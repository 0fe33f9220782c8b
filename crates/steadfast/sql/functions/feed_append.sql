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
DECLARE
    v_rows sf_feed_pending_0[];
BEGIN
    v_rows := ARRAY(
        SELECT ROW(nextval('sf_feed_pending_id'), pg_current_xact_id(), floor(random() * 9e15)::bigint, p_at,
                   i.instance_key, i.instance_id, coalesce(o_execution[f.op], i.execution_id), i.orchestration_name,
                   f.event_ids, f.kinds)::sf_feed_pending_0
        FROM (SELECT e.op, array_agg(e.event_id ORDER BY e.n) AS event_ids, array_agg(e.kind ORDER BY e.n) AS kinds
              FROM unnest(e_op, e_event, e_kind) WITH ORDINALITY AS e(op, event_id, kind, n)
              WHERE e.kind <> 0 AND coalesce(p_results[e.op], 0) = 0 GROUP BY e.op) f
        JOIN sf_instance i ON i.instance_key = o_key[f.op]);
    IF cardinality(v_rows) = 0 THEN
        RETURN;
    END IF;
    -- Only the table that is written to is locked, so that the other can be truncated.
    IF (SELECT h.filling FROM sf_feed_head h) = 0 THEN
        INSERT INTO sf_feed_pending_0 SELECT (unnest(v_rows)).*;
    ELSE
        INSERT INTO sf_feed_pending_1 SELECT (unnest(v_rows)).*;
    END IF;
END $$;
