-- It takes one parameter more, with a default.
DROP FUNCTION IF EXISTS sf_fetch_work_item(uuid, boolean, bigint, integer, bigint, bytea[], bytea[], bigint, bigint, bigint, bytea[]);
