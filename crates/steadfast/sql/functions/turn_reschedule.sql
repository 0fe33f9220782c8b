-- sf_turn_reschedule: ends the leases of these instances. What is still routed to one is due when its
-- earliest message is; an instance without messages has no scheduling row.
-- Called by: sf_route_claimed, sf_ack_orchestration_item, sf_abandon_orchestration_item, with the instance
--            rows locked.
-- Locks: none beyond.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_turn_reschedule(p_keys bigint[], p_now timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_gone bigint;
BEGIN
    DELETE FROM sf_turn t WHERE t.instance_key = ANY (p_keys)
       AND (SELECT true FROM sf_message s WHERE s.instance_key = t.instance_key LIMIT 1) IS NULL;
    GET DIAGNOSTICS v_gone = ROW_COUNT;
    IF v_gone = cardinality(p_keys) THEN
        RETURN;
    END IF;
    -- Only the oldest messages are looked at: a backlog of 50,000 must not slow the ack of one turn. A claim
    -- takes at most 1,000, so whatever was delayed together is among them.
    -- An instance that nobody has started waits for its start: until a routed one is due, or (lane -1) until one
    -- arrives.
    UPDATE sf_turn t SET claim = NULL, leased_at = NULL, lease_ms = NULL,
           lane = CASE WHEN n.unstarted AND n.start_at IS NULL THEN -1 ELSE coalesce(i.replay_version, 0) END,
           -- Hardly in the past: a claim may begin its look at sf_look_recent, and this is still to be committed.
           available_at = greatest(CASE WHEN n.unstarted AND n.start_at IS NOT NULL THEN n.start_at ELSE n.due_at END,
                                   sf_look_recent(p_now) + interval '100 milliseconds')
    FROM sf_instance i CROSS JOIN LATERAL (
        SELECT i.orchestration_name IS NULL
               AND (SELECT true FROM sf_event e WHERE e.instance_key = i.instance_key LIMIT 1) IS NULL AS unstarted,
               (SELECT min(s.visible_at) FROM sf_message s
                WHERE s.instance_key = i.instance_key AND s.kind IN (1, 2)) AS start_at,
               (SELECT min(o.visible_at) FROM (
                    SELECT s.visible_at FROM sf_message s WHERE s.instance_key = i.instance_key
                    ORDER BY s.message_id LIMIT 1001) o) AS due_at) n
    WHERE t.instance_key = ANY (p_keys) AND i.instance_key = ANY (ARRAY[t.instance_key]);
END $$;
