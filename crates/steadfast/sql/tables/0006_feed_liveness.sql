-- It says more than it did: a result cannot be changed in place.
DROP FUNCTION IF EXISTS sf_feed_assign(integer, bigint);
