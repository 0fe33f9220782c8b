//! Puts back what of ours is missing or differs.
//!
//! Invariants: nothing is done where rows are lost; what is not ours is left alone; whatever is done is done in the caller's
//! transaction, and looked at again before that ends.

use tokio_postgres::Transaction;

use super::catalogue::{self, remedy};
use super::files::{FUNCTIONS, VIEWS};
use crate::catalogue::{Finding, FindingKind, Repair, in_short};
use crate::postgres::builder::{OpenError, OpenErrorKind};
use crate::postgres::connection::quote_identifier;
use crate::postgres::error::StoreError;

/// In which order objects are put back: each stands on those before it.
const ORDER: [&str; 9] = [
    "function",
    "table",
    "default",
    "not null",
    "constraint",
    "index",
    "trigger",
    "view",
    "grant to public",
];

pub(super) async fn put_back(tx: &Transaction<'_>, schema: &str) -> Result<Repair, OpenError> {
    let found = catalogue::findings(tx, schema).await?;
    let lost: Vec<Finding> = found.iter().filter(|f| is_lost(f)).cloned().collect();
    if !lost.is_empty() {
        return Err(OpenError::new(
            OpenErrorKind::SchemaDamaged,
            format!(
                "schema {schema:?} cannot be repaired without losing what it holds: {}; nothing was changed (restore a \
                 backup, or put it back by hand)",
                in_short(&lost)
            ),
        ));
    }
    let name = quote_identifier(schema);
    tx.batch_execute(&format!("SET LOCAL search_path TO {name}, pg_temp"))
        .await
        .map_err(StoreError::from)?;
    for kind in ORDER {
        for finding in found.iter().filter(|f| f.key.0 == kind) {
            mend(tx, &name, finding).await?;
        }
    }
    let left = catalogue::findings(tx, schema).await?;
    let mended = found.into_iter().filter(|f| !left.contains(f)).collect();
    Ok(Repair { mended, left })
}

/// Takes away what hides rows of the ledger.
pub(super) async fn show_ledger(tx: &Transaction<'_>, schema: &str) -> Result<(), OpenError> {
    let name = quote_identifier(schema);
    let sql = format!("ALTER TABLE {name}.sf_ledger DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY");
    Ok(tx.batch_execute(&sql).await.map_err(StoreError::from)?)
}

/// Whether only its rows could tell what it was.
fn is_lost(finding: &Finding) -> bool {
    match (finding.key.0.as_str(), &finding.kind) {
        ("column" | "sequence" | "table", FindingKind::Missing)
        | ("column" | "sequence", FindingKind::Differs { .. }) => true,
        ("table", FindingKind::Differs { what }) => what.split(", ").any(|part| matches!(part, "kind" | "partition")),
        _ => false,
    }
}

/// The statements that put an object back; none where it is not ours.
async fn mend(tx: &Transaction<'_>, schema: &str, finding: &Finding) -> Result<(), OpenError> {
    let (kind, object) = (finding.key.0.as_str(), finding.key.1.as_str());
    let foreign = matches!(finding.kind, FindingKind::Foreign);
    let differs = matches!(finding.kind, FindingKind::Differs { .. });
    let (table, part) = object.split_once('.').unwrap_or((object, ""));
    let (table, part) = (quote_identifier(table), quote_identifier(part));
    let anew = remedy(kind, object).unwrap_or_default();
    let sql = match kind {
        "function" if !foreign => {
            let stem = object.split('(').next().and_then(|name| name.strip_prefix("sf_"));
            let text = FUNCTIONS
                .iter()
                .find(|(name, _)| stem == Some(*name))
                .map(|(_, text)| *text);
            return replace(tx, text, &format!("DROP ROUTINE IF EXISTS {object}")).await;
        }
        "view" if !foreign => {
            let text = VIEWS
                .iter()
                .map(|(_, text)| *text)
                .find(|text| text.contains(&format!("CREATE OR REPLACE VIEW {object} ")));
            return replace(tx, text, &format!("DROP VIEW IF EXISTS {object}")).await;
        }
        "table" if differs => {
            format!("ALTER TABLE {table} SET LOGGED, DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY")
        }
        "default" if foreign => format!("ALTER TABLE {table} ALTER COLUMN {part} DROP DEFAULT"),
        "not null" if foreign => format!("ALTER TABLE {table} ALTER COLUMN {part} DROP NOT NULL"),
        "constraint" if differs => format!("ALTER TABLE {table} DROP CONSTRAINT {part}; {anew}"),
        "index" if differs => format!("DROP INDEX {table}; {anew}"),
        // Its function's file may have made it already.
        "trigger" if !foreign => format!("DROP TRIGGER IF EXISTS {part} ON {table}; {anew}"),
        "default" | "not null" | "constraint" | "index" if !foreign => anew.to_owned(),
        "grant to public" if object == "@" => format!("REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC"),
        "grant to public" if object.contains('.') => format!("REVOKE ALL ({part}) ON {table} FROM PUBLIC"),
        "grant to public" => format!("REVOKE ALL ON TABLE {table} FROM PUBLIC"),
        _ => return Ok(()),
    };
    Ok(tx.batch_execute(&sql).await.map_err(StoreError::from)?)
}

/// Replaces a function or view in place, which keeps its grants; where its shape forbids that, drops it first.
async fn replace(tx: &Transaction<'_>, text: Option<&str>, drop: &str) -> Result<(), OpenError> {
    let Some(text) = text else { return Ok(()) };
    tx.batch_execute("SAVEPOINT in_place").await.map_err(StoreError::from)?;
    let sql = match tx.batch_execute(text).await.map_err(StoreError::from) {
        Ok(()) => "RELEASE in_place".to_owned(),
        // Another result, other parameters or columns, another kind of routine.
        Err(StoreError::Database { sqlstate, .. }) if ["42P13", "42P16", "42809"].contains(&sqlstate.as_str()) => {
            format!("ROLLBACK TO in_place; {drop}; {text}")
        }
        Err(error) => return Err(error.into()),
    };
    Ok(tx.batch_execute(&sql).await.map_err(StoreError::from)?)
}
