//! Whose turn it is to install: one at a time, and nobody waits for ever.
//!
//! Invariants: nobody ever queues for the installers' lock in the server. It is tried, and tried again in a new
//! transaction, until the deadline: anybody who may connect can take it, and nobody's backend is left behind waiting. What a
//! role or database says about timeouts does not count within an install; our own deadline does.

use std::time::{Duration, Instant};

use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::postgres::builder::{OpenError, OpenErrorKind};
use crate::postgres::connector::setting_ms;
use crate::postgres::error::StoreError;
use crate::postgres::store::later;

/// The key of the installers' lock: `$1` is the schema's name.
macro_rules! key {
    () => {
        "pg_catalog.hashtextextended('steadfast schema ' OPERATOR(pg_catalog.||) $1, 0::bigint)"
    };
}

/// The settings that could end an install half-way, for the rest of this transaction. `transaction_timeout` (PostgreSQL 17)
/// has started counting; setting it to 0 stops it, another value would not.
const SETTINGS: &str = "SELECT set_config(s.name, CASE s.name WHEN 'transaction_timeout' THEN '0' ELSE $1 END, true) \
    FROM pg_catalog.pg_settings s WHERE s.name IN \
    ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')";

/// Puts our deadline in the place of all timeouts of this transaction.
pub(super) async fn bound(tx: &impl GenericClient, deadline: Instant) -> Result<(), StoreError> {
    let left = deadline.saturating_duration_since(Instant::now());
    // The very last try needs some time too.
    let left = setting_ms(left + Duration::from_secs(1));
    tx.query_typed(SETTINGS, &[(&left, Type::TEXT)]).await?;
    Ok(())
}

/// Takes the installers' lock until this transaction ends; `false`: somebody else has it.
pub(super) async fn take(tx: &impl GenericClient, schema: &str) -> Result<bool, StoreError> {
    let sql = concat!("SELECT pg_catalog.pg_try_advisory_xact_lock(", key!(), ")");
    let rows = tx.query_typed(sql, &[(&schema, Type::TEXT)]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// Waits between two tries.
pub(super) struct Waiting {
    deadline: Instant,
    patience: Duration,
    pause: Duration,
}

impl Waiting {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            deadline: later(patience),
            patience,
            pause: Duration::from_millis(10),
        }
    }

    /// When there is no more time.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Until it is worth trying again.
    ///
    /// # Errors
    /// [`OpenErrorKind::Locked`] when there is no time left, naming who has the lock.
    pub(super) async fn pause(&mut self, client: &impl GenericClient, schema: &str) -> Result<(), OpenError> {
        if Instant::now() >= self.deadline {
            return Err(self.too_late(client, schema).await);
        }
        if self.pause == Duration::from_millis(10) {
            tracing::info!(target: "steadfast", schema, "another session installs the schema; waiting for it");
        }
        tokio::time::sleep_until((Instant::now() + self.pause).min(self.deadline).into()).await;
        self.pause = (self.pause * 2).min(Duration::from_millis(250));
        Ok(())
    }

    async fn too_late(&self, client: &impl GenericClient, schema: &str) -> OpenError {
        let holder = match holders(client, schema).await {
            Ok(holders) if !holders.is_empty() => holders.join(", "),
            // It has just let go, or the server does not say.
            _ => "a session that cannot be seen now".to_owned(),
        };
        OpenError::new(
            OpenErrorKind::Locked,
            format!(
                "schema {schema:?} cannot be installed: for {} s the installers' lock (advisory lock \
                 hashtextextended('steadfast schema {}', 0)) has been held by {holder}",
                self.patience.as_secs_f64(),
                schema.escape_debug(),
            ),
        )
    }
}

/// Who holds the installers' lock, for people.
async fn holders(client: &impl GenericClient, schema: &str) -> Result<Vec<String>, StoreError> {
    let sql = concat!(
        "SELECT l.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, '') \
         FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid, (SELECT ",
        key!(),
        " AS key) k \
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
           AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()) \
           AND (l.classid::bigint << 32 | l.objid::bigint) = k.key ORDER BY l.pid"
    );
    let rows = client.query_typed(sql, &[(&schema, Type::TEXT)]).await?;
    let name = |row: &tokio_postgres::Row| {
        let (pid, application, user): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
        // Both names are another client's text.
        format!("process {pid} of the server (application {application:?}, user {user:?})")
    };
    Ok(rows.iter().map(name).collect())
}

/// What an install's failure means, where that is not what the server's words say.
pub(super) fn explain(error: OpenError, schema: &str) -> OpenError {
    let (kind, why) = match error.sqlstate() {
        Some("25006") => (
            OpenErrorKind::Configuration,
            "transactions are read-only here (a standby, or default_transaction_read_only)",
        ),
        Some("55P03" | "57014") => (
            OpenErrorKind::Locked,
            "a lock on one of its objects could not be had within install_timeout, or the statement took longer",
        ),
        _ => return error,
    };
    OpenError::new(kind, format!("schema {schema:?} cannot be installed: {why}: {error}"))
}
