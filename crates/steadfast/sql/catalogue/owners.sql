-- Who could make a caller of this schema run something: owners that gain by it. A role gains nothing by what its members
-- run in its stead anyway: itself, whoever may become it, every superuser (pg_has_role says all of that in one).
-- Functions and operators of any name count, because the bodies of ours look names up in this schema.
-- Run as listing.sql is, with the same place holder.
SELECT 'owner', pg_get_userbyid(o.owner), o.object
FROM (-- public belongs to a role that stands for the owner of the database.
      SELECT CASE WHEN n.nspowner = 'pg_database_owner'::regrole
                  THEN (SELECT d.datdba FROM pg_database d WHERE d.datname = current_database()) ELSE n.nspowner END AS owner,
             'the schema' AS object
      FROM pg_namespace n WHERE n.nspname = $SCHEMA$
      UNION ALL
      SELECT c.relowner, CASE c.relkind WHEN 'v' THEN 'view ' WHEN 'S' THEN 'sequence ' ELSE 'table ' END || c.relname
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = $SCHEMA$ AND c.relkind NOT IN ('i', 'I', 't', 'c') AND starts_with(c.relname::text, 'sf_')
      UNION ALL
      SELECT p.proowner, 'function ' || p.proname
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $SCHEMA$
      UNION ALL
      SELECT x.oprowner, 'operator ' || x.oprname
      FROM pg_operator x JOIN pg_namespace n ON n.oid = x.oprnamespace WHERE n.nspname = $SCHEMA$
      UNION ALL
      SELECT p.proowner, 'function of trigger ' || g.tgname || ' on ' || c.relname
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      JOIN pg_trigger g ON g.tgrelid = c.oid AND NOT g.tgisinternal JOIN pg_proc p ON p.oid = g.tgfoid
      WHERE n.nspname = $SCHEMA$ AND starts_with(c.relname::text, 'sf_')) AS o
WHERE NOT pg_has_role(o.owner, current_user, 'MEMBER')
ORDER BY 2, 3;
