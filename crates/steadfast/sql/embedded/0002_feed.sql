-- The change feed: what happened to instances, in one dense order.
--
-- There is one writer at a time, so positions are given in its transaction, and nothing is ever pending. No foreign keys:
-- the feed outlives its instances.

-- One row. The end of the log is that of sf_feed, or first_sequence - 1 when that is empty.
CREATE TABLE sf_feed_head (
    only           INTEGER PRIMARY KEY CHECK (only = 1),
    epoch          TEXT NOT NULL,
    -- The oldest position that is still there, or the next one.
    first_sequence INTEGER NOT NULL,
    -- The mark of the row before it.
    trimmed_mark   INTEGER NOT NULL
) STRICT;
INSERT INTO sf_feed_head VALUES (1, lower(hex(randomblob(16))), 1, 0);

-- One row per operation. Its events have the positions from last_sequence - events + 1 to last_sequence; entries is
-- their ids and kinds as JSON: [id, kind, id, kind, …]. mark is random: it tells this row from one that a restored store
-- has put into the same place.
CREATE TABLE sf_feed (
    last_sequence      INTEGER PRIMARY KEY,
    events             INTEGER NOT NULL,
    mark               INTEGER NOT NULL,
    at_ms              INTEGER NOT NULL,
    instance_key       INTEGER NOT NULL,
    instance_id        TEXT NOT NULL,
    execution_id       INTEGER NOT NULL,
    orchestration_name TEXT,
    entries            TEXT NOT NULL
) STRICT;

-- Named cursors. One that is lost no longer holds trimming back.
CREATE TABLE sf_feed_cursor (
    name            TEXT PRIMARY KEY,
    epoch           TEXT NOT NULL,
    sequence        INTEGER NOT NULL,
    mark            INTEGER NOT NULL,
    lost            INTEGER NOT NULL DEFAULT 0,
    committed_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
