-- sf_feed_payloads: what a history holds of these events, in their order; NULL for what it does not hold (any more).
-- A function of its own, so that only who asks for payloads needs the right to read histories.
-- Called by: sf_feed_read.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_feed_payloads(p_key bigint, p_execution bigint, p_event_ids bigint[])
RETURNS bytea[]
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN ARRAY(
        SELECT e.payload FROM unnest(p_event_ids) WITH ORDINALITY AS u(id, n)
        LEFT JOIN sf_event e ON e.instance_key = p_key AND e.execution_id = p_execution AND e.event_id = u.id
        ORDER BY u.n);
END $$;
