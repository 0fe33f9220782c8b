//! Installs, upgrades and repairs: one transaction that nobody else's overtakes.
//!
//! Invariants: whoever comes at the same moment waits for its turn, and finds the work done; all or nothing; what is not ours
//! stays as it is.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, GenericClient, Transaction};

use super::catalogue::{self, Seen};
use super::files::{FUNCTIONS, MIGRATIONS, VIEWS};
use super::{
    FUNCTIONS_VERSION, Installed, LEDGER, Need, OLDEST_CLIENT, Terms, checksum, judge, ledger, refuse_damage,
    refuse_foreign, turn,
};
use crate::catalogue::Repair;
use crate::postgres::builder::{OpenError, OpenErrorKind};
use crate::postgres::connection::quote_identifier;
use crate::postgres::errand::Patience;
use crate::postgres::error::StoreError;

/// Installs, once nobody else does: whoever opens at the same moment waits, then finds the work done.
pub(super) async fn install_in_turn(
    client: &mut Client,
    schema: &str,
    terms: &Terms<'_>,
    patience: Duration,
) -> Result<(), OpenError> {
    let mut waiting = turn::Waiting::new(patience);
    while !install(client, schema, terms, waiting.deadline()).await? {
        waiting.pause(client, schema).await?;
    }
    Ok(())
}

/// One try; `false`: somebody else is at it.
async fn install(client: &mut Client, schema: &str, terms: &Terms<'_>, deadline: Instant) -> Result<bool, OpenError> {
    let Some(tx) = begin(client, schema, deadline).await? else {
        return Ok(false);
    };
    let seen = catalogue::look(&tx, schema).await?;
    seen.check_owners(schema, terms.trusted)?;
    let installed = ledger(&tx, schema, &seen).await?;
    if judge(schema, installed.as_ref())? != Need::Install {
        return Ok(true);
    }
    let upgrades = installed.is_some();
    apply(&tx, schema, &seen, installed).await?;
    if upgrades {
        refuse_damage(schema, &catalogue::findings(&tx, schema).await?, terms)?;
    }
    tx.commit().await.map_err(StoreError::from)?;
    tracing::info!(target: "steadfast", schema, version = FUNCTIONS_VERSION, "schema installed");
    Ok(true)
}

/// Installs or upgrades where that is needed, and puts back what of ours is missing or differs; all or nothing.
pub(crate) async fn repair(
    client: &mut Client,
    schema: &str,
    trusted: &[String],
    patience: &mut Patience,
) -> Result<Repair, OpenError> {
    let look = async { catalogue::look(client, schema).await?.check_server() };
    patience.check(look).await?;
    let install = patience.install;
    let mending = async {
        let mut waiting = turn::Waiting::new(install);
        loop {
            if let Some(repair) = repair_once(client, schema, trusted, waiting.deadline()).await? {
                return Ok(repair);
            }
            waiting.pause(client, schema).await?;
        }
    };
    let mended = patience.installing(mending).await;
    mended.map_err(|error| turn::explain(error, schema))
}

/// One try; `None`: somebody else is at it.
async fn repair_once(
    client: &mut Client,
    schema: &str,
    trusted: &[String],
    deadline: Instant,
) -> Result<Option<Repair>, OpenError> {
    let Some(tx) = begin(client, schema, deadline).await? else {
        return Ok(None);
    };
    let mut seen = catalogue::look(&tx, schema).await?;
    seen.check_owners(schema, trusted)?;
    if !seen.ledger_is_plain() {
        // Without it nothing can be judged.
        super::repair::show_ledger(&tx, schema).await?;
        seen = catalogue::look(&tx, schema).await?;
    }
    let installed = ledger(&tx, schema, &seen).await?;
    if installed.is_none() {
        refuse_foreign(&tx, schema).await?;
    }
    match judge(schema, installed.as_ref())? {
        Need::Nothing => {}
        Need::Install => apply(&tx, schema, &seen, installed).await?,
        Need::Newer => {
            return Err(OpenError::new(
                OpenErrorKind::SchemaTooNew,
                format!("schema {schema:?} was upgraded by a newer program, which alone can repair it"),
            ));
        }
    }
    let repair = super::repair::put_back(&tx, schema).await?;
    tx.commit().await.map_err(StoreError::from)?;
    tracing::info!(target: "steadfast", schema, mended = repair.mended.len(), left = repair.left.len(), "schema repaired");
    Ok(Some(repair))
}

/// A transaction in which nobody else installs, and no name means an object of somebody else's; `None`: somebody else is at it.
async fn begin<'a>(
    client: &'a mut Client,
    schema: &str,
    deadline: Instant,
) -> Result<Option<Transaction<'a>>, OpenError> {
    let tx = client.transaction().await.map_err(no_transaction)?;
    tx.batch_execute("SET LOCAL search_path TO pg_catalog, pg_temp")
        .await
        .map_err(StoreError::from)?;
    turn::bound(&tx, deadline).await?;
    if turn::take(&tx, schema).await? {
        return Ok(Some(tx));
    }
    tx.rollback().await.map_err(StoreError::from)?;
    Ok(None)
}

/// A pooler that gives a server for one statement only refuses a transaction as a breach of its protocol.
fn no_transaction(error: tokio_postgres::Error) -> OpenError {
    match StoreError::from(error) {
        StoreError::Database { sqlstate, message } if sqlstate == "08P01" => OpenError::new(
            OpenErrorKind::Configuration,
            format!(
                "the pooler refuses transactions ({message}): install, upgrade, repair and remove the schema through the \
                 server itself, or through a pool in session or transaction mode"
            ),
        ),
        error => error.into(),
    }
}

/// Brings tables, functions and views up to this version.
async fn apply(tx: &Transaction<'_>, schema: &str, seen: &Seen, installed: Option<Installed>) -> Result<(), OpenError> {
    let name = quote_identifier(schema);
    let made_schema = installed.is_none() && !seen.schema_exists();
    if made_schema {
        tx.batch_execute(&format!("CREATE SCHEMA {name}"))
            .await
            .map_err(StoreError::from)?;
    }
    tx.batch_execute(&format!("SET LOCAL search_path TO {name}, pg_temp; {LEDGER}"))
        .await
        .map_err(StoreError::from)?;
    let installed = installed.unwrap_or_default();
    for (number, file, text) in MIGRATIONS {
        if !installed.tables.iter().any(|(n, _)| n == file) {
            tx.batch_execute(text).await.map_err(StoreError::from)?;
            record(tx, "table", file, &checksum(text), i64::from(*number)).await?;
        }
    }
    for (file, text) in FUNCTIONS.iter().chain(VIEWS) {
        let sum = checksum(text);
        if !installed.functions.iter().any(|(n, s)| n == file && *s == sum) {
            tx.batch_execute(text).await.map_err(StoreError::from)?;
            record(tx, "function", file, &sum, FUNCTIONS_VERSION).await?;
        }
    }
    record(tx, "gate", "functions", "", FUNCTIONS_VERSION).await?;
    record(
        tx,
        "gate",
        "oldest_client",
        "",
        OLDEST_CLIENT.max(installed.oldest_client),
    )
    .await?;
    if made_schema {
        record(tx, "gate", "made_schema", "", 1).await?;
    }
    Ok(())
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
