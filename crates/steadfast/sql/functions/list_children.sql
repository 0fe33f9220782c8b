-- sf_list_children: ids of the direct sub-orchestrations of an instance, oldest first; with p_deep also
-- their descendants, and the instance itself first.
-- Called by: op/list_children.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_list_children(p_instance text, p_deep boolean) RETURNS TABLE (instance_id text)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
    IF NOT p_deep THEN
        RETURN QUERY SELECT i.instance_id FROM sf_instance i WHERE i.parent_instance_id = p_instance
        ORDER BY i.instance_key;
    ELSE
        RETURN QUERY
        WITH RECURSIVE tree(id, depth, key) AS (
            SELECT p_instance COLLATE "C", 0, 0::bigint
            UNION
            SELECT c.instance_id, t.depth + 1, c.instance_key
            FROM tree t JOIN sf_instance c ON c.parent_instance_id = t.id)
        SELECT t.id FROM tree t ORDER BY t.depth, t.key;
    END IF;
END $$;
