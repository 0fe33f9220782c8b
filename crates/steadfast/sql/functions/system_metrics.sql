-- sf_system_metrics: counts of instances and executions; exact, by index where there is one. The number of
-- events is the planner's estimate, because counting a history of millions every minute costs more than
-- the number is worth; below 100,000 it is exact.
-- Called by: op/system_metrics.rs.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_system_metrics()
RETURNS TABLE (instances bigint, executions bigint, running bigint, completed bigint, failed bigint, events bigint)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    v_events     bigint;
    v_executions bigint;
BEGIN
    v_events := (SELECT count(*) FROM (SELECT FROM sf_event LIMIT 100000) e);
    IF v_events = 100000 THEN
        v_events := greatest(v_events, (SELECT c.reltuples::bigint FROM pg_class c WHERE c.oid = 'sf_event'::regclass));
    END IF;
    v_executions := (SELECT count(*) FROM (SELECT FROM sf_execution LIMIT 100000) e);
    IF v_executions = 100000 THEN
        v_executions := greatest(v_executions,
            (SELECT c.reltuples::bigint FROM pg_class c WHERE c.oid = 'sf_execution'::regclass));
    END IF;
    RETURN QUERY
    SELECT count(*), v_executions, count(*) FILTER (WHERE i.status = 'Running'),
           count(*) FILTER (WHERE i.status = 'Completed'), count(*) FILTER (WHERE i.status = 'Failed'), v_events
    FROM sf_instance i WHERE i.orchestration_name IS NOT NULL;
END $$;
