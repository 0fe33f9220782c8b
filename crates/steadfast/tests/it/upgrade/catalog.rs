//! What PostgreSQL's own catalog says of a schema, as comparable lines.

use std::collections::BTreeSet;

use tokio_postgres::Client;

/// Everything in a schema by definition, one line each; the schema's name is replaced, so that two can be compared.
pub(super) async fn definitions(client: &Client, schema: &str) -> BTreeSet<String> {
    const SQL: &str = "
        SELECT concat_ws(' ', 'relation', c.relkind, c.relname, c.reloptions)
        FROM pg_class c WHERE c.relnamespace = $1::text::regnamespace
        UNION ALL
        SELECT concat_ws(' ', 'column', c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                         a.attidentity, a.attgenerated, a.attstorage, a.attcompression, o.collname,
                         pg_get_expr(d.adbin, d.adrelid))
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        LEFT JOIN pg_collation o ON o.oid = a.attcollation
        WHERE c.relnamespace = $1::text::regnamespace
        UNION ALL
        SELECT 'index ' || pg_get_indexdef(i.indexrelid)
        FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = $1::text::regnamespace
        UNION ALL
        SELECT 'constraint ' || x.conname || ' ' || pg_get_constraintdef(x.oid)
        FROM pg_constraint x WHERE x.connamespace = $1::text::regnamespace
        UNION ALL
        SELECT 'trigger ' || pg_get_triggerdef(t.oid)
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = $1::text::regnamespace
        UNION ALL
        SELECT 'view ' || c.relname || ' ' || pg_get_viewdef(c.oid)
        FROM pg_class c WHERE c.relkind = 'v' AND c.relnamespace = $1::text::regnamespace
        UNION ALL
        SELECT 'function ' || pg_get_functiondef(p.oid)
        FROM pg_proc p WHERE p.pronamespace = $1::text::regnamespace";
    let quoted = super::place::quoted(schema);
    let rows = client.query(SQL, &[&quoted]).await.expect("read the catalog");
    rows.iter()
        .map(|row| row.get::<_, String>(0).replace(schema, "THE_SCHEMA"))
        .collect()
}

/// Which rows of the catalog a schema has, and which transaction wrote each: any DDL changes it.
pub(super) async fn rows(client: &Client, schema: &str) -> BTreeSet<String> {
    const SQL: &str = "
        SELECT concat_ws(' ', 'class', c.oid, c.xmin, c.relname) FROM pg_class c
        WHERE c.relnamespace = $1::text::regnamespace
        UNION ALL
        SELECT concat_ws(' ', 'proc', p.oid, p.xmin, p.proname) FROM pg_proc p
        WHERE p.pronamespace = $1::text::regnamespace
        UNION ALL
        SELECT concat_ws(' ', 'attribute', a.attrelid, a.attname, a.xmin) FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = $1::text::regnamespace
        UNION ALL
        SELECT concat_ws(' ', 'trigger', t.oid, t.xmin) FROM pg_trigger t
        JOIN pg_class c ON c.oid = t.tgrelid WHERE c.relnamespace = $1::text::regnamespace
        UNION ALL
        SELECT concat_ws(' ', 'namespace', n.oid, n.xmin) FROM pg_namespace n WHERE n.oid = $1::text::regnamespace";
    let quoted = super::place::quoted(schema);
    let rows = client.query(SQL, &[&quoted]).await.expect("read the catalog");
    rows.iter().map(|row| row.get(0)).collect()
}

/// The ledger, without the times at which its entries were made.
pub(super) async fn ledger(client: &Client, schema: &str) -> BTreeSet<String> {
    entries(client, schema, "").await
}

/// The ledger with the times.
pub(super) async fn dated_ledger(client: &Client, schema: &str) -> BTreeSet<String> {
    entries(client, schema, ", l.applied_at").await
}

async fn entries(client: &Client, schema: &str, more: &str) -> BTreeSet<String> {
    let quoted = super::place::quoted(schema);
    let sql = format!("SELECT concat_ws(' ', l.kind, l.name, l.checksum, l.version{more}) FROM {quoted}.sf_ledger l");
    let rows = client.query(&sql, &[]).await.expect("read the ledger");
    rows.iter().map(|row| row.get(0)).collect()
}
