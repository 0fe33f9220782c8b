-- sf_feed_rotate: truncates a pending table that is drained, and has writers fill the other one when the first has grown.
-- Called by: sf_feed_assign, under its lock, before it moves anything: what is truncated was moved by an earlier commit.
-- Locks: a pending table ACCESS EXCLUSIVE, never waiting.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_feed_rotate(p_bytes bigint)
RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_filling smallint := (SELECT h.filling FROM sf_feed_head h);
    v_other   smallint := 1 - v_filling;
    v_side    smallint;
    v_table   text;
    v_empty   boolean;
BEGIN
    IF pg_relation_size('sf_feed_pending_' || v_filling) > p_bytes
       AND pg_relation_size('sf_feed_pending_' || v_other) = 0 THEN
        UPDATE sf_feed_head SET filling = v_other;
        RETURN;
    END IF;
    -- The other one first. The one in use only when it has grown: somebody may keep the other locked (a prepared
    -- transaction), and there is no end to that.
    FOREACH v_side IN ARRAY ARRAY[v_other, v_filling] LOOP
        v_table := 'sf_feed_pending_' || v_side;
        CONTINUE WHEN pg_relation_size(v_table) <= CASE v_side WHEN v_other THEN 0 ELSE p_bytes END;
        BEGIN
            EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE NOWAIT', v_table);
            -- After the lock, in a snapshot of its own: no writer has rows there that are not seen.
            EXECUTE format('SELECT NOT EXISTS (SELECT FROM %I)', v_table) INTO v_empty;
            IF v_empty THEN
                EXECUTE format('TRUNCATE %I', v_table);
            ELSE
                -- Given back at once: writers would wait until everything is moved.
                RAISE lock_not_available;
            END IF;
        -- A role without the right to truncate leaves it to others.
        EXCEPTION WHEN lock_not_available OR insufficient_privilege THEN
            NULL;
        END;
    END LOOP;
END $$;
