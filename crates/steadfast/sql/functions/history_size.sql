-- sf_history_size: bytes of an execution's history, without reading it. No row when the instance does not exist.
-- Called by: op/history_size.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_history_size(p_instance text, p_execution bigint)
RETURNS TABLE (bytes bigint)
LANGUAGE sql STABLE SET search_path FROM CURRENT SET enable_seqscan = off AS $$
    SELECT coalesce((SELECT sum(octet_length(e.payload)) FROM sf_event e
                     WHERE e.instance_key = i.instance_key AND e.execution_id = p_execution), 0)::bigint
    FROM sf_instance i WHERE i.instance_id = p_instance
$$;
