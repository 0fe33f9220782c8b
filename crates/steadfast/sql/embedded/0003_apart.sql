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

-- Items of which an attempt ended with its process, or by the end of its lease, since they were last acknowledged: an
-- activity, or (work_id 0) the turn of an instance. expired: how many attempts.
CREATE TABLE sf_suspect (
    instance_key INTEGER NOT NULL,
    work_id      INTEGER NOT NULL,
    expired      INTEGER NOT NULL,
    PRIMARY KEY (instance_key, work_id)
) STRICT, WITHOUT ROWID;

-- The isolated item that a provider has in hand or had last; a provider that has died keeps it. claimer: the high half of
-- the numbers of its claims. alone_until: no other isolated item before.
CREATE TABLE sf_isolated (
    claimer      INTEGER PRIMARY KEY,
    instance_key INTEGER NOT NULL,
    work_id      INTEGER NOT NULL,
    claim        INTEGER NOT NULL,
    alone_until  INTEGER NOT NULL
) STRICT;
