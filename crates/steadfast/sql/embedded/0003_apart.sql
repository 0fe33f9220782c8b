-- What is kept apart from the queues for a while.

-- Queue events that an orchestration cannot be handed yet: it has as many unread as it can carry over when it continues
-- as new. queue: key of the queue's name. No claim looks here; an ack that makes room gives them back to sf_message.
CREATE TABLE sf_held (
    instance_key  INTEGER NOT NULL,
    message_id    INTEGER NOT NULL,
    queue         BLOB NOT NULL,
    visible_at    INTEGER NOT NULL,
    attempt_count INTEGER NOT NULL,
    kind          INTEGER NOT NULL,
    payload       BLOB NOT NULL,
    PRIMARY KEY (instance_key, message_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX sf_held_queue ON sf_held (instance_key, queue, message_id);
