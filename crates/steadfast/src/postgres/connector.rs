//! How a connection is opened: target, password, and the settings of a session.
//!
//! Invariants: every step ends by itself; what a connection has asked for ends in the server a little later than anybody
//! waits for it; a password is asked for anew, and what somebody else wrote may panic.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use tokio_util::task::AbortOnDropHandle;

use super::error::StoreError;
use super::target::{ConnectError, ConnectTarget, Connected};

/// Gives the password for a new connection; asked again when the server refused the last one.
pub type PasswordProvider = Arc<
    dyn Fn() -> Pin<Box<dyn Future<Output = Result<String, Box<dyn std::error::Error + Send + Sync>>> + Send>>
        + Send
        + Sync,
>;

/// How long an administrative call that works through many rows may take.
pub(super) const SLOW_CALL: Duration = Duration::from_secs(600);

/// Opens connections, for the pool and for the listener.
#[derive(Clone)]
pub(crate) struct Connector {
    target: ConnectTarget,
    password: Option<PasswordProvider>,
    transaction_pooler: bool,
    limits: Limits,
    /// A pooler refused start-up options: settings are made once the session is open.
    refuses_options: Arc<AtomicBool>,
}

/// After what time the server ends what a connection has asked for: a little later than nobody waits any more. Otherwise
/// the backend of a connection that was given up goes on waiting for its lock, and the next connection's joins it. They
/// also stand in for what a role or database sets, which is meant for others.
#[derive(Clone, Copy)]
struct Limits {
    lock: Duration,
    statement: Duration,
}

impl Limits {
    const MARGIN: Duration = Duration::from_secs(1);

    fn after(lock: Duration, statement: Duration) -> Self {
        Self {
            lock: lock + Self::MARGIN,
            statement: statement.max(lock) + Self::MARGIN,
        }
    }
}

/// A time as the server's settings take it: whole milliseconds, where 0 would mean no limit.
pub(crate) fn setting_ms(time: Duration) -> String {
    const LONGEST: u128 = i32::MAX as u128;
    time.as_millis().clamp(1, LONGEST).to_string()
}

/// What a session needs. Our functions take their snapshots per statement: they need READ COMMITTED whatever the server's
/// default is.
const SESSION: &[(&str, &str)] = &[("default_transaction_isolation", "read committed"), ("jit", "off")];

impl Connector {
    /// `call_timeout`: how long a call may take.
    pub(crate) fn new(
        target: ConnectTarget,
        password: Option<PasswordProvider>,
        transaction_pooler: bool,
        call_timeout: Duration,
    ) -> Self {
        Self {
            target,
            password,
            transaction_pooler,
            limits: Limits::after(call_timeout, SLOW_CALL),
            refuses_options: Arc::default(),
        }
    }

    /// For connections on which nothing is waited for longer than `answer`.
    pub(crate) fn answering_within(&self, answer: Duration) -> Self {
        Self {
            limits: Limits::after(answer, answer),
            ..self.clone()
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
            Some(ask) => Some(self.ask(ask).await.map_err(AttemptError::Password)?),
            None => None,
        };
        let password = password.as_deref();
        let connect = async |defaults: &[(&str, &str)], demands: &[(&str, &str)]| {
            let connecting = self.target.connect_with(password, defaults, demands);
            connecting.await.map_err(AttemptError::Connect)
        };
        // Behind a transaction pooler a session's settings would stay for others; there the default is checked when opening.
        if self.transaction_pooler {
            return connect(&[], &[]).await;
        }
        let (lock, statement) = (setting_ms(self.limits.lock), setting_ms(self.limits.statement));
        let defaults = [("lock_timeout", lock.as_str()), ("statement_timeout", &statement)];
        if !self.refuses_options.load(Ordering::Relaxed) {
            match connect(&defaults, SESSION).await {
                // A pooler's answer to a start-up parameter that it does not pass on, among others.
                Err(AttemptError::Connect(e)) if e.sqlstate().is_some_and(|s| s.code() == "08P01") => {}
                other => return other,
            }
        }
        let mut connected = connect(&[], &[]).await?;
        let settings = defaults.iter().chain(SESSION);
        let sql: String = settings
            .map(|(name, value)| format!("SET {name} = '{value}';"))
            .collect();
        within(self.target.connect_timeout(), set_session(&mut connected, &sql)).await?;
        if !self.refuses_options.swap(true, Ordering::Relaxed) {
            tracing::info!(target: "steadfast", server = %self.describe(),
                "start-up options are refused here, as poolers do; settings are made after connecting");
        }
        Ok(connected)
    }

    /// The password, within the time that a connection may take.
    async fn ask(&self, provider: &PasswordProvider) -> Result<String, String> {
        let answer = asked(Arc::clone(provider));
        match self.target.connect_timeout() {
            None => answer.await,
            Some(limit) => match tokio::time::timeout(limit, answer).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no password within {} s", limit.as_secs_f64())),
            },
        }
    }
}

/// Makes the settings of an open session. A pooler may have no server to give just now, so that this can take long.
async fn set_session(connected: &mut Connected, sql: &str) -> Result<(), AttemptError> {
    let lost = |message: &str| AttemptError::Session(StoreError::Connection(message.to_owned()));
    let setting = connected.client.batch_execute(sql);
    tokio::pin!(setting);
    loop {
        tokio::select! {
            biased;
            done = &mut setting => return done.map_err(|e| AttemptError::Session(e.into())),
            message = connected.messages.next() => match message {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(AttemptError::Session(error.into())),
                None => return Err(lost("the server closed it at the start")),
            },
        }
    }
}

async fn within(
    limit: Option<Duration>,
    work: impl Future<Output = Result<(), AttemptError>>,
) -> Result<(), AttemptError> {
    match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work)
            .await
            .unwrap_or(Err(AttemptError::Session(StoreError::Timeout(limit)))),
    }
}

/// Asks for a password, in a task of its own: what somebody else wrote may panic.
async fn asked(ask: PasswordProvider) -> Result<String, String> {
    let answer = AbortOnDropHandle::new(tokio::spawn(async move { ask().await }));
    match answer.await {
        Ok(answer) => answer.map_err(|e| e.to_string()),
        Err(ended) => Err(ended.to_string()),
    }
}

enum AttemptError {
    Password(String),
    Connect(ConnectError),
    /// Connected, and no more than that.
    Session(StoreError),
}

impl From<AttemptError> for StoreError {
    fn from(error: AttemptError) -> Self {
        match error {
            AttemptError::Connect(e) => e.into(),
            AttemptError::Session(e) => e,
            AttemptError::Password(e) => Self::Connect {
                message: format!("the password provider failed: {e}"),
                sqlstate: None,
                refused: false,
            },
        }
    }
}
