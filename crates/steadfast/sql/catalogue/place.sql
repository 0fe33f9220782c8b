-- What the server says of itself, of its caller and of the place of the schema; one row. Nothing of the schema is run or read.
-- powerful: the caller can do things in the cluster that the owner of a schema cannot.
-- plain: the ledger is a table, and nothing is run when it is read.
-- Run as listing.sql is, with the same place holder.
SELECT 'place', current_setting('server_version_num'), current_setting('server_encoding'),
       current_setting('transaction_isolation'), current_user,
       EXISTS (SELECT FROM pg_roles r
               WHERE (r.rolsuper OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls
                      OR r.rolname IN ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files',
                                       'pg_write_all_data', 'pg_read_all_data'))
                 AND pg_has_role(current_user, r.oid, 'MEMBER'))::text AS powerful,
       (SELECT pg_get_userbyid(n.nspowner) FROM pg_namespace n WHERE n.nspname = $SCHEMA$) AS schema_owner,
       l.owner AS ledger_owner, l.plain
FROM (SELECT) AS one
LEFT JOIN LATERAL (
    SELECT pg_get_userbyid(c.relowner) AS owner,
           (c.relkind = 'r' AND NOT c.relrowsecurity
            AND NOT EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = c.oid))::text AS plain
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $SCHEMA$ AND c.relname = 'sf_ledger') AS l ON true;
