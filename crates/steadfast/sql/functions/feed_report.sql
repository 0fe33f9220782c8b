-- sf_feed_report: the feed's state in one snapshot, once for every named cursor (once without any). Counts the pending
-- rows: meant for people.
-- Called by: postgres/feed.rs. A role that may only read may call it.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_feed_report(p_name text)
RETURNS TABLE (epoch uuid, first_sequence bigint, head bigint, pending bigint, name text, cursor_epoch uuid,
               sequence bigint, mark bigint, lost boolean, committed_at_ms bigint)
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
    SELECT h.epoch, h.first_sequence,
           coalesce((SELECT f.last_sequence FROM sf_feed f ORDER BY f.last_sequence DESC LIMIT 1), h.first_sequence - 1),
           (SELECT count(*) FROM sf_feed_pending_0) + (SELECT count(*) FROM sf_feed_pending_1),
           c.name, c.epoch, c.sequence, c.mark, c.lost, (extract(epoch FROM c.committed_at) * 1000)::bigint
    FROM sf_feed_head h LEFT JOIN sf_feed_cursor c ON p_name IS NULL OR c.name = p_name ORDER BY c.name
$$;
