-- sf_look_ahead: where the next step of a look ahead ends that began at p_begun and has come to p_upto: a tenth of a second from
-- p_now, then twice as far each time; NULL: it has come far enough, over ten seconds, or taken half a millisecond. The dead
-- entries of long leases lie far ahead, all in one step.
-- Called by: sf_work_next_due, sf_turn_next_due.
-- Locks: none.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_look_ahead(p_now timestamptz, p_upto timestamptz, p_begun timestamptz) RETURNS timestamptz
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF p_upto <= p_now THEN
        RETURN p_now + interval '100 milliseconds';
    ELSIF p_upto > p_now + interval '10 seconds' OR clock_timestamp() - p_begun > interval '500 microseconds' THEN
        RETURN NULL;
    END IF;
    RETURN p_now + 2 * (p_upto - p_now);
END $$;
