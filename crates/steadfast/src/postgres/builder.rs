//! Opening a provider: settings, checks, schema.
//!
//! Invariant: what cannot work is refused here, by name, before anything has happened.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use super::connection::{Connector, PasswordProvider, Pipe, PipeSettings};
use super::error::StoreError;
use super::feed::FeedSide;
use super::provider::PostgresProvider;
use super::rights::{self, Access, Missing};
use super::schema;
use super::store::Store;
use super::target::{ConnectTarget, Connected, TargetError};
use crate::fault::Faults;
use crate::feed::{Feed, Level, Retention};

/// Schema of providers that name none.
pub const DEFAULT_SCHEMA: &str = "steadfast";
/// Connections of the pool when neither the builder nor `DUROXIDE_PG_POOL_MAX` says otherwise: the peers' default.
pub const DEFAULT_POOL_SIZE: usize = 10;

/// What opening does about the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Migrations {
    /// Installs or upgrades it, in one transaction.
    #[default]
    Apply,
    /// Only checks that it is there and recent enough: for roles that may not run DDL.
    Verify,
}

/// How fetches wait for work.
#[derive(Debug, Clone)]
pub struct LongPoll {
    /// `false`: a fetch returns at once, whatever its poll timeout, and this process neither hears nor sends hints.
    pub enabled: bool,
    /// Upper bound of what a lost hint costs: so often waiting processes look although nothing was heard.
    /// Default 15 s.
    pub fallback_poll_interval: Duration,
    /// `false`: does not even try to LISTEN; polls, and sends no hints.
    pub listen: bool,
    /// While hints cannot arrive, an idle queue is polled at intervals growing from 10 ms to this. Default 1 s.
    pub slowest_poll_interval: Duration,
}

impl Default for LongPoll {
    fn default() -> Self {
        Self {
            enabled: true,
            fallback_poll_interval: Duration::from_secs(15),
            listen: true,
            slowest_poll_interval: Duration::from_secs(1),
        }
    }
}

impl LongPoll {
    /// Short poll: every fetch returns at once.
    #[must_use]
    pub fn disabled() -> Self {
        Self {
            enabled: false,
            ..Self::default()
        }
    }
}

/// What kind of trouble kept a provider from opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenErrorKind {
    /// No server answers there.
    Unreachable,
    /// The server refused the user or password.
    Authentication,
    /// The schema is not installed, and `Migrations::Verify` forbids to install it.
    SchemaMissing,
    /// The schema is older than this program needs, and `Migrations::Verify` forbids to upgrade it.
    SchemaOutdated,
    /// The schema was upgraded by a newer program, which no longer supports this one.
    SchemaTooNew,
    /// The schema belongs to somebody else, or was changed by hand.
    SchemaForeign,
    /// The role lacks rights for what a provider does; the message holds the GRANT statements.
    MissingRights,
    /// The schema's name cannot be.
    InvalidName,
    /// The URL or the server's settings cannot work.
    Configuration,
    /// The database refused something else.
    Database,
}

/// Why a provider could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct OpenError {
    kind: OpenErrorKind,
    message: String,
}

impl OpenError {
    pub(crate) fn new(kind: OpenErrorKind, message: String) -> Self {
        Self { kind, message }
    }

    /// What kind of trouble it was.
    #[must_use]
    pub fn kind(&self) -> OpenErrorKind {
        self.kind
    }
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Connect { refused: true, .. } => OpenErrorKind::Authentication,
            StoreError::Connect {
                sqlstate: Some(code), ..
            } if !code.starts_with("57") && !code.starts_with("53") => OpenErrorKind::Database,
            StoreError::Connect { .. }
            | StoreError::Connection(_)
            | StoreError::Timeout(_)
            | StoreError::PoolTimeout(_) => OpenErrorKind::Unreachable,
            _ => OpenErrorKind::Database,
        };
        Self {
            kind,
            message: error.to_string(),
        }
    }
}

impl From<TargetError> for OpenError {
    fn from(error: TargetError) -> Self {
        Self {
            kind: OpenErrorKind::Configuration,
            message: error.to_string(),
        }
    }
}

/// Settings of a provider to be opened. Made by [`PostgresProvider::builder`].
#[must_use = "a builder does nothing until `connect` is awaited"]
pub struct Builder {
    target: Result<ConnectTarget, TargetError>,
    schema: String,
    migrations: Migrations,
    pool_size: Option<usize>,
    long_poll: LongPoll,
    call_timeout: Duration,
    retry_timeout: Duration,
    trouble_timeout: Duration,
    history_cache_bytes: usize,
    transaction_pooler: bool,
    password: Option<PasswordProvider>,
    feed: (Level, Retention),
    access: Access,
    faults: Faults,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("target", &self.target)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new(target: Result<ConnectTarget, TargetError>) -> Self {
        Self {
            target,
            schema: DEFAULT_SCHEMA.to_owned(),
            migrations: Migrations::default(),
            pool_size: None,
            long_poll: LongPoll::default(),
            call_timeout: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(30),
            trouble_timeout: Duration::from_secs(3600),
            history_cache_bytes: 64 << 20,
            transaction_pooler: false,
            password: None,
            feed: (Level::default(), Retention::default()),
            access: Access::default(),
            faults: Faults::none(),
        }
    }

    /// Schema to live in; several can share a database. Any name of up to 63 bytes that PostgreSQL does not
    /// reserve works, mixed case included.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = name.into();
        self
    }

    /// Whether opening may change the schema.
    pub fn migrations(mut self, migrations: Migrations) -> Self {
        self.migrations = migrations;
        self
    }

    /// Most connections for calls; one more listens. Without it `DUROXIDE_PG_POOL_MAX` counts, then 10. Calls
    /// coalesce, so a few suffice.
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = Some(connections);
        self
    }

    /// How fetches wait for work.
    pub fn long_poll(mut self, long_poll: LongPoll) -> Self {
        self.long_poll = long_poll;
        self
    }

    /// Longest wait for one answer before its connection is given up and the call is repeated on another. Default
    /// 10 s.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How long reads and enqueues are repeated through trouble before the caller sees an error. Default 30 s. Acks,
    /// abandons and renewals are repeated until they are answered; one that may have been done, for as long as its lease.
    pub fn retry_timeout(mut self, timeout: Duration) -> Self {
        self.retry_timeout = timeout;
        self
    }

    /// How long a call waits while the store is not as it must be (a missing grant, function or table, a full disk, a
    /// read-only server) before its caller sees an error, which is retryable and names the trouble. Default one hour.
    /// Claims stay stopped until the trouble is over, however long it lasts.
    pub fn trouble_timeout(mut self, timeout: Duration) -> Self {
        self.trouble_timeout = timeout;
        self
    }

    /// Memory for histories that this process has seen. Default 64 MiB; 0 keeps none.
    pub fn history_cache_bytes(mut self, bytes: usize) -> Self {
        self.history_cache_bytes = bytes;
        self
    }

    /// The URL leads to a pooler in transaction mode: no prepared statements, no session settings, and polling
    /// instead of LISTEN.
    pub fn transaction_pooler(mut self, yes: bool) -> Self {
        self.transaction_pooler = yes;
        self
    }

    /// Shown in `pg_stat_activity`. Default `steadfast`, unless the URL or `PGAPPNAME` says otherwise.
    pub fn application_name(mut self, name: impl Into<String>) -> Self {
        self.target = self.target.map(|t| t.with_application_name(name.into()));
        self
    }

    /// Asks `password` for each new connection, and again when the server refuses it: short-lived credentials of
    /// clouds. What it returns is kept nowhere.
    pub fn password_provider<F, R>(mut self, password: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        self.password = Some(Arc::new(move || Box::pin(password())));
        self
    }

    /// How much of what it does this provider records in the change feed. Default [`Level::Lifecycle`]; providers of one
    /// store should agree, as an observer sees only what was recorded.
    pub fn feed(mut self, level: Level) -> Self {
        self.feed.0 = level;
        self
    }

    /// How much of the change feed is kept, by this provider's doing.
    pub fn feed_retention(mut self, retention: Retention) -> Self {
        self.feed.1 = retention;
        self
    }

    /// What the provider is opened for. Default [`Access::Work`]: opening checks the role's rights for all that a provider
    /// does, and names the GRANT that is missing.
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Opens only the change feed, to read it: for a process that observes, under a role that may only read (see
    /// docs/operations.md for its grants), on a hot standby too. Installs nothing.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn open_feed(self) -> Result<Feed, OpenError> {
        let observer = self.migrations(Migrations::Verify).access(Access::Read);
        Ok(observer.connect().await?.into_feed())
    }

    /// Points at which this provider fails on demand.
    #[cfg(feature = "fault-injection")]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Connects, checks the server, brings the schema to what is needed, and opens the provider.
    ///
    /// # Errors
    /// [`OpenError`]; its [`kind`](OpenError::kind) says what to do about it. Nothing is left behind.
    pub async fn connect(self) -> Result<PostgresProvider, OpenError> {
        schema::check_name(&self.schema)?;
        let target = self
            .target?
            .with_default_application_name("steadfast")
            .with_default_connect_timeout(Duration::from_secs(10));
        let settings = PipeSettings {
            schema: self.schema,
            pool_size: self.pool_size.unwrap_or_else(pool_size_from_env),
            call_timeout: self.call_timeout,
            retry_timeout: self.retry_timeout,
            trouble_timeout: self.trouble_timeout,
            transaction_pooler: self.transaction_pooler,
            password: self.password,
            access: self.access,
        };
        let connector = Connector::new(target, &settings);
        let (name, migrations) = (settings.schema.clone(), self.migrations);
        let (access, records) = (settings.access, self.feed.0 != Level::Off);
        with_connection(&connector, async |client| {
            schema::check_server(client).await?;
            schema::prepare(client, &name, migrations).await?;
            match access {
                Access::Work => check_rights(client, &name, records).await,
                Access::Read => Ok(()),
            }
        })
        .await?;
        let pipe = Pipe::new(connector.clone(), settings, self.faults)?;
        Ok(PostgresProvider::over(Store::new(
            pipe,
            connector,
            self.long_poll,
            self.history_cache_bytes,
            FeedSide::new(self.feed.0, self.feed.1),
        )))
    }
}

/// Refuses a role that could not do what a provider does, or a schema that lacks something.
async fn check_rights(client: &tokio_postgres::Client, schema: &str, records: bool) -> Result<(), OpenError> {
    let missing = rights::missing(client, schema, records, true, false).await?;
    if missing.is_empty() {
        return Ok(());
    }
    let described: Vec<String> = missing.iter().map(Missing::describe).collect();
    let mends: Vec<String> = missing.iter().filter_map(|m| m.grant(schema)).collect();
    let mut message = described.join("; ");
    if !mends.is_empty() {
        message = format!("{message}. Run: {}", mends.join(" "));
    }
    let kind = if missing.iter().all(|m| m.grant(schema).is_some()) {
        OpenErrorKind::MissingRights
    } else {
        OpenErrorKind::SchemaForeign
    };
    Err(OpenError::new(kind, message))
}

/// Runs `work` on a connection of its own.
pub(crate) async fn with_connection<T, E: From<StoreError>>(
    connector: &Connector,
    work: impl AsyncFnOnce(&mut tokio_postgres::Client) -> Result<T, E>,
) -> Result<T, E> {
    let Connected {
        mut client,
        mut messages,
        ..
    } = connector.connect().await?;
    let driver = tokio::spawn(async move { while let Some(Ok(_)) = messages.next().await {} });
    let result = work(&mut client).await;
    drop(client);
    // The driver ends when the server has been told good-bye.
    let _ = tokio::time::timeout(Duration::from_secs(1), driver).await;
    result
}

fn pool_size_from_env() -> usize {
    std::env::var("DUROXIDE_PG_POOL_MAX")
        .ok()
        .and_then(|n| n.trim().parse().ok())
        .filter(|n| *n > 0)
        .unwrap_or(DEFAULT_POOL_SIZE)
}
