-- The store of the embedded engine: instances, histories, queues, sessions, key-values.
--
-- Immutable once released: later changes are new files. The engine's writer runs the files in order inside one
-- transaction and records their checksums in sf_ledger.
--
-- Times that decide something (available_at, visible_at, leased_at, locked_until, last_activity_at) are milliseconds of
-- the store's own clock, which no step of the machine's wall clock moves (docs/adr/0010-embedded-clock.md). Times for
-- people end in _at_ms and are milliseconds since the epoch by the wall clock.
--
-- Payloads are blobs, exactly as the program wrote them. No foreign keys: whoever removes an instance removes its rows in the
-- same transaction.

-- One row: the store's clock and the counter from which every key and id is taken, so that none is used twice.
CREATE TABLE sf_state (
    only          INTEGER PRIMARY KEY CHECK (only = 1),
    next_id       INTEGER NOT NULL,
    -- Which boot of the machine the offset belongs to; the store's time is that boot's uptime plus the offset.
    boot_id       TEXT NOT NULL,
    offset_ms     INTEGER NOT NULL,
    -- What the clocks said when they were last written down: what a new boot goes on from.
    store_ms      INTEGER NOT NULL,
    uptime_ms     INTEGER NOT NULL,
    wall_ms       INTEGER NOT NULL
) STRICT;

-- One row per instance life. instance_key is the incarnation: it is never used again. A row whose orchestration_name is
-- NULL is not an instance yet: it was sent messages or activities, or its start was claimed and not acknowledged.
CREATE TABLE sf_instance (
    instance_key          INTEGER PRIMARY KEY,
    instance_id           TEXT NOT NULL UNIQUE,
    parent_instance_id    TEXT,
    orchestration_name    TEXT,
    orchestration_version TEXT,
    execution_id          INTEGER NOT NULL DEFAULT 1,
    status                TEXT NOT NULL DEFAULT 'Running',
    -- Version of duroxide that the current execution is pinned to, packed so that it can be compared; NULL: any
    -- dispatcher may take it.
    replay_version        INTEGER,
    custom_status         TEXT,
    custom_status_version INTEGER NOT NULL DEFAULT 0,
    -- Bumped by any UPDATE or DELETE of history rows: caches of this history are void then.
    history_revision      INTEGER NOT NULL DEFAULT 0,
    created_at_ms         INTEGER NOT NULL,
    updated_at_ms         INTEGER NOT NULL
) STRICT;
CREATE INDEX sf_instance_parent ON sf_instance (parent_instance_id) WHERE parent_instance_id IS NOT NULL;
CREATE INDEX sf_instance_status ON sf_instance (status, instance_key);

CREATE TABLE sf_execution (
    instance_key    INTEGER NOT NULL,
    execution_id    INTEGER NOT NULL,
    status          TEXT NOT NULL,
    output          TEXT,
    replay_version  INTEGER,
    started_at_ms   INTEGER NOT NULL,
    completed_at_ms INTEGER,
    PRIMARY KEY (instance_key, execution_id)
) STRICT, WITHOUT ROWID;

-- Append-only in normal operation. Rows lie in order of arrival, so that the events of many turns share pages.
CREATE TABLE sf_event (
    row_id       INTEGER PRIMARY KEY,
    instance_key INTEGER NOT NULL,
    execution_id INTEGER NOT NULL,
    event_id     INTEGER NOT NULL,
    kind         INTEGER NOT NULL,
    payload      BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX sf_event_history ON sf_event (instance_key, execution_id, event_id);
CREATE TRIGGER sf_event_updated AFTER UPDATE ON sf_event BEGIN
    UPDATE sf_instance SET history_revision = history_revision + 1 WHERE instance_key = old.instance_key;
END;
CREATE TRIGGER sf_event_deleted AFTER DELETE ON sf_event BEGIN
    UPDATE sf_instance SET history_revision = history_revision + 1 WHERE instance_key = old.instance_key;
END;

-- Messages for orchestrations. claim: that of the turn they were handed out with; NULL: not handed out since their
-- instance was last released.
CREATE TABLE sf_message (
    instance_key  INTEGER NOT NULL,
    visible_at    INTEGER NOT NULL,
    message_id    INTEGER NOT NULL,
    attempt_count INTEGER NOT NULL DEFAULT 0,
    claim         INTEGER,
    kind          INTEGER NOT NULL,
    payload       BLOB NOT NULL,
    PRIMARY KEY (instance_key, visible_at, message_id)
) STRICT, WITHOUT ROWID;
-- Starts are few, and asked for by instance.
CREATE INDEX sf_message_start ON sf_message (instance_key, visible_at, message_id) WHERE kind IN (1, 2);

-- Scheduling row of an instance that is leased or has messages; absent otherwise.
-- claim NULL: not leased. available_at: end of the lease, or when the next message is due.
-- lane: 0 for any dispatcher, otherwise the packed replay version; -1: messages for an instance that nobody has
-- started; -2: the same, and a claim has not looked at them yet.
CREATE TABLE sf_turn (
    instance_key INTEGER PRIMARY KEY,
    lane         INTEGER NOT NULL,
    available_at INTEGER NOT NULL,
    claim        INTEGER,
    leased_at    INTEGER,
    lease_ms     INTEGER,
    -- Due time of the last message of the claim: none of its messages lies beyond.
    upto_at      INTEGER
) STRICT;
CREATE INDEX sf_turn_due ON sf_turn (lane, available_at);

-- Activities. available_at: due since, delayed until, or leased until. claim NULL: not leased.
CREATE TABLE sf_work (
    instance_key  INTEGER NOT NULL,
    work_id       INTEGER NOT NULL,
    execution_id  INTEGER NOT NULL,
    activity_id   INTEGER NOT NULL,
    tag           BLOB NOT NULL,
    session_key   BLOB,
    available_at  INTEGER NOT NULL,
    claim         INTEGER,
    leased_at     INTEGER,
    lease_ms      INTEGER,
    attempt_count INTEGER NOT NULL DEFAULT 0,
    payload       BLOB NOT NULL,
    PRIMARY KEY (instance_key, work_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX sf_work_due ON sf_work (tag, available_at, work_id) WHERE session_key IS NULL;
CREATE INDEX sf_work_session_due ON sf_work (session_key, tag, available_at, work_id) WHERE session_key IS NOT NULL;

-- A session exists from its first activity on; owner NULL: never taken.
CREATE TABLE sf_session (
    session_key      BLOB PRIMARY KEY,
    owner            BLOB,
    locked_until     INTEGER NOT NULL DEFAULT 0,
    lease_ms         INTEGER NOT NULL DEFAULT 0,
    last_activity_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sf_session_owner ON sf_session (owner) WHERE owner IS NOT NULL;
CREATE INDEX sf_session_free ON sf_session (locked_until, session_key);

-- Key-values: what earlier executions left (base) and what the current one changed (delta).
-- changed and delta_value NULL: cleared by the current execution.
CREATE TABLE sf_kv (
    instance_key INTEGER NOT NULL,
    key          TEXT NOT NULL,
    base_value   TEXT,
    base_at_ms   INTEGER,
    changed      INTEGER NOT NULL,
    delta_value  TEXT,
    delta_at_ms  INTEGER,
    PRIMARY KEY (instance_key, key)
) STRICT, WITHOUT ROWID;

-- Items that could not be decoded, with the reason; nobody's fetch fails because of them.
CREATE TABLE sf_quarantine (
    quarantine_id     INTEGER PRIMARY KEY,
    queue             TEXT NOT NULL,
    instance_id       TEXT NOT NULL,
    execution_id      INTEGER,
    activity_id       INTEGER,
    error             TEXT NOT NULL,
    payload           BLOB NOT NULL,
    quarantined_at_ms INTEGER NOT NULL
) STRICT;
