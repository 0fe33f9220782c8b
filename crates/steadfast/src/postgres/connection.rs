//! The single pipe to PostgreSQL: connect, call a stored function, retry, measure, fail on demand.
//!
//! Invariants: nothing else in this crate sends statements on pooled connections; a call is one statement, one round
//! trip and one transaction; a connection that may be in an unknown state is never used again.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::managed::{self, Metrics, Pool, RecycleError, RecycleResult};
use futures_util::StreamExt;
use tokio::task::AbortHandle;
use tokio_postgres::{Client, Row, Statement};
use tracing::Instrument;

use super::error::{Class, StoreError};
use super::params::Params;
use super::rights::Access;
use super::store::later;
use super::target::{ConnectError, ConnectTarget, Connected};
use crate::fault::{Fault, Faults, When};
use crate::trouble::{Gate, Patience, Persistence};

/// Gives the password for a new connection; asked again when the server refused the last one.
pub type PasswordProvider = Arc<
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<String, Box<dyn std::error::Error + Send + Sync>>> + Send>>
        + Send
        + Sync,
>;

/// How connections are made and used.
#[derive(Clone)]
pub(crate) struct PipeSettings {
    pub(crate) schema: String,
    pub(crate) pool_size: usize,
    /// Longest wait for an answer before the connection is given up.
    pub(crate) call_timeout: Duration,
    /// How long reads and enqueues are repeated through trouble.
    pub(crate) retry_timeout: Duration,
    /// How long a caller waits while the store is not as it must be.
    pub(crate) trouble_timeout: Duration,
    /// Behind a transaction-mode pooler: no prepared statements, no session settings, no LISTEN.
    pub(crate) transaction_pooler: bool,
    pub(crate) password: Option<PasswordProvider>,
    pub(crate) access: Access,
}

impl fmt::Debug for PipeSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PipeSettings")
            .field("schema", &self.schema)
            .field("pool_size", &self.pool_size)
            .field("transaction_pooler", &self.transaction_pooler)
            .finish_non_exhaustive()
    }
}

/// Opens connections, for the pool and for the listener.
#[derive(Clone)]
pub(crate) struct Connector {
    target: ConnectTarget,
    password: Option<PasswordProvider>,
    transaction_pooler: bool,
}

impl Connector {
    pub(crate) fn new(target: ConnectTarget, settings: &PipeSettings) -> Self {
        Self {
            target,
            password: settings.password.clone(),
            transaction_pooler: settings.transaction_pooler,
        }
    }

    pub(crate) fn describe(&self) -> String {
        self.target.describe()
    }

    pub(crate) async fn connect(&self) -> Result<Connected, StoreError> {
        match self.attempt().await {
            // Short-lived credentials may have expired between being handed out and being used.
            Err(AttemptError::Connect(e)) if e.is_authentication() && self.password.is_some() => {
                self.attempt().await.map_err(StoreError::from)
            }
            other => other.map_err(StoreError::from),
        }
    }

    async fn attempt(&self) -> Result<Connected, AttemptError> {
        let password = match &self.password {
            Some(ask) => Some(ask().await.map_err(|e| AttemptError::Password(e.to_string()))?),
            None => None,
        };
        // Our functions take their snapshots per statement: they need READ COMMITTED whatever the server's
        // default is. A pooler would refuse start-up options; there the default is checked when opening.
        let startup: &[(&str, &str)] = if self.transaction_pooler {
            &[]
        } else {
            &[("default_transaction_isolation", "read committed"), ("jit", "off")]
        };
        self.target
            .connect(password.as_deref(), startup)
            .await
            .map_err(AttemptError::Connect)
    }
}

enum AttemptError {
    Password(String),
    Connect(ConnectError),
}

impl From<AttemptError> for StoreError {
    fn from(error: AttemptError) -> Self {
        match error {
            AttemptError::Connect(e) => e.into(),
            AttemptError::Password(e) => Self::Connect {
                message: format!("the password provider failed: {e}"),
                sqlstate: None,
                refused: false,
            },
        }
    }
}

/// A connection of the pool, with the statements that it has prepared.
pub(crate) struct PooledConnection {
    client: Client,
    driver: AbortHandle,
    statements: HashMap<&'static str, Statement>,
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

pub(crate) struct Manager(Connector);

impl managed::Manager for Manager {
    type Type = PooledConnection;
    type Error = StoreError;

    async fn create(&self) -> Result<PooledConnection, StoreError> {
        let Connected {
            client, mut messages, ..
        } = self.0.connect().await?;
        let driver = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                if let Err(error) = message {
                    tracing::debug!(target: "steadfast", %error, "a pooled connection ended");
                    break;
                }
            }
        })
        .abort_handle();
        metrics::counter!("steadfast_connections_opened_total").increment(1);
        Ok(PooledConnection {
            client,
            driver,
            statements: HashMap::new(),
        })
    }

    async fn recycle(&self, connection: &mut PooledConnection, _: &Metrics) -> RecycleResult<StoreError> {
        if connection.client.is_closed() {
            Err(RecycleError::message("closed"))
        } else {
            Ok(())
        }
    }
}

/// How long an administrative call that works through many rows may take.
const SLOW_CALL: Duration = Duration::from_secs(600);

/// A connection in use. Unless it is given back it is closed: a call that was dropped half-way, with its future, leaves a
/// connection on which somebody else's answer is still to come.
struct Checkout {
    object: Option<managed::Object<Manager>>,
}

impl Checkout {
    fn new(object: managed::Object<Manager>) -> Self {
        Self { object: Some(object) }
    }

    fn give_back(mut self) {
        self.object.take();
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            drop(managed::Object::take(object));
        }
    }
}

/// Two functions that are called as one statement.
pub(crate) struct Pair {
    /// Names the statement.
    pub(crate) both: &'static str,
    pub(crate) first: &'static str,
    pub(crate) second: &'static str,
    /// Which parameter of the second one, from 0, bounds what it takes.
    pub(crate) limit_at: usize,
}

/// A statement to send.
struct Request<'a> {
    name: &'static str,
    functions: &'a [&'static str],
    text: &'a (dyn Fn() -> String + Sync),
}

/// Places of the parameters `from` to `to`, one of which may depend on the answer of a first function.
fn places(from: usize, to: usize, dependent: Option<usize>) -> String {
    let place = |n: usize| match dependent {
        Some(d) if d == n => format!("CASE WHEN a.codes IS NULL THEN 0 ELSE ${} END", n + 1),
        _ => format!("${}", n + 1),
    };
    (from..to).map(place).collect::<Vec<_>>().join(",")
}

/// Calls stored functions.
pub(crate) struct Pipe {
    pool: Pool<Manager>,
    settings: PipeSettings,
    quoted_schema: String,
    faults: Faults,
    gate: Arc<Gate>,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Pipe {
    pub(crate) fn new(connector: Connector, settings: PipeSettings, faults: Faults) -> Result<Self, StoreError> {
        let pool = Pool::builder(Manager(connector))
            .max_size(settings.pool_size.max(1))
            .runtime(deadpool::Runtime::Tokio1)
            // The connection used last: its server process has its plans and pages at hand.
            .queue_mode(managed::QueueMode::Lifo)
            .wait_timeout(Some(settings.call_timeout))
            .build()
            .map_err(|e| StoreError::Rejected(e.to_string()))?;
        let quoted_schema = quote_identifier(&settings.schema);
        let gate = Gate::new(match settings.access {
            Access::Work => settings.trouble_timeout,
            Access::Read => Duration::ZERO,
        });
        Ok(Self {
            pool,
            settings,
            quoted_schema,
            faults,
            gate,
        })
    }

    pub(crate) fn settings(&self) -> &PipeSettings {
        &self.settings
    }

    pub(crate) fn quoted_schema(&self) -> &str {
        &self.quoted_schema
    }

    pub(crate) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What is known of trouble.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Connections in the pool now: (open, of those idle).
    pub(crate) fn connections(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size, status.available)
    }

    /// Calls `function` once. A failure may leave it done: see [`StoreError::is_in_doubt`].
    pub(crate) async fn call(&self, function: &'static str, params: &Params) -> Result<Vec<Row>, StoreError> {
        let request = Request {
            name: function,
            functions: &[function],
            text: &|| {
                let places = places(0, params.types().len(), None);
                format!("SELECT * FROM {}.{function}({places})", self.quoted_schema)
            },
        };
        self.measured(&request, params).await
    }

    /// Calls two functions in one statement, once: the second sees what the first has done, and claims nothing unless
    /// the first has answered. Every row begins with the first one's answer and goes on with a row of the second's, or
    /// with NULLs where it has none.
    pub(crate) async fn call_pair(&self, pair: &Pair, first: Params, second: Params) -> Result<Vec<Row>, StoreError> {
        let (ours, all) = (first.types().len(), first.types().len() + second.types().len());
        let params = first.followed_by(second);
        let request = Request {
            name: pair.both,
            functions: &[pair.first, pair.second],
            text: &|| {
                format!(
                    "SELECT a.codes, f.* FROM {schema}.{}({}) AS a(codes) LEFT JOIN LATERAL {schema}.{}({}) AS f ON true",
                    pair.first,
                    places(0, ours, None),
                    pair.second,
                    // What the claim takes from the first answer makes it follow, whatever the planner thinks.
                    places(ours, all, Some(ours + pair.limit_at)),
                    schema = self.quoted_schema,
                )
            },
        };
        self.measured(&request, &params).await
    }

    async fn measured(&self, request: &Request<'_>, params: &Params) -> Result<Vec<Row>, StoreError> {
        let started = Instant::now();
        let function = request.name;
        let span = tracing::debug_span!(target: "steadfast", "call", function);
        let result = self.attempt(request, params).instrument(span).await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(e) => match e.class() {
                Class::Retryable => "retryable",
                Class::Trouble => "trouble",
                Class::Permanent => "permanent",
            },
        };
        metrics::counter!("steadfast_calls_total", "function" => function, "outcome" => outcome).increment(1);
        metrics::histogram!("steadfast_call_duration_seconds", "function" => function)
            .record(started.elapsed().as_secs_f64());
        result
    }

    /// Calls `function` until it answers, fails for good, or `patience` has ended. For functions that are told
    /// by a batch id, or by their nature, to do their work once.
    pub(crate) async fn call_until(
        &self,
        function: &'static str,
        params: &Params,
        patience: Patience,
    ) -> Result<Persisted, StoreError> {
        self.persist(params, self.persistence(function, patience)).await
    }

    /// [`Pipe::call_until`] for a call that may have been tried before.
    pub(crate) async fn persist(&self, params: &Params, mut retry: Persistence) -> Result<Persisted, StoreError> {
        let function = retry.operation();
        loop {
            match self.call(function, params).await {
                Ok(rows) => {
                    let met_trouble = retry.met_trouble();
                    return Ok(Persisted { rows, met_trouble });
                }
                Err(error) => {
                    if !repeat(&mut retry, function, &error).await {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Repeats a call by hand.
    pub(crate) fn persistence(&self, function: &'static str, patience: Patience) -> Persistence {
        Persistence::new(&self.gate, function, patience)
    }

    /// [`Pipe::call_until`] with the patience of reads and enqueues.
    pub(crate) async fn call_patiently(&self, function: &'static str, params: &Params) -> Result<Vec<Row>, StoreError> {
        let patience = Patience::Patient(later(self.settings.retry_timeout).into());
        Ok(self.call_until(function, params, patience).await?.rows)
    }

    async fn strike(&self, request: &Request<'_>, when: When) -> Option<Fault> {
        for function in request.functions {
            if let Some(fault) = self.faults.strike(function, when).await {
                return Some(fault);
            }
        }
        None
    }

    async fn attempt(&self, request: &Request<'_>, params: &Params) -> Result<Vec<Row>, StoreError> {
        let before = self.strike(request, When::Before).await;
        if let Some(Fault::Error(code)) = &before {
            return Err(StoreError::Database {
                sqlstate: (*code).to_owned(),
                message: "injected".to_owned(),
            });
        }
        let mut connection = Checkout::new(self.pool.get().await.map_err(|e| self.pool_error(e))?);
        let answered = if matches!(before, Some(Fault::Cut)) {
            Err(StoreError::Connection("injected".to_owned()))
        } else {
            let timeout = if params.is_slow() {
                SLOW_CALL
            } else {
                self.settings.call_timeout
            };
            match connection.object.as_mut() {
                None => Err(StoreError::Closed),
                Some(object) => match tokio::time::timeout(timeout, self.query(object, request, params)).await {
                    Ok(answer) => answer,
                    Err(_) => Err(StoreError::Timeout(timeout)),
                },
            }
        };
        let answered = match self.strike(request, When::After).await {
            Some(Fault::Error(code)) => Err(StoreError::Database {
                sqlstate: code.to_owned(),
                message: "injected".to_owned(),
            }),
            Some(Fault::Cut) => Err(StoreError::Connection("injected".to_owned())),
            None => answered,
        };
        if !answered.as_ref().is_err_and(StoreError::breaks_connection) {
            connection.give_back();
        }
        answered
    }

    async fn query(
        &self,
        connection: &mut PooledConnection,
        request: &Request<'_>,
        params: &Params,
    ) -> Result<Vec<Row>, StoreError> {
        if self.settings.transaction_pooler {
            let sql = (request.text)();
            return Ok(connection.client.query_typed(&sql, &params.typed()).await?);
        }
        let statement = match connection.statements.get(request.name) {
            Some(statement) => statement.clone(),
            None => {
                let sql = (request.text)();
                let statement = connection.client.prepare_typed(&sql, params.types()).await?;
                connection.statements.insert(request.name, statement.clone());
                statement
            }
        };
        Ok(connection.client.query(&statement, &params.refs()).await?)
    }

    fn pool_error(&self, error: managed::PoolError<StoreError>) -> StoreError {
        match error {
            managed::PoolError::Backend(e) => e,
            managed::PoolError::Timeout(_) => StoreError::PoolTimeout(self.settings.call_timeout),
            managed::PoolError::Closed => StoreError::Closed,
            other => StoreError::Rejected(other.to_string()),
        }
    }

    /// Closes idle connections; those in use close when they come back.
    pub(crate) fn close(&self) {
        self.pool.close();
    }
}

/// What a repeated call has brought.
pub(crate) struct Persisted {
    pub(crate) rows: Vec<Row>,
    /// It did not succeed at once.
    pub(crate) met_trouble: bool,
}

/// Waits before a call is repeated; `false` when it is not to be.
pub(crate) async fn repeat(retry: &mut Persistence, function: &'static str, error: &StoreError) -> bool {
    let Some(failure) = error.failure() else { return false };
    tracing::debug!(target: "steadfast", function, attempts = retry.attempts(), %error, "a call failed");
    retry.pause(failure, || error.to_string()).await
}

/// A name as SQL text.
pub(crate) fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
