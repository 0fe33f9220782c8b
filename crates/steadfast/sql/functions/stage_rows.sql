-- sf_stage_rows: keeps rows that are carried here aside, numbered from p_first_row on; the first ones discard what an
-- earlier copy left. Doing it twice is doing it once: a row's number is its key.
-- Called by: op/take_staged.rs.
-- Locks: its own rows; what it discards.  Hints: none.  Errors: none.
CREATE OR REPLACE FUNCTION sf_stage_rows(
    p_copy_id uuid, p_first_row bigint, p_kinds smallint[], p_instances text[],
    p_n1 bigint[], p_n2 bigint[], p_n3 bigint[], p_n4 bigint[], p_n5 bigint[], p_n6 bigint[],
    p_b1 bytea[], p_b2 bytea[], p_b3 bytea[], p_b4 bytea[], p_b5 bytea[])
RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
BEGIN
    IF p_first_row = 0 THEN
        DELETE FROM sf_copied c WHERE c.copy_id <> p_copy_id;
    END IF;
    INSERT INTO sf_copied (copy_id, row_no, kind, instance_id, n1, n2, n3, n4, n5, n6, b1, b2, b3, b4, b5)
    SELECT p_copy_id, p_first_row + u.n - 1, u.kind, u.instance_id, u.n1, u.n2, u.n3, u.n4, u.n5, u.n6,
           u.b1, u.b2, u.b3, u.b4, u.b5
    FROM unnest(p_kinds, p_instances, p_n1, p_n2, p_n3, p_n4, p_n5, p_n6, p_b1, p_b2, p_b3, p_b4, p_b5)
         WITH ORDINALITY AS u(kind, instance_id, n1, n2, n3, n4, n5, n6, b1, b2, b3, b4, b5, n)
    ON CONFLICT DO NOTHING;
END $$;
