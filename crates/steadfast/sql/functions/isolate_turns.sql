-- sf_isolate_turns: of the instances that this call has just claimed, those that may be handed over; the others are put off
-- (sf_isolate): nobody's claim holds them until then.
-- Called by: sf_route_claimed, with the instance rows locked.
-- Locks: as sf_isolate.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_isolate_turns(p_now timestamptz, p_claim bigint, p_keys bigint[]) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    v_keys    bigint[];
    v_ended   bigint[];
    v_leases  bigint[];
    v_off     bigint[];
    v_until   timestamptz[];
    v_unspent bigint[];
BEGIN
    SELECT array_agg(t.instance_key ORDER BY t.instance_key), array_agg(t.superseded ORDER BY t.instance_key),
           array_agg(coalesce(t.superseded_ms, t.lease_ms) ORDER BY t.instance_key)
      INTO v_keys, v_ended, v_leases FROM sf_turn t WHERE t.instance_key = ANY (p_keys);
    SELECT coalesce(array_agg(d.instance_key) FILTER (WHERE d.off_until IS NOT NULL), '{}'),
           array_agg(d.off_until) FILTER (WHERE d.off_until IS NOT NULL),
           coalesce(array_agg(d.instance_key) FILTER (WHERE d.unspent), '{}')
      INTO v_off, v_until, v_unspent
      FROM sf_isolate(p_now, p_claim, v_keys, array_fill(0::bigint, ARRAY[cardinality(v_keys)]), v_ended, v_leases) d;
    UPDATE sf_message s
       SET attempt_count = CASE WHEN s.instance_key = ANY (v_unspent) THEN greatest(0, s.attempt_count - 1)
                                ELSE s.attempt_count END,
           claim = CASE WHEN s.instance_key = ANY (v_off) THEN NULL ELSE s.claim END
    FROM unnest(v_keys, v_ended) AS c(key, ended)
    WHERE c.ended > 0 AND c.key = ANY (v_off || v_unspent)
      AND s.instance_key = ANY (ARRAY[c.key]) AND s.claim = c.ended;
    UPDATE sf_turn t SET claim = -1, available_at = o.until,
           lease_ms = coalesce(t.superseded_ms, t.lease_ms)
    FROM unnest(v_off, v_until) AS o(key, until) WHERE t.instance_key = ANY (ARRAY[o.key]);
    RETURN ARRAY(SELECT k.id FROM unnest(p_keys) AS k(id) WHERE NOT k.id = ANY (v_off));
END $$;
