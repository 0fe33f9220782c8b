-- sf_history: events of all executions, readable.
CREATE OR REPLACE VIEW sf_history AS
SELECT i.instance_id, e.execution_id, e.event_id, e.kind, sf_text_of(e.payload) AS event
FROM sf_event e JOIN sf_instance i ON i.instance_key = e.instance_key;
