-- sf_claim_starts: makes the rows of instances that have none yet. There is nothing to lock but a start message: it is the ticket.
-- Called by: sf_fetch_orchestration_item.
-- Locks: start messages, never waiting.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_claim_starts(p_ids text[], p_now timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    INSERT INTO sf_instance (instance_id, created_at)
    SELECT n.instance_id, n.sent_at FROM (
        SELECT s.instance_id, s.sent_at FROM unnest(p_ids) AS u(id) CROSS JOIN LATERAL (
            -- Nor has it got one since: whoever deletes that waits for our ticket, and we for him.
            SELECT x.instance_id, coalesce(x.sent_at, x.visible_at) AS sent_at FROM sf_inbox x
            WHERE x.instance_id >= u.id AND (x.instance_id, x.visible_at) <= (u.id, p_now) AND x.kind IN (1, 2)
              AND (SELECT true FROM sf_instance i WHERE i.instance_id = u.id) IS NULL
            ORDER BY x.instance_id, x.visible_at, x.message_id LIMIT 1 FOR UPDATE SKIP LOCKED) s
        ORDER BY s.instance_id) n
    ON CONFLICT DO NOTHING;
END $$;
