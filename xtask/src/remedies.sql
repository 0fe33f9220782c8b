-- The SQL that makes each object of a table anew, as the server words it: kind, object, SQL. Of schema steadfast_golden, whose
-- name is then taken out. Any newer server understands what PostgreSQL 15 says.
SELECT 'index' || chr(9) || ic.relname || chr(9) || pg_get_indexdef(i.indexrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class ic ON ic.oid = i.indexrelid
WHERE c.relnamespace = 'steadfast_golden'::regnamespace
  AND NOT EXISTS (SELECT FROM pg_constraint x WHERE x.conindid = i.indexrelid)
UNION ALL
SELECT 'constraint' || chr(9) || c.relname || '.' || x.conname || chr(9)
       || format('ALTER TABLE %I ADD CONSTRAINT %I %s', c.relname, x.conname, pg_get_constraintdef(x.oid))
FROM pg_constraint x JOIN pg_class c ON c.oid = x.conrelid
WHERE c.relnamespace = 'steadfast_golden'::regnamespace AND x.contype NOT IN ('n', 't')
UNION ALL
SELECT 'trigger' || chr(9) || c.relname || '.' || g.tgname || chr(9) || pg_get_triggerdef(g.oid)
FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
WHERE c.relnamespace = 'steadfast_golden'::regnamespace AND NOT g.tgisinternal
UNION ALL
SELECT 'default' || chr(9) || c.relname || '.' || a.attname || chr(9)
       || format('ALTER TABLE %I ALTER COLUMN %I SET DEFAULT %s', c.relname, a.attname, pg_get_expr(d.adbin, d.adrelid))
FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.adnum
WHERE c.relnamespace = 'steadfast_golden'::regnamespace
UNION ALL
SELECT 'not null' || chr(9) || c.relname || '.' || a.attname || chr(9)
       || format('ALTER TABLE %I ALTER COLUMN %I SET NOT NULL', c.relname, a.attname)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'steadfast_golden'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND a.attnotnull
  AND NOT a.attisdropped;
