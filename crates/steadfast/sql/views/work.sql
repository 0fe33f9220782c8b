-- sf_queued_work: queued activities, readable.
CREATE OR REPLACE VIEW sf_queued_work AS
SELECT i.instance_id, w.execution_id, w.activity_id, sf_text_of(w.tag) AS tag_key,
       sf_text_of(w.session_key) AS session_key, w.available_at, w.claim <> 0 AS leased, w.attempt_count,
       sf_text_of(w.payload) AS work_item
FROM sf_work w JOIN sf_instance i ON i.instance_key = w.instance_key;
