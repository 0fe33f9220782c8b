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
