-- sf_history_changed: voids caches when history rows are updated or deleted, by us or by hand.
-- Called by: the two statement triggers on sf_event below.
-- Locks: the instance rows concerned, by key ascending.
-- Hints: none.  Errors: none of its own.
CREATE OR REPLACE FUNCTION sf_history_changed() RETURNS trigger
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT SET enable_seqscan = off
SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    UPDATE sf_instance i SET history_revision = i.history_revision + 1, cache_owner = NULL
    FROM (SELECT DISTINCT c.instance_key FROM changed c ORDER BY c.instance_key) d CROSS JOIN LATERAL (
          SELECT l.instance_key FROM sf_instance l WHERE l.instance_key = d.instance_key FOR NO KEY UPDATE) k
    WHERE i.instance_key = ANY (ARRAY[k.instance_key]);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER sf_event_updated AFTER UPDATE ON sf_event
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION sf_history_changed();
CREATE OR REPLACE TRIGGER sf_event_deleted AFTER DELETE ON sf_event
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION sf_history_changed();
