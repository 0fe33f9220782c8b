-- sf_instances: instances with what their current execution has come to, readable.
CREATE OR REPLACE VIEW sf_instances AS
SELECT i.instance_id, sf_text_of(i.orchestration_name) AS orchestration_name,
       sf_text_of(i.orchestration_version) AS orchestration_version, i.execution_id, i.status,
       sf_text_of(x.output) AS output, sf_text_of(i.custom_status) AS custom_status, i.parent_instance_id,
       i.created_at, i.updated_at
FROM sf_instance i
LEFT JOIN sf_execution x ON x.instance_key = i.instance_key AND x.execution_id = i.execution_id
WHERE i.orchestration_name IS NOT NULL;
