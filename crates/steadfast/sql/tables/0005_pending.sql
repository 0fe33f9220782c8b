-- A start that no worker has taken is an instance in state pending: it is found by the order in which starts were sent,
-- whatever else is queued.

-- When a start was sent that was to be delayed; NULL for everything else, which was sent when it became visible.
ALTER TABLE sf_inbox ADD COLUMN sent_at timestamptz;
CREATE INDEX sf_inbox_pending ON sf_inbox (message_id) WHERE kind = 1;
CREATE INDEX sf_message_pending ON sf_message (message_id) WHERE kind = 1;
