//! The cells of the suite: what is broken, how, and how it is mended. Objects come from the catalogue; the SQLSTATEs are
//! this file's own.
//!
//! Invariant: every trouble is real. What cannot be brought about otherwise is raised by a body that stands in for the
//! function's own for a while.

use tokio_postgres::Client;

use super::documented::{Documented, SCHEMA};

/// What servers answer, by class, when they or a schema are not as they should be. Not here: what is an operation's own
/// (classes 21 to 24, 54, XX001), which fails that operation and must.
pub(super) const SQLSTATES: [&str; 26] = [
    "08006", "0A000", "25006", "25P02", "26000", "28000", "3D000", "3F000", "40001", "40P01", "42501", "42703",
    "42883", "42P01", "53100", "53200", "53300", "55000", "55P03", "57014", "57P01", "57P03", "58030", "F0001",
    "XX000", "XX002",
];

/// One trouble.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    /// The object, and what happens to it.
    pub(super) row: String,
    pub(super) what: String,
    pub(super) breaks: String,
    pub(super) mends: String,
}

impl Cell {
    fn new(row: &str, what: &str, breaks: String, mends: String) -> Self {
        Self {
            row: row.to_owned(),
            what: what.to_owned(),
            breaks,
            mends,
        }
    }
}

/// A stored function: its identity, and what it is without its body.
pub(super) struct Function {
    pub(super) name: String,
    identity: String,
    head: String,
    definition: String,
}

pub(super) async fn functions(client: &Client) -> Vec<Function> {
    let query = format!(
        "SELECT p.proname::text, p.oid::regprocedure::text,
                format('FUNCTION {SCHEMA}.%I(%s) RETURNS %s', p.proname, pg_get_function_arguments(p.oid),
                       pg_get_function_result(p.oid)), pg_get_functiondef(p.oid)
         FROM pg_proc p WHERE p.pronamespace = '{SCHEMA}'::regnamespace AND p.prokind = 'f' ORDER BY 1"
    );
    let rows = client.query(&query, &[]).await.expect("list the functions");
    let function = |row: &tokio_postgres::Row| Function {
        name: row.get(0),
        identity: row.get(1),
        head: row.get(2),
        definition: row.get(3),
    };
    rows.iter().map(function).collect()
}

impl Function {
    /// It is not there: 42883.
    pub(super) fn renamed(&self) -> Cell {
        let (name, away) = (&self.name, format!("{}_away", self.name));
        let parameters = self.identity.find('(').map_or("", |at| &self.identity[at..]);
        Cell::new(
            name,
            "renamed",
            format!("ALTER FUNCTION {} RENAME TO {away}", self.identity),
            format!("ALTER FUNCTION {SCHEMA}.{away}{parameters} RENAME TO {name}"),
        )
    }

    /// The worker may not call it: 42501.
    pub(super) fn forbidden(&self) -> Cell {
        Cell::new(
            &self.name,
            "EXECUTE revoked",
            format!("REVOKE EXECUTE ON FUNCTION {} FROM steadfast_worker", self.identity),
            format!("GRANT EXECUTE ON FUNCTION {} TO steadfast_worker", self.identity),
        )
    }

    /// It fails with this code, whoever calls it.
    pub(super) fn raises(&self, code: &str) -> Cell {
        Cell::new(
            &self.name,
            code,
            format!(
                "CREATE OR REPLACE {} LANGUAGE plpgsql AS $b$BEGIN RAISE EXCEPTION 'stood in' USING ERRCODE = '{code}'; END$b$",
                self.head
            ),
            self.definition.clone(),
        )
    }
}

/// Tables: each right that the worker has, and the table and a column gone.
pub(super) async fn tables(client: &Client, worker: &str) -> Vec<Cell> {
    let query = format!(
        "SELECT c.relname::text, (SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
             AND NOT a.attisdropped ORDER BY a.attnum DESC LIMIT 1),
            ARRAY(SELECT v FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) v
                  WHERE has_table_privilege('{worker}', c.oid, v))
         FROM pg_class c WHERE c.relnamespace = '{SCHEMA}'::regnamespace AND c.relkind = 'r' ORDER BY 1"
    );
    let mut cells = Vec::new();
    for row in client.query(&query, &[]).await.expect("list the tables") {
        let (table, column, rights): (String, String, Vec<String>) = (row.get(0), row.get(1), row.get(2));
        for right in rights {
            cells.push(Cell::new(
                &table,
                &format!("{right} revoked"),
                format!("REVOKE {right} ON {table} FROM steadfast_worker"),
                format!("GRANT {right} ON {table} TO steadfast_worker"),
            ));
        }
        cells.push(Cell::new(
            &table,
            "renamed",
            format!("ALTER TABLE {table} RENAME TO {table}_away"),
            format!("ALTER TABLE {table}_away RENAME TO {table}"),
        ));
        cells.push(Cell::new(
            &table,
            "a column renamed",
            format!("ALTER TABLE {table} RENAME COLUMN {column} TO {column}_away"),
            format!("ALTER TABLE {table} RENAME COLUMN {column}_away TO {column}"),
        ));
    }
    cells
}

/// Sequences, the schema, the role, the server.
pub(super) async fn others(client: &Client, place: &Documented) -> Vec<Cell> {
    let worker = place.role("steadfast_worker");
    let database = &place.database.name;
    let query = format!(
        "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = '{SCHEMA}'::regnamespace
         AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege('{worker}', c.oid, 'USAGE') END ORDER BY 1"
    );
    let mut cells = Vec::new();
    for row in client.query(&query, &[]).await.expect("list the sequences") {
        let sequence: String = row.get(0);
        cells.push(Cell::new(
            &sequence,
            "USAGE revoked",
            format!("REVOKE USAGE ON SEQUENCE {sequence} FROM steadfast_worker"),
            format!("GRANT USAGE ON SEQUENCE {sequence} TO steadfast_worker"),
        ));
        cells.push(Cell::new(
            &sequence,
            "renamed",
            format!("ALTER SEQUENCE {sequence} RENAME TO {sequence}_away"),
            format!("ALTER SEQUENCE {sequence}_away RENAME TO {sequence}"),
        ));
    }
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'steadfast_worker'".to_owned();
    let schema =
        |what: &str, breaks: &str, mends: &str| Cell::new("the schema", what, breaks.to_owned(), mends.to_owned());
    cells.push(schema(
        "USAGE revoked",
        "REVOKE USAGE ON SCHEMA steadfast FROM steadfast_worker",
        "GRANT USAGE ON SCHEMA steadfast TO steadfast_worker",
    ));
    cells.push(schema(
        "renamed",
        "ALTER SCHEMA steadfast RENAME TO away",
        "ALTER SCHEMA away RENAME TO steadfast",
    ));
    let role = |what: &str, breaks: &str, mends: &str| {
        Cell::new(
            "the role",
            what,
            format!("{breaks}; {end}"),
            // Sessions that took on the setting end with it.
            format!("{mends}; {end}"),
        )
    };
    cells.push(role(
        "NOLOGIN",
        "ALTER ROLE steadfast_worker NOLOGIN",
        "ALTER ROLE steadfast_worker LOGIN",
    ));
    cells.push(role(
        "no connections left",
        "ALTER ROLE steadfast_worker CONNECTION LIMIT 0",
        "ALTER ROLE steadfast_worker CONNECTION LIMIT -1",
    ));
    cells.push(role(
        "read-only",
        "ALTER ROLE steadfast_worker SET default_transaction_read_only = on",
        "ALTER ROLE steadfast_worker RESET default_transaction_read_only",
    ));
    cells.push(role(
        "a statement timeout of 1 ms",
        "ALTER ROLE steadfast_worker SET statement_timeout = '1ms'",
        "ALTER ROLE steadfast_worker RESET statement_timeout",
    ));
    cells.push(Cell::new(
        "the database",
        "no connections allowed",
        format!("ALTER DATABASE {database} CONNECTION LIMIT 0; {end}"),
        format!("ALTER DATABASE {database} CONNECTION LIMIT -1"),
    ));
    cells.push(Cell::new("the connections", "terminated", end, "SELECT 1".to_owned()));
    cells
}
