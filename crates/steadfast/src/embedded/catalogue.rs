//! The catalogue of a file, compared with what this version makes, and put back.
//!
//! Invariant: what is expected is read from a store made in memory by the same migrations.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rusqlite::{Connection, TransactionBehavior};

use super::builder::{Builder, Durability, OpenError, OpenErrorKind};
use super::connection::{Place, open_writer};
use super::log::{self, Phase};
use super::look::Look;
use super::schema;
use super::store::begin_log;
use crate::catalogue::{Finding, FindingKind, Listing, Repair, compare, in_short};

impl Builder {
    /// Compares the file, object by object, with what this version makes: tables, indexes, triggers, views. Changes nothing.
    /// Empty: it is as this version makes it.
    ///
    /// # Errors
    /// [`OpenError`] where there is nothing to compare: no file, not a store, of another version.
    pub async fn verify_schema(self) -> Result<Vec<Finding>, OpenError> {
        self.apart(|path| {
            Look::at(path)?.open_with(|connection| {
                let version = schema::installed(connection)?;
                if version < schema::newest() {
                    let message = "the file is older than this program needs; open it with a provider once";
                    return Err(OpenError::new(OpenErrorKind::Outdated, message));
                }
                findings(connection, version)
            })
        })
        .await
    }

    /// Brings the file to this version, and puts back what of Steadfast's own is missing or differs: indexes and triggers.
    /// One transaction. What is not Steadfast's stays as it is, and is named in the answer.
    ///
    /// # Errors
    /// [`OpenErrorKind::Changed`] where a table is missing or another: rows are lost, and nothing was changed. Otherwise as
    /// [`open`](Builder::open).
    pub async fn repair_schema(self) -> Result<Repair, OpenError> {
        self.apart(|path| {
            let opened = open_writer(&Place::File(path.to_owned()), Durability::Full)?;
            // In this order, so that the connection is closed first.
            let (_presence, mut connection) = (opened.presence, opened.connection);
            begin_log(&connection, opened.alone);
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let version = schema::installed(&tx)?;
            let mut repair = put_back(&tx, version)?;
            if version < schema::newest() {
                schema::upgrade(&tx, version)?;
                repair.left = findings(&tx, schema::newest())?;
            }
            tx.commit()?;
            if opened.alone {
                log::mark(&connection, Phase::Closed)?;
            }
            Ok(repair)
        })
        .await
    }
}

/// What is not as the migrations up to `version` make it.
pub(super) fn findings(connection: &Connection, version: i64) -> Result<Vec<Finding>, OpenError> {
    Ok(compare(expected(version)?.as_ref(), &listing(connection)?))
}

/// Refuses what changes the meaning of what is done; returns the rest.
pub(super) fn check(connection: &Connection, version: i64) -> Result<Vec<Finding>, OpenError> {
    let findings = findings(connection, version)?;
    let damage: Vec<Finding> = findings.iter().filter(|f| f.stops_opening).cloned().collect();
    if !damage.is_empty() {
        let message = format!("the file is not as this version makes it: {}", in_short(&damage));
        return Err(OpenError::new(OpenErrorKind::Changed, message));
    }
    Ok(findings)
}

fn expected(version: i64) -> Result<Arc<Listing>, OpenError> {
    static NEWEST: OnceLock<Arc<Listing>> = OnceLock::new();
    if let Some(known) = NEWEST.get().filter(|_| version == schema::newest()) {
        return Ok(Arc::clone(known));
    }
    let memory = Connection::open_in_memory()?;
    schema::make(&memory, version)?;
    let made = Arc::new(listing(&memory)?);
    if version == schema::newest() {
        return Ok(Arc::clone(NEWEST.get_or_init(|| made)));
    }
    Ok(made)
}

fn listing(connection: &Connection) -> rusqlite::Result<Listing> {
    let mut listing = Listing::default();
    // SQLite's own: indexes of keys, statistics.
    let sql = "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, name, table, text): (String, String, String, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let object = if kind == "trigger" {
            format!("{table}.{name}")
        } else {
            name
        };
        let unique = text.to_ascii_uppercase().starts_with("CREATE UNIQUE");
        listing.insert(&kind, &object, &format!("table={table}; unique={unique}; text={text}"));
    }
    Ok(listing)
}

fn put_back(connection: &Connection, version: i64) -> Result<Repair, OpenError> {
    let expected = expected(version)?;
    let found = compare(&expected, &listing(connection)?);
    let lost: Vec<Finding> = found
        .iter()
        .filter(|f| f.key.0 == "table" && !matches!(f.kind, FindingKind::Foreign))
        .cloned()
        .collect();
    if !lost.is_empty() {
        let message = format!(
            "the file cannot be repaired without losing what it holds: {}; nothing was changed (restore a backup)",
            in_short(&lost)
        );
        return Err(OpenError::new(OpenErrorKind::Changed, message));
    }
    for finding in &found {
        let Some(text) = expected.0.get(&finding.key).and_then(|fact| fact.split_once("; text=")) else {
            continue;
        };
        let (kind, name) = (
            finding.key.0.as_str(),
            finding.key.1.rsplit('.').next().unwrap_or_default(),
        );
        let drop = match kind {
            "index" => format!("DROP INDEX IF EXISTS \"{name}\""),
            "trigger" => format!("DROP TRIGGER IF EXISTS \"{name}\""),
            _ => continue,
        };
        connection.execute_batch(&format!("{drop}; {};", text.1))?;
    }
    let left = compare(&expected, &listing(connection)?);
    let mended = found.into_iter().filter(|f| !left.contains(f)).collect();
    Ok(Repair { mended, left })
}

impl Builder {
    /// Does something with the file, away from the async threads.
    async fn apart<T: Send + 'static>(
        self,
        work: impl FnOnce(&Path) -> Result<T, OpenError> + Send + 'static,
    ) -> Result<T, OpenError> {
        let place = self.into_place();
        let done = tokio::task::spawn_blocking(move || match &place {
            Place::File(path) => work(path).map_err(|error| error.at(&place)),
            Place::Memory => Err(OpenError::new(OpenErrorKind::Configuration, "there is no file")),
        });
        match done.await {
            Ok(result) => result,
            Err(error) => Err(OpenError::new(OpenErrorKind::Database, error.to_string())),
        }
    }
}
