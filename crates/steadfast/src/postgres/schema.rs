//! Installing, upgrading, verifying, repairing, printing and removing the schema.
//!
//! Invariants: one transaction under one advisory lock does all of an install; table migrations are immutable and never
//! call functions; a newer schema is never overwritten; nothing that is not ours is ever changed.

use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio_postgres::{Client, GenericClient};

use crate::catalogue::{Finding, in_short};

use super::builder::{Migrations, OpenError, OpenErrorKind};
use super::connection::quote_identifier;
use super::errand::Patience;
use super::error::StoreError;
use super::store::later;

mod catalogue;
mod files;
mod install;
mod repair;
mod turn;
use catalogue::Seen;
pub(super) use catalogue::ask as ask_catalogue;
use files::{FUNCTIONS, MIGRATIONS, VIEWS};
pub(super) use files::{functions, sequences, tables};
pub(crate) use install::repair;

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
    } else if schema.chars().any(steers_text) {
        "holds a control character"
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

/// Characters that could end a line of SQL, or have it read in another order than it is run.
fn steers_text(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The whole SQL of an install into `schema`, for those who may not let a program run DDL: to be run once, on a
/// database where the schema is not installed yet. Afterwards open with [`Migrations::Verify`].
///
/// # Errors
/// A name that PostgreSQL cannot hold.
pub fn schema_sql(schema: &str) -> Result<String, OpenError> {
    check_name(schema)?;
    let name = quote_identifier(schema);
    // No name in the comment: it is not quoted there.
    let mut sql = format!(
        "-- Steadfast {}\nBEGIN;\nSET LOCAL search_path TO pg_catalog, pg_temp;\n{}SET LOCAL search_path TO {name}, pg_temp;\n{LEDGER}\n",
        env!("CARGO_PKG_VERSION"),
        make_place(schema),
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

/// Makes the schema where it is not there, which alone needs the right to make schemas. Whoever could do more than its owner
/// must not work in a schema of somebody else's: what is in it could run with his rights.
fn make_place(schema: &str) -> String {
    let body = format!(
        "DECLARE
    v_owner oid := (SELECT CASE WHEN n.nspowner = 'pg_database_owner'::regrole
                                THEN (SELECT d.datdba FROM pg_database d WHERE d.datname = current_database())
                                ELSE n.nspowner END
                    FROM pg_namespace n WHERE n.nspname = {literal});
BEGIN
    IF v_owner IS NULL THEN
        CREATE SCHEMA {name};
    ELSIF (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user)
          AND NOT pg_has_role(v_owner, current_user, 'MEMBER') THEN
        RAISE EXCEPTION 'the schema belongs to the role %: run this as that role (SET ROLE)', pg_get_userbyid(v_owner);
    END IF;
END",
        literal = quote_literal(schema),
        name = quote_identifier(schema),
    );
    // A tag that the name does not hold.
    let tag = (0u32..)
        .map(|n| format!("$steadfast{n}$"))
        .find(|tag| !body.contains(tag.as_str()))
        .unwrap_or_default();
    format!("DO {tag}\n{body}\n{tag};\n")
}

/// A text as SQL, whatever `standard_conforming_strings` is.
fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
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

/// What the ledger says.
#[derive(Debug, Default)]
struct Installed {
    tables: Vec<(String, String)>,
    functions: Vec<(String, String)>,
    functions_version: i64,
    oldest_client: i64,
}

/// Reads the ledger, whose owner is trusted.
async fn ledger(client: &impl GenericClient, schema: &str, seen: &Seen) -> Result<Option<Installed>, OpenError> {
    if !seen.has_ledger() {
        return Ok(None);
    }
    if !seen.ledger_is_plain() {
        let found = in_short(&catalogue::findings(client, schema).await?);
        return Err(OpenError::new(
            OpenErrorKind::SchemaDamaged,
            format!("schema {schema:?}: its ledger cannot be read: {found}"),
        ));
    }
    let name = quote_identifier(schema);
    let rows = client
        .query_typed(
            &format!("SELECT kind, name, checksum, version FROM {name}.sf_ledger"),
            &[],
        )
        .await
        .map_err(|error| match StoreError::from(error) {
            // It has lost a column.
            StoreError::Database { sqlstate, message } if sqlstate == "42703" => OpenError::new(
                OpenErrorKind::SchemaDamaged,
                format!("schema {schema:?}: its ledger cannot be read: {message}"),
            ),
            error => error.into(),
        })?;
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

/// On what terms a schema is opened.
pub(crate) struct Terms<'a> {
    pub(crate) migrations: Migrations,
    /// Roles that may own it although they are others.
    pub(crate) trusted: &'a [String],
    /// What is not as installed is only said.
    pub(crate) accepts_changes: bool,
}

/// Checks the server, then brings the schema to what this binary needs, or only checks it.
pub(crate) async fn prepare(
    client: &mut Client,
    schema: &str,
    terms: &Terms<'_>,
    patience: &mut Patience,
) -> Result<(), OpenError> {
    let survey = async {
        let seen = catalogue::look(client, schema).await?;
        seen.check_server()?;
        seen.check_owners(schema, terms.trusted)?;
        let installed = ledger(client, schema, &seen).await?;
        if installed.is_none() {
            refuse_foreign(client, schema).await?;
        }
        let need = judge(schema, installed.as_ref())?;
        if need == Need::Nothing && !seen.is_as_installed() {
            refuse_damage(schema, &catalogue::findings(client, schema).await?, terms)?;
        }
        Ok((need, installed.is_some()))
    };
    match (patience.check(survey).await?, terms.migrations) {
        // What a newer version installs is not known here.
        ((Need::Nothing | Need::Newer, _), _) => Ok(()),
        ((Need::Install, _), Migrations::Apply) => patience
            .installing(install::install_in_turn(client, schema, terms, patience.install))
            .await
            .map_err(|error| turn::explain(error, schema)),
        ((Need::Install, is_older), Migrations::Verify) => Err(not_installed(schema, is_older)),
    }
}

/// What is not as this version installs it; changes nothing, and runs nothing of the schema.
pub(crate) async fn verify(client: &Client, schema: &str, trusted: &[String]) -> Result<Vec<Finding>, OpenError> {
    let seen = catalogue::look(client, schema).await?;
    seen.check_server()?;
    let mut findings = seen.foreign_owners(trusted);
    // Of a schema that is not to be trusted not even the ledger is read.
    let known = if findings.is_empty() {
        ledger(client, schema, &seen).await
    } else {
        Ok(None)
    };
    let installed = match known {
        Err(error) if error.kind() != OpenErrorKind::SchemaDamaged => return Err(error),
        Ok(installed) if findings.is_empty() => installed,
        _ => {
            findings.extend(catalogue::findings(client, schema).await?);
            return Ok(findings);
        }
    };
    if installed.is_none() {
        refuse_foreign(client, schema).await?;
    }
    match judge(schema, installed.as_ref())? {
        Need::Nothing if seen.is_as_installed() => {}
        Need::Nothing => findings.extend(catalogue::findings(client, schema).await?),
        Need::Newer => {}
        Need::Install => return Err(not_installed(schema, installed.is_some())),
    }
    Ok(findings)
}

fn not_installed(schema: &str, is_older: bool) -> OpenError {
    if is_older {
        OpenError::new(
            OpenErrorKind::SchemaOutdated,
            format!("schema {schema:?} is older than this program needs"),
        )
    } else {
        OpenError::new(
            OpenErrorKind::SchemaMissing,
            format!("schema {schema:?} is not installed"),
        )
    }
}

/// Refuses what changes the meaning of calls; says the rest in the log.
fn refuse_damage(schema: &str, findings: &[Finding], terms: &Terms<'_>) -> Result<(), OpenError> {
    let damage: Vec<Finding> = findings.iter().filter(|f| f.stops_opening).cloned().collect();
    if !damage.is_empty() && !terms.accepts_changes {
        return Err(OpenError::new(
            OpenErrorKind::SchemaDamaged,
            format!(
                "schema {schema:?} is not as this version installs it: {}",
                in_short(&damage)
            ),
        ));
    }
    if !findings.is_empty() {
        tracing::warn!(target: "steadfast", schema, findings = in_short(findings),
            "the schema is not quite as this version installs it");
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Need {
    Nothing,
    Install,
    /// A newer version has been here, and still works with this one.
    Newer,
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
        return Ok(Need::Newer);
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

/// Drops what an install made, and only that: our views, functions and tables by name, and the schema itself when
/// an install created it and nothing else is in it.
pub(crate) async fn remove(client: &mut Client, schema: &str, patience: Duration) -> Result<(), StoreError> {
    let name = quote_identifier(schema);
    let tx = client.transaction().await?;
    tx.batch_execute("SET LOCAL search_path TO pg_catalog, pg_temp").await?;
    turn::bound(&tx, later(patience)).await?;
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
