//! Opening a provider: settings, checks, schema.
//!
//! Invariant: what cannot work is refused here, by name, before anything has happened.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::connection::{Pipe, PipeSettings};
use super::connector::{Connector, PasswordProvider};
use super::errand::{Patience, with_connection};
use super::error::StoreError;
use super::feed::FeedSide;
use super::provider::PostgresProvider;
use super::rights::{self, Access, Missing};
use super::schema;
use super::store::Store;
use super::target::{ConnectTarget, TargetError};
use crate::background::Background;
use crate::catalogue::{Finding, Repair};
use crate::fault::Faults;
use crate::feed::{Feed, Level, Retention};
use crate::limit::{DEFAULT_HISTORY_LIMIT, DEFAULT_PAYLOAD_LIMIT, HistoryLimit, PayloadLimit};

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
    /// While somebody waits for the change feed, so often it is looked whether something came of which nobody told: a
    /// process that is killed right after its commit tells nobody. One small read each time. Default 700 ms.
    pub feed_poll_interval: Duration,
}

impl Default for LongPoll {
    fn default() -> Self {
        Self {
            enabled: true,
            fallback_poll_interval: Duration::from_secs(15),
            listen: true,
            slowest_poll_interval: Duration::from_secs(1),
            feed_poll_interval: Duration::from_millis(700),
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
    /// The server has no such database.
    DatabaseMissing,
    /// The schema is not installed, and `Migrations::Verify` forbids to install it.
    SchemaMissing,
    /// The schema is older than this program needs, and `Migrations::Verify` forbids to upgrade it.
    SchemaOutdated,
    /// The schema was upgraded by a newer program, which no longer supports this one.
    SchemaTooNew,
    /// The schema belongs to somebody else, or was changed by hand.
    SchemaForeign,
    /// Something in the schema is missing or not as this version installs it: see [`Builder::verify_schema`].
    SchemaDamaged,
    /// The role lacks rights for what a provider does; the message holds the GRANT statements.
    MissingRights,
    /// The schema's name cannot be.
    InvalidName,
    /// The URL or the server's settings cannot work.
    Configuration,
    /// Somebody else holds a lock that an install needs, and did not let go of it within `install_timeout`.
    Locked,
    /// The database refused something else.
    Database,
}

/// Why a provider could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct OpenError {
    kind: OpenErrorKind,
    message: String,
    sqlstate: Option<String>,
}

impl OpenError {
    pub(crate) fn new(kind: OpenErrorKind, message: String) -> Self {
        Self {
            kind,
            message,
            sqlstate: None,
        }
    }

    fn no_thread(error: std::io::Error) -> Self {
        Self::new(OpenErrorKind::Configuration, format!("cannot start a thread: {error}"))
    }

    /// What kind of trouble it was.
    #[must_use]
    pub fn kind(&self) -> OpenErrorKind {
        self.kind
    }

    /// PostgreSQL's code for it, where the server refused with one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Connect { refused: true, .. } => OpenErrorKind::Authentication,
            StoreError::Connect {
                sqlstate: Some(code), ..
            } if code == "3D000" => OpenErrorKind::DatabaseMissing,
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
            sqlstate: error.sqlstate().map(str::to_owned),
        }
    }
}

impl From<TargetError> for OpenError {
    fn from(error: TargetError) -> Self {
        Self::new(OpenErrorKind::Configuration, error.to_string())
    }
}

/// Settings of a provider to be opened. Made by [`PostgresProvider::builder`].
#[must_use = "a builder does nothing until `connect` is awaited"]
pub struct Builder {
    target: Result<ConnectTarget, TargetError>,
    schema: String,
    migrations: Migrations,
    trusted_owners: Vec<String>,
    accepts_changes: bool,
    pool_size: Option<usize>,
    long_poll: LongPoll,
    call_timeout: Duration,
    install_timeout: Duration,
    retry_timeout: Duration,
    trouble_timeout: Duration,
    history_cache_bytes: usize,
    payload_limit: usize,
    history_limit: usize,
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
            trusted_owners: Vec::new(),
            accepts_changes: false,
            pool_size: None,
            long_poll: LongPoll::default(),
            call_timeout: Duration::from_secs(10),
            install_timeout: Duration::from_secs(120),
            retry_timeout: Duration::from_secs(30),
            trouble_timeout: Duration::from_secs(3600),
            history_cache_bytes: 64 << 20,
            payload_limit: DEFAULT_PAYLOAD_LIMIT,
            history_limit: DEFAULT_HISTORY_LIMIT,
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

    /// A role that may own the schema and what is in it; can be called again. Functions run with the rights of their caller,
    /// so whoever owns them can make a caller do things. A superuser, or a role that may do other things that an owner of a
    /// schema may not (make roles, replicate, pass by row security, read and write everything), is therefore refused
    /// schemas of others, unless it names the owner. It need not name itself, superusers, or members of its own role.
    pub fn trusted_owner(mut self, role: impl Into<String>) -> Self {
        self.trusted_owners.push(role.into());
        self
    }

    /// Opens a schema that is not as this version installs it, and only says so in the log: for emergencies, and for people who
    /// attach triggers or policies of their own and answer for them. Owners are checked all the same.
    pub fn accept_changed_schema(mut self, yes: bool) -> Self {
        self.accepts_changes = yes;
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
    /// 10 s. Opening has as long for all that it asks the server before an install.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Longest time that opening may spend on installing or upgrading the schema, waiting for another installer and for locks
    /// on tables included; also the limit of [`cleanup_schema`](PostgresProvider::cleanup_schema). Default 120 s.
    pub fn install_timeout(mut self, timeout: Duration) -> Self {
        self.install_timeout = timeout;
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

    /// Largest payload in bytes, as it is stored (JSON): an input, a result, the data of an event. Default 16 MiB
    /// ([`DEFAULT_PAYLOAD_LIMIT`](crate::DEFAULT_PAYLOAD_LIMIT)), at most 128 MiB ([`MAX_PAYLOAD_LIMIT`](crate::MAX_PAYLOAD_LIMIT)). A larger one is refused when it is sent; one that an
    /// activity returns fails the activity, one that an orchestration makes fails the orchestration, by name. Processes of one
    /// store should agree: what was stored under a higher limit is not handed out, and its instance fails.
    pub fn payload_limit(mut self, bytes: usize) -> Self {
        self.payload_limit = bytes;
        self
    }

    /// Largest history in bytes, as it is stored, that this provider hands out for a turn. An instance whose history is larger
    /// fails, by name, after the attempts that the runtime gives it. Default 256 MiB
    /// ([`DEFAULT_HISTORY_LIMIT`](crate::DEFAULT_HISTORY_LIMIT)), never less than two payloads. Processes of one store should
    /// agree. Histories of up to four times the limit can be read.
    ///
    /// While it replays, a worker holds a history about six times in each slot that has one: in 512 MiB, two slots can have
    /// histories of some 32 MiB.
    pub fn history_limit(mut self, bytes: usize) -> Self {
        self.history_limit = bytes;
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
    /// [`OpenError`]; its [`kind`](OpenError::kind) says what to do about it. Nothing is left behind. It ends, whatever the
    /// server does: within `connect_timeout` for each address, [`call_timeout`](Self::call_timeout) for the checks and
    /// [`install_timeout`](Self::install_timeout) for an install, if one is needed.
    pub async fn connect(self) -> Result<PostgresProvider, OpenError> {
        let background = Background::start().map_err(OpenError::no_thread)?;
        let (connector, settings) = self.connector()?;
        let records = self.feed.0 != Level::Off;
        with_connection(&connector, self.patience(), async |client| {
            let terms = schema::Terms {
                migrations: self.migrations,
                trusted: &self.trusted_owners,
                accepts_changes: self.accepts_changes,
            };
            let mut patience = self.patience_begun();
            schema::prepare(client, &settings.schema, &terms, &mut patience).await?;
            match self.access {
                Access::Work => patience.check(check_rights(client, &settings.schema, records)).await,
                Access::Read => Ok(()),
            }
        })
        .await?;
        let pipe = Pipe::new(connector.clone(), settings, self.faults, background);
        Ok(PostgresProvider::over(Store::new(
            pipe,
            connector,
            self.long_poll,
            self.history_cache_bytes,
            FeedSide::new(self.feed.0, self.feed.1),
        )))
    }

    /// Compares the schema, object by object, with what this version installs: tables, columns, defaults, constraints,
    /// indexes, functions with bodies and settings, views, triggers, sequences, owners, and what is granted to everybody.
    /// Changes nothing, and runs nothing of the schema. Empty: it is as this version installs it.
    ///
    /// # Errors
    /// As [`connect`](Self::connect) under [`Migrations::Verify`], where there is nothing to compare.
    pub async fn verify_schema(self) -> Result<Vec<Finding>, OpenError> {
        let (connector, settings) = self.connector()?;
        with_connection(&connector, self.patience(), async |client| {
            let verifying = schema::verify(client, &settings.schema, &self.trusted_owners);
            self.patience_begun().check(verifying).await
        })
        .await
    }

    /// Installs or upgrades the schema where that is needed, and puts back what of Steadfast's own is missing or differs:
    /// functions, views, triggers, indexes, constraints, defaults; takes back what was granted to everybody. One
    /// transaction. What is not Steadfast's stays as it is, and is named in the answer.
    ///
    /// # Errors
    /// [`OpenErrorKind::SchemaDamaged`] where a table, column or sequence is missing or another: rows are lost, and nothing
    /// was changed. Otherwise as [`connect`](Self::connect).
    pub async fn repair_schema(self) -> Result<Repair, OpenError> {
        let (connector, settings) = self.connector()?;
        with_connection(&connector, self.patience(), async |client| {
            schema::repair(
                client,
                &settings.schema,
                &self.trusted_owners,
                &mut self.patience_begun(),
            )
            .await
        })
        .await
    }

    /// How long opening may take once a server has let us in.
    fn patience(&self) -> Duration {
        Patience::whole(self.call_timeout, self.install_timeout)
    }

    fn patience_begun(&self) -> Patience {
        Patience::begin(self.call_timeout, self.install_timeout)
    }

    /// How to connect; checks what can be checked without.
    fn connector(&self) -> Result<(Connector, PipeSettings), OpenError> {
        schema::check_name(&self.schema)?;
        let target = self
            .target
            .clone()?
            .with_default_application_name("steadfast")
            .with_default_connect_timeout(Duration::from_secs(10));
        let payload_limit =
            PayloadLimit::new(self.payload_limit).map_err(|why| OpenError::new(OpenErrorKind::Configuration, why))?;
        let settings = PipeSettings {
            payload_limit,
            history_limit: HistoryLimit::new(self.history_limit, payload_limit),
            schema: self.schema.clone(),
            pool_size: self.pool_size.unwrap_or_else(pool_size_from_env),
            call_timeout: self.call_timeout,
            install_timeout: self.install_timeout,
            retry_timeout: self.retry_timeout,
            trouble_timeout: self.trouble_timeout,
            transaction_pooler: self.transaction_pooler,
            access: self.access,
        };
        let connector = Connector::new(
            target,
            self.password.clone(),
            self.transaction_pooler,
            self.call_timeout,
        );
        Ok((connector, settings))
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

fn pool_size_from_env() -> usize {
    std::env::var("DUROXIDE_PG_POOL_MAX")
        .ok()
        .and_then(|n| n.trim().parse().ok())
        .filter(|n| *n > 0)
        .unwrap_or(DEFAULT_POOL_SIZE)
}
