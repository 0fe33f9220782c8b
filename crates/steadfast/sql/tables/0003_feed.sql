-- The change feed: what happened to instances, in one dense order.
--
-- Writers put rows into a pending table within their own transactions; positions are given after commit, by one
-- assigner at a time (sf_feed_assign). Nothing here has a foreign key: the feed outlives its instances.

-- One row. It changes only with trims, epochs and rotations, so that it has no dead versions worth mentioning even while
-- somebody holds the horizon; the end of the log is that of sf_feed, or first_sequence - 1 when that is empty.
CREATE TABLE sf_feed_head (
    only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch          uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The oldest position that is still there, or the next one.
    first_sequence bigint NOT NULL DEFAULT 1,
    -- The mark of the row before it.
    trimmed_mark   bigint NOT NULL DEFAULT 0,
    -- The pending table that writers fill now.
    filling        smallint NOT NULL DEFAULT 0
);
INSERT INTO sf_feed_head DEFAULT VALUES;

-- One row per operation. Its events have the positions from last_sequence - cardinality(kinds) + 1 to last_sequence.
-- mark is random: it tells this row from one that a restored store has put into the same place.
CREATE TABLE sf_feed (
    last_sequence      bigint PRIMARY KEY,
    mark               bigint NOT NULL,
    at                 timestamptz NOT NULL,
    instance_key       bigint NOT NULL,
    instance_id        text COLLATE "C" NOT NULL,
    execution_id       bigint NOT NULL,
    orchestration_name bytea,
    event_ids          bigint[] NOT NULL,
    kinds              smallint[] NOT NULL
);

-- No cache: an id is taken after the instance's row was locked, so that ids follow the order of its changes.
CREATE SEQUENCE sf_feed_pending_id AS bigint CACHE 1;

-- Two tables in turn: one is filled while the other, once it is drained, is truncated. Rows that are moved out leave dead
-- ones behind, which nothing but a truncation removes while somebody holds the horizon.
CREATE TABLE sf_feed_pending_0 (
    pending_id         bigint PRIMARY KEY,
    transaction_id     xid8 NOT NULL,
    mark               bigint NOT NULL,
    at                 timestamptz NOT NULL,
    instance_key       bigint NOT NULL,
    instance_id        text COLLATE "C" NOT NULL,
    execution_id       bigint NOT NULL,
    orchestration_name bytea,
    event_ids          bigint[] NOT NULL,
    kinds              smallint[] NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
CREATE TABLE sf_feed_pending_1 (LIKE sf_feed_pending_0 INCLUDING ALL)
    WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000);
ALTER SEQUENCE sf_feed_pending_id OWNED BY sf_feed_pending_0.pending_id;

-- Named cursors. One that is lost no longer holds trimming back.
CREATE TABLE sf_feed_cursor (
    name         text COLLATE "C" PRIMARY KEY,
    epoch        uuid NOT NULL,
    sequence     bigint NOT NULL,
    mark         bigint NOT NULL,
    lost         boolean NOT NULL DEFAULT false,
    committed_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
