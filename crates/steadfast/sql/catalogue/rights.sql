-- What of it is not there, or may not be used, one row each: kind, name, privilege (NULL: it is not there), role ('': nobody's).
-- Asked for the caller ($OWN$), and for every role that holds a right to write ($OTHERS$): in a report for people, whoever asks
-- is not whom it concerns. has_*_privilege answers for memberships, owners and superusers too.
-- Run as listing.sql is, with the same place holder; $WANTED$ are rows of kind, name, privilege.
WITH wanted AS (
    SELECT w.*, CASE w.kind
        WHEN 'function' THEN (SELECT p.oid FROM pg_proc p WHERE p.pronamespace = n.oid AND p.proname = w.name LIMIT 1)
        ELSE (SELECT c.oid FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = w.name) END AS oid
    FROM (VALUES $WANTED$) AS w(place, kind, name, privilege)
    LEFT JOIN pg_namespace n ON n.nspname = $SCHEMA$),
roles AS (
    SELECT r.oid, r.rolname::text AS name FROM pg_roles r WHERE $OWN$ AND r.rolname = current_user
    UNION
    SELECT r.oid, r.rolname::text FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL aclexplode(c.relacl) a
    JOIN pg_roles r ON r.oid = a.grantee
    WHERE $OTHERS$ AND n.nspname = $SCHEMA$ AND c.relkind = 'r' AND a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE')
      AND c.relname IN (SELECT w.name FROM wanted w WHERE w.kind = 'table'))
SELECT 'schema', $SCHEMA$, NULL, '' WHERE NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = $SCHEMA$)
UNION ALL
SELECT 'schema', $SCHEMA$, 'USAGE', r.name FROM roles r JOIN pg_namespace n ON n.nspname = $SCHEMA$
WHERE NOT has_schema_privilege(r.oid, n.oid, 'USAGE')
UNION ALL
(SELECT w.kind, w.name, NULL, '' FROM wanted w WHERE w.oid IS NULL GROUP BY w.kind, w.name ORDER BY min(w.place))
UNION ALL
(SELECT w.kind, w.name, w.privilege, r.name FROM roles r CROSS JOIN wanted w WHERE w.oid IS NOT NULL AND NOT CASE w.kind
    WHEN 'function' THEN has_function_privilege(r.oid, w.oid, w.privilege)
    WHEN 'sequence' THEN has_sequence_privilege(r.oid, w.oid, w.privilege)
    ELSE has_table_privilege(r.oid, w.oid, w.privilege) END
 ORDER BY r.name, w.place);
