-- sf_look_recent: since when a look at a queue sees everything, whatever an earlier look has found: what became due later
-- than this may not have been committed at that time. What takes longer to commit is found by the next look at all the queue.
-- Called by: sf_look_since, sf_fetch_orchestration_item, sf_fetch_work_item, sf_turn_reschedule.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_look_recent(p_now timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE AS $$ SELECT p_now - interval '200 milliseconds' $$;
