-- sf_feed_new_epoch: makes every token and cursor of the past invalid; returns the new epoch. After a restore.
-- Called by: postgres/feed.rs.
-- Locks: the head row (waits for a trim).  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_feed_new_epoch()
RETURNS uuid
LANGUAGE sql VOLATILE SET search_path FROM CURRENT AS $$
    UPDATE sf_feed_head SET epoch = gen_random_uuid() RETURNING epoch
$$;
