-- Two functions say more than they did: their results cannot be changed in place.
DROP FUNCTION IF EXISTS sf_feed_assign(integer, bigint);
DROP FUNCTION IF EXISTS sf_poll_due();
