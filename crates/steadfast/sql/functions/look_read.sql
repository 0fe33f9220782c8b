-- sf_look_read: what this session has read so far in looks for turns and messages, or (p_work) for activities: index entries,
-- those of dead rows too, unlike in anything that a query can return; and each page of the index as five, for the pages of a
-- crowd that is dead to everybody are read until a vacuum. The difference of two answers in one transaction is what was
-- read between them.
-- Called by: sf_fetch_orchestration_item, sf_fetch_work_item.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_look_read(p_work boolean) RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF p_work THEN
        RETURN pg_stat_get_xact_tuples_returned('sf_work_due'::regclass)
             + pg_stat_get_xact_blocks_fetched('sf_work_due'::regclass) * 5;
    END IF;
    RETURN pg_stat_get_xact_tuples_returned('sf_turn_due'::regclass)
         + pg_stat_get_xact_blocks_fetched('sf_turn_due'::regclass) * 5
         + pg_stat_get_xact_tuples_returned('sf_inbox_due'::regclass)
         + pg_stat_get_xact_blocks_fetched('sf_inbox_due'::regclass) * 5;
END $$;
