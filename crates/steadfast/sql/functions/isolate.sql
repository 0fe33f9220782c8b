-- sf_isolate: counts attempts that ended with their lease, and keeps items apart that have had three of them: after each
-- such end they are put off, longer each time; then one at a time is let through to a provider (p_claim says whose), and
-- for a while, longer each time, no other. Items with fewer go on beside it, and if they end with it, they are not spent.
-- work_id 0: the turn of an instance. c_ended: the claim that ended, 0 or less where none did. Rows: those that are put off
-- (until off_until), and those whose ended attempt is not spent.
--
-- Called by: sf_isolate_turns, sf_isolate_work, with the items locked.
-- Locks: its own rows, each under its item's lock; the provider's place (advisory, this transaction) and stale rows, never
--        waiting.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_isolate(
    p_now timestamptz, p_claim bigint, c_key bigint[], c_work bigint[], c_ended bigint[], c_lease_ms bigint[])
RETURNS TABLE (instance_key bigint, work_id bigint, off_until timestamptz, unspent boolean)
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
    v_claimer bigint := p_claim >> 32;
    v_ms      interval := interval '1 millisecond';
    v_one     bigint;              -- place of the suspect that is let through
BEGIN
    INSERT INTO sf_suspect AS s (instance_key, work_id, expired)
    SELECT c.key, c.work_id, 1 FROM unnest(c_key, c_work, c_ended) AS c(key, work_id, ended)
    WHERE c.ended > 0 ORDER BY c.key, c.work_id
    ON CONFLICT (instance_key, work_id) DO UPDATE SET expired = s.expired + 1;

    SELECT c.n INTO v_one FROM unnest(c_key, c_work, c_ended) WITH ORDINALITY AS c(key, work_id, ended, n)
    JOIN sf_suspect s ON s.instance_key = ANY (ARRAY[c.key]) AND s.work_id = c.work_id
    WHERE s.expired >= 3 AND (c.ended > 0) IS NOT TRUE ORDER BY c.n LIMIT 1;
    IF v_one IS NOT NULL AND (
        NOT pg_try_advisory_xact_lock(hashtextextended('sf_isolated', v_claimer))
        OR EXISTS (SELECT FROM sf_isolated i WHERE i.claimer = v_claimer AND i.alone_until > p_now AND coalesce(
               (SELECT true FROM sf_turn t WHERE i.work_id = 0 AND t.instance_key = i.instance_key AND t.claim = i.claim
                   AND t.available_at > p_now),
               (SELECT true FROM sf_work w WHERE w.instance_key = i.instance_key AND w.work_id = i.work_id
                   AND w.claim = i.claim AND w.available_at > p_now), false))) THEN
        v_one := NULL;
    END IF;
    IF v_one IS NOT NULL THEN
        INSERT INTO sf_isolated AS i (claimer, instance_key, work_id, claim, alone_until)
        SELECT v_claimer, s.instance_key, s.work_id, p_claim,
               p_now + least(300000, greatest(c_lease_ms[v_one], 10000) * 2.0 ^ least(s.expired - 3, 20)) * v_ms
        FROM sf_suspect s WHERE s.instance_key = c_key[v_one] AND s.work_id = c_work[v_one]
        ON CONFLICT (claimer) DO UPDATE SET instance_key = excluded.instance_key, work_id = excluded.work_id,
               claim = excluded.claim, alone_until = excluded.alone_until;
    END IF;
    RETURN QUERY
    SELECT d.key, d.work_id, d.off_until, d.unspent FROM (
        SELECT c.key, c.work_id,
               CASE WHEN s.expired < 3 THEN NULL
                    WHEN c.ended > 0 THEN p_now + v_ms * (0.5 + random() / 2)
                         * least(300000, greatest(c.lease_ms, 100) * 2.0 ^ least(s.expired - 6, 20))
                    WHEN c.n IS DISTINCT FROM v_one THEN p_now + v_ms * (500 + 500 * random()) END AS off_until,
               coalesce(c.ended > 0 AND s.expired <= 3 AND EXISTS (
                   SELECT FROM sf_isolated i JOIN sf_suspect x ON x.instance_key = i.instance_key AND x.work_id = i.work_id
                   WHERE i.claimer = c.ended >> 32 AND (i.instance_key, i.work_id) <> (c.key, c.work_id)), false) AS unspent
        FROM unnest(c_key, c_work, c_ended, c_lease_ms) WITH ORDINALITY AS c(key, work_id, ended, lease_ms, n)
        JOIN sf_suspect s ON s.instance_key = ANY (ARRAY[c.key]) AND s.work_id = c.work_id) d
    WHERE d.off_until IS NOT NULL OR d.unspent;

    IF random() < 0.03 THEN
        -- What was cancelled or deleted leaves its row behind, and who has died, his. Both tables are small.
        DELETE FROM sf_suspect s WHERE s.ctid = ANY (ARRAY(
            SELECT x.ctid FROM sf_suspect x
            WHERE x.instance_key >= 0
              AND CASE WHEN x.work_id = 0 THEN (SELECT true FROM sf_turn t WHERE t.instance_key = x.instance_key)
                       ELSE (SELECT true FROM sf_work w WHERE w.instance_key = x.instance_key AND w.work_id = x.work_id)
                  END IS NULL
            ORDER BY x.instance_key, x.work_id LIMIT 64 FOR UPDATE SKIP LOCKED));
        DELETE FROM sf_isolated i WHERE i.ctid = ANY (ARRAY(
            SELECT x.ctid FROM sf_isolated x WHERE x.claimer >= 0 AND x.alone_until < p_now - interval '1 day'
            ORDER BY x.claimer LIMIT 64 FOR UPDATE SKIP LOCKED));
    END IF;
END $$;
