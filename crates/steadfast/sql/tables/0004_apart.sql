-- What is kept apart from the queues for a while.

-- Queue events that an orchestration cannot be handed yet: it has as many unread as it can carry over when it continues
-- as new. queue: key of the queue's name. No claim looks here; an ack that makes room gives them back to sf_message.
CREATE TABLE sf_held (
    instance_key  bigint NOT NULL,
    message_id    bigint NOT NULL,
    queue         bytea NOT NULL,
    visible_at    timestamptz NOT NULL,
    attempt_count integer NOT NULL,
    kind          smallint NOT NULL,
    payload       bytea NOT NULL,
    PRIMARY KEY (instance_key, message_id)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000,
        autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 10000000);
CREATE INDEX sf_held_queue ON sf_held (instance_key, queue, message_id);

-- Items of which an attempt ended with its process, or by the end of its lease, since they were last acknowledged: an
-- activity, or (work_id 0) the turn of an instance. expired: how many attempts.
CREATE TABLE sf_suspect (
    instance_key bigint NOT NULL,
    work_id      bigint NOT NULL,
    expired      integer NOT NULL,
    PRIMARY KEY (instance_key, work_id)
) WITH (fillfactor = 75);

-- The isolated item that a provider has in hand or had last; a provider that has died keeps it. claimer: the high half of
-- the numbers of its claims. alone_until: no other isolated item before.
CREATE TABLE sf_isolated (
    claimer      bigint PRIMARY KEY,
    instance_key bigint NOT NULL,
    work_id      bigint NOT NULL,
    claim        bigint NOT NULL,
    alone_until  timestamptz NOT NULL
) WITH (fillfactor = 75);

-- The claim before the current one, where that was not given back in order, and its lease. claim -1: nobody's, put off
-- until available_at.
ALTER TABLE sf_turn ADD COLUMN superseded bigint, ADD COLUMN superseded_ms bigint;
