-- What a schema holds, one line an object: kind, object, fact. Compared with listing.golden.txt, which `cargo xtask schema`
-- makes of a fresh installation.
--
-- Invariants: a line depends neither on the schema's name (written @) nor on the server's version (15 to 18): no definition
-- that the server words, but what its catalogues hold. Run with search_path = pg_catalog, pg_temp and nothing else: then no
-- name in here can mean an object of somebody else, and expressions are printed alike for everybody.
-- Storage parameters, costs and comments are left out: an administrator may tune them.
-- $SCHEMA$ is replaced by an expression that is the schema's name.
WITH here AS MATERIALIZED (SELECT n.oid, n.nspname, n.nspacl FROM pg_namespace n WHERE n.nspname = $SCHEMA$),
ours AS MATERIALIZED (
    SELECT c.* FROM pg_class c JOIN here ON here.oid = c.relnamespace WHERE starts_with(c.relname::text, 'sf_')),
listing(kind, object, fact) AS (
    SELECT 'table', c.relname::text,
           concat_ws('; ', 'kind=' || c.relkind::text, 'persistence=' || c.relpersistence::text, 'row security=' || c.relrowsecurity::text,
                     'forced=' || c.relforcerowsecurity::text, 'partition=' || c.relispartition::text)
    FROM ours c WHERE c.relkind NOT IN ('i', 'I', 'S', 'v', 't', 'c')
    UNION ALL
    SELECT 'column', c.relname || '.' || a.attname,
           concat_ws('; ', 'place=' || row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), 'type=' || format_type(a.atttypid, a.atttypmod),
                     'collation=' || o.collname, 'identity=' || nullif(a.attidentity::text, ''),
                     'generated=' || nullif(a.attgenerated::text, ''))
    FROM ours c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_collation o ON o.oid = a.attcollation
    WHERE c.relkind IN ('r', 'p')
    UNION ALL
    SELECT 'default', c.relname || '.' || a.attname, pg_get_expr(d.adbin, d.adrelid)
    FROM ours c JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
    JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum WHERE c.relkind IN ('r', 'p')
    UNION ALL
    SELECT 'not null', c.relname || '.' || a.attname, 'not null'
    FROM ours c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind IN ('r', 'p') AND a.attnotnull
    UNION ALL
    -- Those for NOT NULL exist from 18 on only; triggers of constraints are triggers.
    SELECT 'constraint', c.relname || '.' || x.conname,
           concat_ws('; ', 'kind=' || x.contype::text,
                     'columns=' || (SELECT string_agg(a.attname, ',' ORDER BY k.n)
                                    FROM unnest(x.conkey) WITH ORDINALITY AS k(attnum, n)
                                    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum),
                     'deferrable=' || x.condeferrable::text, 'validated=' || x.convalidated::text,
                     'index valid=' || (SELECT i.indisvalid::text FROM pg_index i WHERE i.indexrelid = x.conindid),
                     'expression=' || pg_get_expr(x.conbin, x.conrelid))
    FROM ours c JOIN pg_constraint x ON x.conrelid = c.oid AND x.contype NOT IN ('n', 't')
    UNION ALL
    SELECT 'index', ic.relname::text,
           concat_ws('; ', 'table=' || c.relname, 'method=' || am.amname, 'unique=' || i.indisunique::text,
                     'valid=' || (i.indisvalid AND i.indisready AND i.indislive)::text,
                     'columns=' || (SELECT string_agg(coalesce(a.attname::text, 'expression') || ' ' || oc.opcname || ' '
                                                      || coalesce(co.collname::text, '-') || ' ' || i.indoption[k.n - 1],
                                                      ',' ORDER BY k.n)
                                    FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
                                    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum AND k.attnum <> 0
                                    LEFT JOIN pg_opclass oc ON oc.oid = i.indclass[k.n - 1]
                                    LEFT JOIN pg_collation co ON co.oid = i.indcollation[k.n - 1]),
                     'expressions=' || pg_get_expr(i.indexprs, i.indrelid), 'where=' || pg_get_expr(i.indpred, i.indrelid))
    FROM ours c JOIN pg_index i ON i.indrelid = c.oid JOIN pg_class ic ON ic.oid = i.indexrelid
    JOIN pg_am am ON am.oid = ic.relam
    WHERE NOT EXISTS (SELECT FROM pg_constraint x WHERE x.conindid = i.indexrelid AND x.conrelid = i.indrelid)
    UNION ALL
    SELECT 'sequence', c.relname::text,
           concat_ws('; ', 'type=' || format_type(s.seqtypid, NULL), 'start=' || s.seqstart, 'increment=' || s.seqincrement, 'from=' || s.seqmin,
                     'to=' || s.seqmax, 'cache=' || s.seqcache, 'cycle=' || s.seqcycle::text, 'persistence=' || c.relpersistence::text)
    FROM ours c JOIN pg_sequence s ON s.seqrelid = c.oid WHERE c.relkind = 'S'
    UNION ALL
    SELECT 'function', p.proname || '(' || oidvectortypes(p.proargtypes) || ')',
           concat_ws('; ', 'kind=' || p.prokind::text, 'language=' || l.lanname, 'volatility=' || p.provolatile::text,
                     'security definer=' || p.prosecdef::text, 'leakproof=' || p.proleakproof::text,
                     'strict=' || p.proisstrict::text, 'parallel=' || p.proparallel::text, 'set=' || p.proretset::text,
                     'result=' || format_type(p.prorettype, NULL), 'parameters=' || array_to_string(p.proargnames, ','),
                     'modes=' || array_to_string(p.proargmodes::text[], ''),
                     'all types=' || array_to_string(p.proallargtypes::regtype[], ','),
                     'defaults=' || pg_get_expr(p.proargdefaults, 0),
                     'settings=' || (SELECT string_agg(CASE k.setting
                                            WHEN 'search_path=' || quote_ident(here.nspname) || ', pg_temp'
                                            THEN 'search_path=@, pg_temp' ELSE k.setting END, ', ' ORDER BY k.setting COLLATE "C")
                                     FROM unnest(p.proconfig) AS k(setting)),
                     'parsed body=' || (p.prosqlbody IS NOT NULL)::text,
                     'body=' || encode(sha256(convert_to(p.prosrc, 'UTF8')), 'hex'))
    FROM here JOIN pg_proc p ON p.pronamespace = here.oid JOIN pg_language l ON l.oid = p.prolang WHERE starts_with(p.proname::text, 'sf_')
    UNION ALL
    -- Newer servers leave out qualifiers that older ones print, so all of them go; what they said is in `reads`.
    SELECT 'view', c.relname::text,
           concat_ws('; ', 'options=' || array_to_string(c.reloptions, ','),
                     'reads=' || (SELECT string_agg(DISTINCT CASE WHEN d.refns = here.oid THEN '@' ELSE d.refns::text END
                                                    || '.' || d.refname, ',')
                                  FROM (SELECT r.relnamespace AS refns, r.relname::text AS refname
                                        FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                                        JOIN pg_class r ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid
                                        WHERE w.ev_class = c.oid AND r.oid <> c.oid
                                        UNION
                                        SELECT p.pronamespace, p.proname::text
                                        FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                                        JOIN pg_proc p ON d.refclassid = 'pg_proc'::regclass AND d.refobjid = p.oid
                                        WHERE w.ev_class = c.oid) d),
                     'text=' || btrim(regexp_replace(regexp_replace(pg_get_viewdef(c.oid),
                                      '("([^"]|"")*"|\m[a-z_][a-z_0-9]*)\.', '', 'g'), '\s+', ' ', 'g')))
    FROM here JOIN ours c ON c.relkind = 'v'
    UNION ALL
    SELECT 'trigger', c.relname || '.' || g.tgname,
           concat_ws('; ', 'type=' || g.tgtype, 'enabled=' || g.tgenabled::text,
                     'function=' || CASE WHEN p.pronamespace = c.relnamespace THEN '@.' ELSE p.pronamespace::text || '.' END
                                 || p.proname,
                     'columns=' || nullif(g.tgattr::text, ''), 'condition=' || (g.tgqual IS NOT NULL)::text,
                     'arguments=' || g.tgnargs, 'constraint=' || (g.tgconstraint <> 0)::text,
                     'old=' || g.tgoldtable, 'new=' || g.tgnewtable)
    FROM ours c JOIN pg_trigger g ON g.tgrelid = c.oid AND NOT g.tgisinternal JOIN pg_proc p ON p.oid = g.tgfoid
    UNION ALL
    SELECT 'rule', c.relname || '.' || w.rulename, 'event=' || w.ev_type::text
    FROM ours c JOIN pg_rewrite w ON w.ev_class = c.oid WHERE w.rulename <> '_RETURN'
    UNION ALL
    SELECT 'policy', c.relname || '.' || y.polname, 'command=' || y.polcmd::text
    FROM ours c JOIN pg_policy y ON y.polrelid = c.oid
    UNION ALL
    SELECT 'child', c.relname || '.' || h.inhrelid::regclass::text, 'inherits'
    FROM ours c JOIN pg_inherits h ON h.inhparent = c.oid AND c.relkind IN ('r', 'p')
    UNION ALL
    -- What is granted to everybody: an installation grants nothing (functions are executable by default, with their
    -- caller's rights, so that these do not count).
    SELECT 'grant to public', c.relname::text, string_agg(DISTINCT g.privilege_type, ', ')
    FROM ours c CROSS JOIN aclexplode(c.relacl) g WHERE g.grantee = 0 GROUP BY 1, 2
    UNION ALL
    SELECT 'grant to public', c.relname || '.' || a.attname, string_agg(DISTINCT g.privilege_type, ', ')
    FROM ours c JOIN pg_attribute a ON a.attrelid = c.oid CROSS JOIN aclexplode(a.attacl) g WHERE g.grantee = 0 GROUP BY 1, 2
    UNION ALL
    SELECT 'grant to public', '@', g.privilege_type
    FROM here CROSS JOIN aclexplode(here.nspacl) g WHERE g.grantee = 0 AND g.privilege_type = 'CREATE'
)
