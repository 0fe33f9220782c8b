-- sf_feed_assign: gives positions to pending rows: whole transactions, in the order of their last pending ids, p_limit
-- rows or somewhat more. `moved`: rows that have positions now; `more`: there are others left; `busy`: something is pending,
-- and somebody else is at it, perhaps with a snapshot that is older than what the caller has committed: to be asked again.
-- Called by: postgres/feed.rs, by workers after their commits and by readers that find something pending.
-- Locks: the head row, never waiting (an advisory lock could be taken by anybody who may connect); pending tables, never
-- waiting.  Hints: the caller's, after commit.  Errors: none.
CREATE OR REPLACE FUNCTION sf_feed_assign(
    p_limit integer, p_rotate_bytes bigint, OUT moved bigint, OUT more boolean, OUT busy boolean)
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT
SET enable_hashjoin = on SET enable_seqscan = on AS $$
DECLARE
    v_limit integer := greatest(p_limit, 1);
BEGIN
    moved := 0;
    more := false;
    busy := false;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'sf_feed_assign needs READ COMMITTED' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    -- Whatever the caller has committed is seen here, or has been moved. To lock the row is to write: not for nothing.
    IF NOT EXISTS (SELECT FROM sf_feed_pending_0) AND NOT EXISTS (SELECT FROM sf_feed_pending_1) THEN
        RETURN;
    END IF;
    -- In a statement of its own: the next one takes its snapshot when whoever held the lock has committed.
    PERFORM FROM sf_feed_head h FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        busy := true;
        RETURN;
    END IF;
    PERFORM sf_feed_rotate(p_rotate_bytes);
    LOOP
        WITH pending AS (
            SELECT a.pending_id, a.transaction_id FROM sf_feed_pending_0 a
            UNION ALL SELECT b.pending_id, b.transaction_id FROM sf_feed_pending_1 b),
        bound AS MATERIALIZED (
            SELECT (SELECT p.pending_id FROM pending p ORDER BY p.pending_id OFFSET v_limit LIMIT 1) AS pending_id),
        -- A transaction that ends behind the bound waits as a whole.
        later AS MATERIALIZED (
            SELECT DISTINCT p.transaction_id FROM pending p WHERE p.pending_id >= (SELECT b.pending_id FROM bound b)),
        taken_0 AS (
            DELETE FROM sf_feed_pending_0 a
            WHERE (SELECT b.pending_id FROM bound b) IS NULL OR (a.pending_id < (SELECT b.pending_id FROM bound b)
                AND a.transaction_id NOT IN (SELECT l.transaction_id FROM later l)) RETURNING a.*),
        taken_1 AS (
            DELETE FROM sf_feed_pending_1 a
            WHERE (SELECT b.pending_id FROM bound b) IS NULL OR (a.pending_id < (SELECT b.pending_id FROM bound b)
                AND a.transaction_id NOT IN (SELECT l.transaction_id FROM later l)) RETURNING a.*),
        taken AS (
            SELECT t.*, max(t.pending_id) OVER (PARTITION BY t.transaction_id) AS last_id
            FROM (SELECT * FROM taken_0 UNION ALL SELECT * FROM taken_1) t),
        placed AS (
            INSERT INTO sf_feed (last_sequence, mark, at, instance_key, instance_id, execution_id, orchestration_name,
                                 event_ids, kinds)
            SELECT (SELECT coalesce((SELECT f.last_sequence FROM sf_feed f ORDER BY f.last_sequence DESC LIMIT 1),
                                    h.first_sequence - 1) FROM sf_feed_head h)
                   + sum(cardinality(t.kinds)) OVER (ORDER BY t.last_id, t.pending_id),
                   t.mark, t.at, t.instance_key, t.instance_id, t.execution_id, t.orchestration_name,
                   t.event_ids, t.kinds
            FROM taken t RETURNING 1)
        SELECT count(*), (SELECT b.pending_id IS NOT NULL FROM bound b) INTO moved, more FROM placed;
        -- A transaction larger than the bound: wider.
        EXIT WHEN moved > 0 OR NOT more;
        v_limit := v_limit * 2;
    END LOOP;
    -- Readers must not disagree after a crash: not before it is on disk, whatever this server's default.
    IF moved > 0 AND current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
END $$;
