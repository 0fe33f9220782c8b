-- The store: instances, histories, queues, sessions, key-values.
--
-- Immutable once released: later changes are new files. Payloads, names and keys that a workflow
-- can produce are bytea, because text refuses NUL; only ids that a caller supplies are text.
-- No foreign keys: every statement that removes an instance removes its rows in the same transaction.

-- One row per instance life. instance_key is the incarnation: it is never used again, so a deleted and
-- re-created instance cannot be confused with its predecessor. A row whose orchestration_name is NULL
-- is not an instance yet: its start was claimed and not acknowledged, or only events were appended.
-- The row lock (FOR NO KEY UPDATE) is the mutex of the instance: who holds it may change its turn,
-- its routed messages, its history, its key-values.
CREATE TABLE sf_instance (
    instance_key          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instance_id           text COLLATE "C" NOT NULL UNIQUE,
    parent_instance_id    text COLLATE "C",
    orchestration_name    bytea,
    orchestration_version bytea,
    execution_id          bigint NOT NULL DEFAULT 1,
    status                text COLLATE "C" NOT NULL DEFAULT 'Running',
    -- Version of duroxide that the current execution is pinned to, packed so that it can be compared;
    -- NULL: not pinned, any dispatcher may take it.
    replay_version        bigint,
    custom_status         bytea,
    custom_status_version bigint NOT NULL DEFAULT 0,
    -- Bumped by any UPDATE or DELETE of history rows: caches of this history are void then.
    history_revision      bigint NOT NULL DEFAULT 0,
    -- The process that acknowledged last and therefore holds the whole history; NULL: nobody.
    cache_owner           bigint,
    created_at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at            timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX sf_instance_parent ON sf_instance (parent_instance_id) WHERE parent_instance_id IS NOT NULL;
CREATE INDEX sf_instance_status ON sf_instance (status, instance_key);

CREATE TABLE sf_execution (
    instance_key   bigint NOT NULL,
    execution_id   bigint NOT NULL,
    status         text COLLATE "C" NOT NULL,
    output         bytea,
    replay_version bigint,
    started_at     timestamptz NOT NULL,
    completed_at   timestamptz,
    PRIMARY KEY (instance_key, execution_id)
) WITH (fillfactor = 85);

-- Append-only in normal operation.
CREATE TABLE sf_event (
    instance_key bigint NOT NULL,
    execution_id bigint NOT NULL,
    event_id     bigint NOT NULL,
    kind         smallint NOT NULL,
    payload      bytea NOT NULL,
    PRIMARY KEY (instance_key, execution_id, event_id)
);

-- Arrivals for orchestrations. Only inserted into, and deleted from when a claim routes a message
-- to its instance; never updated, so an arrival waits for nobody.
CREATE TABLE sf_inbox (
    message_id  bigint GENERATED ALWAYS AS IDENTITY,
    instance_id text COLLATE "C" NOT NULL,
    visible_at  timestamptz NOT NULL,
    kind        smallint NOT NULL,
    payload     bytea NOT NULL,
    PRIMARY KEY (instance_id, visible_at, message_id)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000,
        autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 10000000);
CREATE INDEX sf_inbox_due ON sf_inbox (visible_at, message_id);
-- Starts are few, and asked for by instance: has anybody started it?
CREATE INDEX sf_inbox_start ON sf_inbox (instance_id, visible_at, message_id) WHERE kind IN (1, 2);

-- Messages routed to their instance: part of a claim (claim = that of the turn), or waiting for the next.
CREATE TABLE sf_message (
    instance_key  bigint NOT NULL,
    message_id    bigint NOT NULL,
    visible_at    timestamptz NOT NULL,
    attempt_count integer NOT NULL,
    claim         bigint,
    kind          smallint NOT NULL,
    payload       bytea NOT NULL,
    PRIMARY KEY (instance_key, message_id)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000,
        autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 10000000);
CREATE INDEX sf_message_start ON sf_message (instance_key, message_id) WHERE kind IN (1, 2);

-- Scheduling row of an instance that is leased or has routed messages; absent otherwise.
-- claim NULL: not leased. available_at: end of the lease, or when the next routed message is due.
-- lane: 0 for any dispatcher, otherwise the packed replay version; -1: messages for an instance that
-- nobody has started, which no claim looks at until a start arrives.
CREATE TABLE sf_turn (
    instance_key bigint PRIMARY KEY,
    lane         bigint NOT NULL,
    available_at timestamptz NOT NULL,
    claim        bigint,
    leased_at    timestamptz,
    lease_ms     bigint
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 2000,
        autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 10000000);
CREATE INDEX sf_turn_due ON sf_turn (lane, available_at);

-- Activities. available_at: due since, delayed until, or leased until. claim 0: not leased.
CREATE TABLE sf_work (
    instance_key  bigint NOT NULL,
    work_id       bigint GENERATED ALWAYS AS IDENTITY,
    execution_id  bigint NOT NULL,
    activity_id   bigint NOT NULL,
    tag           bytea NOT NULL,
    session_key   bytea,
    available_at  timestamptz NOT NULL,
    claim         bigint NOT NULL DEFAULT 0,
    leased_at     timestamptz,
    lease_ms      bigint,
    attempt_count integer NOT NULL DEFAULT 0,
    payload       bytea NOT NULL,
    PRIMARY KEY (instance_key, work_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000,
        autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 10000000);
CREATE INDEX sf_work_due ON sf_work (tag, available_at, work_id) WHERE session_key IS NULL;
CREATE INDEX sf_work_session_due ON sf_work (session_key, tag, available_at, work_id) WHERE session_key IS NOT NULL;

-- A session exists from its first activity on; owner NULL: never taken.
CREATE TABLE sf_session (
    session_key      bytea PRIMARY KEY,
    owner            bytea,
    locked_until     timestamptz NOT NULL DEFAULT '-infinity',
    last_activity_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 75);
CREATE INDEX sf_session_owner ON sf_session (owner) WHERE owner IS NOT NULL;
CREATE INDEX sf_session_free ON sf_session (locked_until, session_key);

-- Key-values: what earlier executions left (base) and what the current one changed (delta).
-- changed and delta_value NULL: cleared by the current execution.
CREATE TABLE sf_kv (
    instance_key bigint NOT NULL,
    key_id       bytea NOT NULL,
    key          bytea NOT NULL,
    base_value   bytea,
    base_at_ms   bigint,
    changed      boolean NOT NULL,
    delta_value  bytea,
    delta_at_ms  bigint,
    PRIMARY KEY (instance_key, key_id)
) WITH (fillfactor = 80);

-- What a call of many operations answered, kept longer than its caller may ask again.
CREATE TABLE sf_batch (
    batch_id   uuid PRIMARY KEY,
    expires_at timestamptz NOT NULL,
    results    bigint[] NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 10000);
CREATE INDEX sf_batch_expiry ON sf_batch (expires_at);

-- Items that could not be decoded, with the reason; nobody's fetch fails because of them.
CREATE TABLE sf_quarantine (
    quarantine_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue          text NOT NULL,
    instance_id    text COLLATE "C" NOT NULL,
    execution_id   bigint,
    activity_id    bigint,
    error          text NOT NULL,
    payload        bytea NOT NULL,
    quarantined_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
