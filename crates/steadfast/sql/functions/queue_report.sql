-- sf_queue_report: depths of the queues, by what keeps an item waiting.
-- ready: due and free; delayed: due later; leased: handed out. For orchestrations: messages; leased counts
-- messages of claims, turns_leased the claims themselves.
-- Called by: op/queue_report.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_queue_report()
RETURNS TABLE (queue text, ready bigint, delayed bigint, leased bigint, leases bigint, oldest_due_ms bigint,
               next_due_ms bigint)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := clock_timestamp();
BEGIN
    RETURN QUERY
    SELECT 'orchestrator'::text, count(*) FILTER (WHERE NOT m.leased AND m.at <= v_now),
           count(*) FILTER (WHERE NOT m.leased AND m.at > v_now), count(*) FILTER (WHERE m.leased),
           (SELECT count(*) FROM sf_turn t WHERE t.claim > 0 AND t.available_at > v_now),
           floor(extract(epoch FROM v_now - min(m.at) FILTER (WHERE NOT m.leased AND m.at <= v_now)) * 1000)::bigint,
           ceil(extract(epoch FROM min(m.at) FILTER (WHERE NOT m.leased AND m.at > v_now) - v_now) * 1000)::bigint
    FROM (SELECT x.visible_at AS at, false AS leased FROM sf_inbox x
          UNION ALL
          SELECT s.visible_at, coalesce(s.claim = t.claim AND t.available_at > v_now, false)
          FROM sf_message s LEFT JOIN sf_turn t ON t.instance_key = s.instance_key) m
    UNION ALL
    SELECT 'worker', count(*) FILTER (WHERE w.claim = 0 AND w.available_at <= v_now OR w.claim <> 0 AND w.available_at <= v_now),
           count(*) FILTER (WHERE w.claim = 0 AND w.available_at > v_now),
           count(*) FILTER (WHERE w.claim <> 0 AND w.available_at > v_now),
           count(*) FILTER (WHERE w.claim <> 0 AND w.available_at > v_now),
           floor(extract(epoch FROM v_now - min(w.available_at) FILTER (WHERE w.available_at <= v_now)) * 1000)::bigint,
           ceil(extract(epoch FROM min(w.available_at) FILTER (WHERE w.claim = 0 AND w.available_at > v_now) - v_now) * 1000)::bigint
    FROM sf_work w
    UNION ALL
    SELECT 'quarantine', count(*), 0, 0, 0,
           floor(extract(epoch FROM v_now - min(q.quarantined_at)) * 1000)::bigint, NULL
    FROM sf_quarantine q;
END $$;
