-- Rows that are being carried here from another store, until all of them are there and are taken at once
-- (sf_take_staged). Empty unless a copy is under way or has failed; the next copy discards what is left.
-- What the columns mean depends on the kind: src/transfer.rs.
CREATE TABLE sf_copied (
    copy_id     uuid NOT NULL,
    row_no      bigint NOT NULL,
    kind        smallint NOT NULL,
    instance_id text COLLATE "C",
    n1 bigint, n2 bigint, n3 bigint, n4 bigint, n5 bigint, n6 bigint,
    b1 bytea, b2 bytea, b3 bytea, b4 bytea, b5 bytea,
    PRIMARY KEY (copy_id, row_no)
);
