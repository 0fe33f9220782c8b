//! Installing, upgrading, verifying, printing and removing the schema.
//!
//! Invariants: one transaction under one advisory lock does all of an install; table migrations are immutable and never
//! call functions; a newer schema is never overwritten; nothing that is not ours is ever changed.

use sha2::{Digest, Sha256};
use tokio_postgres::{Client, GenericClient};

use super::builder::{Migrations, OpenError, OpenErrorKind};
use super::connection::quote_identifier;
use super::error::StoreError;

mod files;
use files::{FUNCTIONS, MIGRATIONS, VIEWS};
pub(super) use files::{functions, sequences, tables};

/// Version of the set of functions and views. A release that changes any of them raises it.
pub(crate) const FUNCTIONS_VERSION: i64 = 1;
/// The oldest [`FUNCTIONS_VERSION`] whose binaries work with this set of functions. Only raised when a function
/// that they call is dropped.
const OLDEST_CLIENT: i64 = 1;

/// Checks a schema name before it reaches the server.
pub(crate) fn check_name(schema: &str) -> Result<(), OpenError> {
    let fault = if schema.is_empty() {
        "is empty"
    } else if schema.len() > 63 {
        "is longer than 63 bytes, PostgreSQL's limit"
    } else if schema.contains('\0') {
        "holds a NUL character"
    } else if schema.starts_with("pg_") || schema == "information_schema" {
        "is reserved by PostgreSQL"
    } else if schema == "$user" {
        "means the current user's schema wherever a search path names it"
    } else {
        return Ok(());
    };
    Err(OpenError::new(
        OpenErrorKind::InvalidName,
        format!("schema name {schema:?} {fault}"),
    ))
}

/// The whole SQL of an install into `schema`, for those who may not let a program run DDL: to be run once, on a
/// database where the schema is not installed yet. Afterwards open with [`Migrations::Verify`].
///
/// # Errors
/// A name that PostgreSQL cannot hold.
pub fn schema_sql(schema: &str) -> Result<String, OpenError> {
    check_name(schema)?;
    let name = quote_identifier(schema);
    let mut sql = format!(
        "-- Steadfast {}: schema {name}\nBEGIN;\nCREATE SCHEMA IF NOT EXISTS {name};\nSET LOCAL search_path TO {name}, pg_temp;\n{LEDGER}\n",
        env!("CARGO_PKG_VERSION")
    );
    for (number, file, text) in MIGRATIONS {
        sql.push_str(text);
        sql.push_str(&format!(
            "INSERT INTO sf_ledger (kind, name, checksum, version) VALUES ('table', '{file}', '{}', {number});\n",
            checksum(text)
        ));
    }
    for (file, text) in FUNCTIONS.iter().chain(VIEWS) {
        sql.push_str(text);
        sql.push_str(&format!(
            "INSERT INTO sf_ledger (kind, name, checksum, version) VALUES ('function', '{file}', '{}', {FUNCTIONS_VERSION});\n",
            checksum(text)
        ));
    }
    sql.push_str(&format!(
        "INSERT INTO sf_ledger (kind, name, checksum, version) VALUES ('gate', 'functions', '', {FUNCTIONS_VERSION}), ('gate', 'oldest_client', '', {OLDEST_CLIENT});\nCOMMIT;\n"
    ));
    Ok(sql)
}

const LEDGER: &str = "CREATE TABLE IF NOT EXISTS sf_ledger (
    kind       text NOT NULL,
    name       text NOT NULL,
    checksum   text NOT NULL,
    version    bigint NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (kind, name)
);";

/// Tables that only the peers' schemas hold.
const PEER_TABLES: &[&str] = &[
    "orchestrator_queue",
    "worker_queue",
    "instance_locks",
    "_duroxide_migrations",
];

fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .take(16)
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// What the server says of itself, checked before anything else.
pub(crate) async fn check_server(client: &Client) -> Result<(), OpenError> {
    let row = client
        .query_typed(
            "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), \
             current_setting('transaction_isolation')",
            &[],
        )
        .await
        .map_err(StoreError::from)?;
    let Some(row) = row.first() else {
        return Err(OpenError::new(
            OpenErrorKind::Database,
            "the server did not describe itself".to_owned(),
        ));
    };
    let (version, encoding, isolation): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
    let fault = if version < 150_000 {
        format!(
            "PostgreSQL {} is too old: 15 is the oldest that works",
            version / 10_000
        )
    } else if encoding != "UTF8" {
        format!("the database's encoding is {encoding}; UTF8 is needed")
    } else if isolation != "read committed" {
        format!(
            "transactions here are {isolation}; READ COMMITTED is needed (behind a pooler, set \
             default_transaction_isolation for the role or database)"
        )
    } else {
        return Ok(());
    };
    Err(OpenError::new(OpenErrorKind::Configuration, fault))
}

/// What the ledger says.
#[derive(Debug, Default)]
struct Installed {
    tables: Vec<(String, String)>,
    functions: Vec<(String, String)>,
    functions_version: i64,
    oldest_client: i64,
}

async fn ledger(client: &impl GenericClient, schema: &str) -> Result<Option<Installed>, OpenError> {
    let exists = client
        .query_typed(
            "SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname = 'sf_ledger'",
            &[(&schema, tokio_postgres::types::Type::TEXT)],
        )
        .await
        .map_err(StoreError::from)?;
    if exists.is_empty() {
        return Ok(None);
    }
    let name = quote_identifier(schema);
    let rows = client
        .query_typed(
            &format!("SELECT kind, name, checksum, version FROM {name}.sf_ledger"),
            &[],
        )
        .await
        .map_err(StoreError::from)?;
    let mut installed = Installed::default();
    for row in rows {
        let (kind, name, sum, version): (String, String, String, i64) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        match (kind.as_str(), name.as_str()) {
            ("table", _) => installed.tables.push((name, sum)),
            ("function", _) => installed.functions.push((name, sum)),
            ("gate", "functions") => installed.functions_version = version,
            ("gate", "oldest_client") => installed.oldest_client = version,
            _ => {}
        }
    }
    Ok(Some(installed))
}

async fn refuse_foreign(client: &impl GenericClient, schema: &str) -> Result<(), OpenError> {
    let names: Vec<String> = PEER_TABLES.iter().map(|t| (*t).to_owned()).collect();
    let rows = client
        .query_typed(
            "SELECT c.relname::text FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname::text = ANY ($2) AND c.relkind = 'r' ORDER BY 1",
            &[
                (&schema, tokio_postgres::types::Type::TEXT),
                (&names, tokio_postgres::types::Type::TEXT_ARRAY),
            ],
        )
        .await
        .map_err(StoreError::from)?;
    let Some(row) = rows.first() else { return Ok(()) };
    let table: String = row.get(0);
    Err(OpenError::new(
        OpenErrorKind::SchemaForeign,
        format!("schema {schema:?} belongs to another duroxide provider (it holds table {table}); choose another name"),
    ))
}

/// Brings the schema to what this binary needs, or only checks it.
pub(crate) async fn prepare(client: &mut Client, schema: &str, migrations: Migrations) -> Result<(), OpenError> {
    let installed = ledger(client, schema).await?;
    if installed.is_none() {
        refuse_foreign(client, schema).await?;
    }
    match (judge(schema, installed.as_ref())?, migrations) {
        (Need::Nothing, _) => Ok(()),
        (Need::Install, Migrations::Apply) => install(client, schema).await,
        (Need::Install, Migrations::Verify) => Err(if installed.is_none() {
            OpenError::new(
                OpenErrorKind::SchemaMissing,
                format!("schema {schema:?} is not installed"),
            )
        } else {
            OpenError::new(
                OpenErrorKind::SchemaOutdated,
                format!("schema {schema:?} is older than this program needs"),
            )
        }),
    }
}

enum Need {
    Nothing,
    Install,
}

/// Compares the ledger with what this binary carries.
fn judge(schema: &str, installed: Option<&Installed>) -> Result<Need, OpenError> {
    let Some(installed) = installed else {
        return Ok(Need::Install);
    };
    if installed.functions_version > FUNCTIONS_VERSION {
        if installed.oldest_client > FUNCTIONS_VERSION {
            return Err(OpenError::new(
                OpenErrorKind::SchemaTooNew,
                format!(
                    "schema {schema:?} is at version {} and needs programs of version {} or newer; this one is {FUNCTIONS_VERSION}",
                    installed.functions_version, installed.oldest_client
                ),
            ));
        }
        return Ok(Need::Nothing);
    }
    for (_, file, text) in MIGRATIONS {
        match installed.tables.iter().find(|(name, _)| name == file) {
            None => return Ok(Need::Install),
            Some((_, sum)) if *sum != checksum(text) => {
                return Err(OpenError::new(
                    OpenErrorKind::SchemaForeign,
                    format!("schema {schema:?}: migration {file} was applied with another content"),
                ));
            }
            Some(_) => {}
        }
    }
    let current = installed.functions_version == FUNCTIONS_VERSION
        && FUNCTIONS.iter().chain(VIEWS).all(|(file, text)| {
            installed
                .functions
                .iter()
                .any(|(n, s)| n == file && *s == checksum(text))
        });
    Ok(if current { Need::Nothing } else { Need::Install })
}

async fn install(client: &mut Client, schema: &str) -> Result<(), OpenError> {
    let name = quote_identifier(schema);
    let tx = client.transaction().await.map_err(StoreError::from)?;
    // Whoever opens at the same moment waits here, then finds the work done.
    tx.query_typed(
        "SELECT pg_advisory_xact_lock(hashtextextended('steadfast schema ' || $1, 0))",
        &[(&schema, tokio_postgres::types::Type::TEXT)],
    )
    .await
    .map_err(StoreError::from)?;
    let installed = ledger(&tx, schema).await?;
    if matches!(judge(schema, installed.as_ref())?, Need::Nothing) {
        return Ok(());
    }
    let made_schema = if installed.is_none() {
        create_schema(&tx, schema, &name).await?
    } else {
        false
    };
    tx.batch_execute(&format!("SET LOCAL search_path TO {name}, pg_temp; {LEDGER}"))
        .await
        .map_err(StoreError::from)?;
    let installed = installed.unwrap_or_default();
    for (number, file, text) in MIGRATIONS {
        if !installed.tables.iter().any(|(n, _)| n == file) {
            tx.batch_execute(text).await.map_err(StoreError::from)?;
            record(&tx, "table", file, &checksum(text), i64::from(*number)).await?;
        }
    }
    for (file, text) in FUNCTIONS.iter().chain(VIEWS) {
        let sum = checksum(text);
        if !installed.functions.iter().any(|(n, s)| n == file && *s == sum) {
            tx.batch_execute(text).await.map_err(StoreError::from)?;
            record(&tx, "function", file, &sum, FUNCTIONS_VERSION).await?;
        }
    }
    record(&tx, "gate", "functions", "", FUNCTIONS_VERSION).await?;
    record(
        &tx,
        "gate",
        "oldest_client",
        "",
        OLDEST_CLIENT.max(installed.oldest_client),
    )
    .await?;
    if made_schema {
        record(&tx, "gate", "made_schema", "", 1).await?;
    }
    tx.commit().await.map_err(StoreError::from)?;
    tracing::info!(target: "steadfast", schema, version = FUNCTIONS_VERSION, "schema installed");
    Ok(())
}

/// Makes the schema when it is not there; needs no right to create schemas when it is.
async fn create_schema(tx: &impl GenericClient, schema: &str, name: &str) -> Result<bool, OpenError> {
    let exists = tx
        .query_typed(
            "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1",
            &[(&schema, tokio_postgres::types::Type::TEXT)],
        )
        .await
        .map_err(StoreError::from)?;
    if !exists.is_empty() {
        return Ok(false);
    }
    tx.batch_execute(&format!("CREATE SCHEMA {name}"))
        .await
        .map_err(StoreError::from)?;
    Ok(true)
}

async fn record(tx: &impl GenericClient, kind: &str, name: &str, sum: &str, version: i64) -> Result<(), OpenError> {
    use tokio_postgres::types::Type;
    tx.query_typed(
        "INSERT INTO sf_ledger (kind, name, checksum, version) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (kind, name) DO UPDATE SET checksum = excluded.checksum, version = excluded.version, \
         applied_at = clock_timestamp()",
        &[
            (&kind, Type::TEXT),
            (&name, Type::TEXT),
            (&sum, Type::TEXT),
            (&version, Type::INT8),
        ],
    )
    .await
    .map_err(StoreError::from)?;
    Ok(())
}

/// Drops what an install made, and only that: our views, functions and tables by name, and the schema itself when
/// an install created it and nothing else is in it.
pub(crate) async fn remove(client: &mut Client, schema: &str) -> Result<(), StoreError> {
    let name = quote_identifier(schema);
    let tx = client.transaction().await?;
    let ours = tx
        .query_typed(
            "SELECT format('%s %I.%I', CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, n.nspname, c.relname), \
                    c.relkind = 'v' \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relkind IN ('r', 'v') AND c.relname::text = ANY ($2) ORDER BY 2 DESC",
            &[
                (&schema, tokio_postgres::types::Type::TEXT),
                (&files::relations(), tokio_postgres::types::Type::TEXT_ARRAY),
            ],
        )
        .await?;
    let made_schema = if ours.is_empty() {
        false
    } else {
        let sql = format!("SELECT 1 FROM {name}.sf_ledger WHERE kind = 'gate' AND name = 'made_schema'");
        !tx.query_typed(&sql, &[]).await?.is_empty()
    };
    for row in ours {
        tx.batch_execute(&format!("DROP {}", row.get::<_, String>(0))).await?;
    }
    let functions = tx
        .query_typed(
            "SELECT format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) \
             FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
             WHERE n.nspname = $1 AND p.proname::text = ANY ($2)",
            &[
                (&schema, tokio_postgres::types::Type::TEXT),
                (&files::functions(), tokio_postgres::types::Type::TEXT_ARRAY),
            ],
        )
        .await?;
    for row in functions {
        tx.batch_execute(&format!("DROP FUNCTION {}", row.get::<_, String>(0)))
            .await?;
    }
    if made_schema {
        let left = tx
            .query_typed(
                "SELECT 1 FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_namespace n ON n.oid = d.refobjid \
                 WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND n.nspname = $1 LIMIT 1",
                &[(&schema, tokio_postgres::types::Type::TEXT)],
            )
            .await?;
        if left.is_empty() {
            tx.batch_execute(&format!("DROP SCHEMA {name}")).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}
