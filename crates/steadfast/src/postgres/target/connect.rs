//! Opens one connection: hosts in order, TLS by mode, authentication, then the wanted kind of session.
//!
//! Invariant: a connection is handed out only if every demand of the settings is met; otherwise each host that was
//! tried is in the error with its reason.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::SslNegotiation;
use tokio_postgres::tls::{NoTls, TlsConnect};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, SimpleQueryMessage, config};

use super::error::{ConnectError, FailureReason, HostFailure};
use super::passfile::{self, Passfile};
use super::settings::{Endpoint, Host, SessionAttrs, Settings};
use super::socket::{Address, Socket};
use crate::postgres::guard::{Guard, Guarded};
use crate::postgres::tls::{Prepared, SslMode};

/// How long a session that does not fit may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// An open, authenticated session.
#[non_exhaustive]
pub struct Connected {
    /// Sends statements; they move only while `messages` is polled.
    pub client: Client,
    /// Drives the connection and yields notifications and notices.
    pub messages: Messages,
    /// Which host answered: `host:port` or the path of the Unix socket.
    pub host: String,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// The server's version, as it reports it (`15.4 (Debian 15.4-1)`).
    pub server_version: Option<String>,
    /// Whether the server is in recovery, where it says so unasked (PostgreSQL 14 and newer).
    pub standby: Option<bool>,
    /// Whether transactions are read-only by default, where the server says so unasked (PostgreSQL 14 and newer).
    pub default_read_only: Option<bool>,
}

/// The connection itself as a stream of notices and notifications: the owner must poll it until it ends, which it does
/// once the client is dropped and its work is done, or after an error.
pub struct Messages(Option<MessageStream>);

type MessageStream = Pin<Box<dyn Stream<Item = Result<AsyncMessage, tokio_postgres::Error>> + Send>>;

impl Stream for Messages {
    type Item = Result<AsyncMessage, tokio_postgres::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(stream) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let item = ready!(stream.as_mut().poll_next(cx));
        if !matches!(item, Some(Ok(_))) {
            // The driver must not be polled again after its end; dropping it also closes the socket at once.
            self.0 = None;
        }
        Poll::Ready(item)
    }
}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messages").field("ended", &self.0.is_none()).finish()
    }
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connected")
            .field("host", &self.host)
            .field("encrypted", &self.encrypted)
            .field("server_version", &self.server_version)
            .finish_non_exhaustive()
    }
}

/// One call's inputs, files already read.
struct Search<'a> {
    settings: &'a Settings,
    password: Option<&'a [u8]>,
    options: Option<String>,
    passfile: Option<Passfile>,
    tls: Option<Prepared>,
}

pub(super) async fn connect(
    settings: &Settings,
    password: Option<&str>,
    options: Option<String>,
) -> Result<Connected, ConnectError> {
    let password = password
        .map(str::as_bytes)
        .or(settings.password.as_ref().map(|secret| secret.0.as_slice()));
    let (passfile, tls) = load(settings, password.is_none()).await?;
    let search = Search {
        settings,
        password,
        options,
        passfile,
        tls,
    };
    let passes: &[SessionAttrs] = match &settings.session {
        SessionAttrs::PreferStandby => &[SessionAttrs::Standby, SessionAttrs::Any],
        one => std::slice::from_ref(one),
    };
    let mut failures = Vec::new();
    for &wanted in passes {
        failures.clear();
        for host in shuffled(settings.hosts.iter().collect(), settings.shuffle) {
            if let Some(connected) = search.try_host(host, wanted, &mut failures).await {
                return Ok(connected);
            }
            if failures.iter().any(|failure: &HostFailure| failure.reason.is_final()) {
                return Err(ConnectError::Hosts(failures));
            }
        }
    }
    Err(ConnectError::Hosts(failures))
}

/// Reads the password file and the certificates, where they are needed, off the async threads.
async fn load(settings: &Settings, need_password: bool) -> Result<(Option<Passfile>, Option<Prepared>), ConnectError> {
    let passfile = settings.passfile.clone().filter(|_| need_password);
    let over_tcp = settings
        .hosts
        .iter()
        .any(|host| matches!(host.endpoint, Endpoint::Tcp { .. }));
    let tls = Some(settings.tls.clone()).filter(|tls| over_tcp && tls.mode != SslMode::Disable);
    if passfile.is_none() && tls.is_none() {
        return Ok((None, None));
    }
    let read = move || {
        let passwords = passfile.map(|path| passfile::read(&path));
        Ok((passwords, tls.map(|tls| Prepared::load(&tls)).transpose()?))
    };
    // A file on a share whose server is gone makes its reader wait.
    let read = async { Ok(tokio::task::spawn_blocking(read).await) };
    match within(settings.connect_timeout, read).await {
        Ok(Ok(result)) => result,
        // Only while the runtime shuts down.
        Ok(Err(error)) => Err(ConnectError::Files(io::Error::other(error))),
        Err(_) => Err(ConnectError::Files(io::ErrorKind::TimedOut.into())),
    }
}

/// The `options` to send: each default as `-c name=value`, blanks escaped, then what was configured, then `startup`. The
/// last one counts.
pub(super) fn startup_options(
    defaults: &[(&str, &str)],
    configured: Option<&str>,
    startup: &[(&str, &str)],
) -> Result<Option<String>, ConnectError> {
    let mut options = String::new();
    append_options(&mut options, defaults)?;
    if let Some(configured) = configured.filter(|text| !text.is_empty()) {
        if !options.is_empty() {
            options.push(' ');
        }
        options.push_str(configured);
    }
    append_options(&mut options, startup)?;
    Ok(Some(options).filter(|options| !options.is_empty()))
}

fn append_options(options: &mut String, settings: &[(&str, &str)]) -> Result<(), ConnectError> {
    for (name, value) in settings {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.".contains(&b);
        if name.is_empty() || !name.bytes().all(plain) || value.contains('\0') {
            return Err(ConnectError::InvalidStartupOption);
        }
        if !options.is_empty() {
            options.push(' ');
        }
        options.push_str(&format!("-c {name}="));
        for c in value.chars() {
            if c.is_ascii_whitespace() || c == '\\' || c == '\x0b' {
                options.push('\\');
            }
            options.push(c);
        }
    }
    Ok(())
}

fn shuffled<T>(mut items: Vec<T>, shuffle: bool) -> Vec<T> {
    if shuffle {
        // Each `RandomState` is keyed differently: enough chance to spread load, without a crate for it.
        items.sort_by_cached_key(|_| RandomState::new().build_hasher().finish());
    }
    items
}

async fn within<T>(
    limit: Option<Duration>,
    work: impl Future<Output = Result<T, Vec<FailureReason>>>,
) -> Result<T, Vec<FailureReason>> {
    match limit {
        None => work.await,
        Some(limit) => tokio::time::timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(vec![FailureReason::Timeout(limit)])),
    }
}

impl Search<'_> {
    /// Tries every address of a host; failures are appended.
    async fn try_host(&self, host: &Host, wanted: SessionAttrs, failures: &mut Vec<HostFailure>) -> Option<Connected> {
        let limit = self.settings.connect_timeout;
        let label = host.label();
        let fail = |label: &str, reason| HostFailure {
            host: label.to_owned(),
            note: self.note(host, &reason),
            reason,
        };
        let addresses = match within(limit, self.resolve(host)).await {
            Ok(addresses) => addresses,
            Err(reasons) => {
                failures.extend(reasons.into_iter().map(|reason| fail(&label, reason)));
                return None;
            }
        };
        let several = addresses.len() > 1;
        for address in addresses {
            let reasons = match within(limit, self.try_address(host, address, wanted)).await {
                Ok(mut connected) => {
                    connected.host = label;
                    return Some(connected);
                }
                Err(reasons) => reasons,
            };
            let stop = reasons.iter().any(FailureReason::is_final);
            let label = match address {
                Address::Tcp(address) if several => format!("{label} ({})", address.ip()),
                _ => label.clone(),
            };
            failures.extend(reasons.into_iter().map(|reason| fail(&label, reason)));
            if stop {
                return None;
            }
        }
        None
    }

    async fn resolve<'h>(&self, host: &'h Host) -> Result<Vec<Address<'h>>, Vec<FailureReason>> {
        let name = match &host.endpoint {
            Endpoint::Unix(dir) => return Ok(vec![Address::Unix(dir, host.port)]),
            Endpoint::Tcp {
                address: Some(address), ..
            } => {
                return Ok(vec![Address::Tcp(SocketAddr::new(*address, host.port))]);
            }
            Endpoint::Tcp { name, .. } => name.as_deref().unwrap_or_default(),
        };
        let found = tokio::net::lookup_host((name, host.port)).await;
        let found: Vec<_> = found
            .map_err(|error| vec![FailureReason::Resolve(error)])?
            .map(Address::Tcp)
            .collect();
        if found.is_empty() {
            return Err(vec![FailureReason::Resolve(io::ErrorKind::NotFound.into())]);
        }
        Ok(shuffled(found, self.settings.shuffle))
    }

    /// One address: TLS and plain in the order that the mode asks for.
    async fn try_address(
        &self,
        host: &Host,
        address: Address<'_>,
        wanted: SessionAttrs,
    ) -> Result<Connected, Vec<FailureReason>> {
        let mode = match address {
            // Nobody can listen in between, so libpq never encrypts here.
            Address::Unix(..) => SslMode::Disable,
            Address::Tcp(_) => self.settings.tls.mode,
        };
        let (first, fallback) = match mode {
            SslMode::Disable => (config::SslMode::Disable, None),
            SslMode::Allow => (config::SslMode::Disable, Some(config::SslMode::Require)),
            SslMode::Prefer => (config::SslMode::Prefer, Some(config::SslMode::Disable)),
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (config::SslMode::Require, None),
        };
        let one = |reason| vec![reason];
        let failed = match self.open(host, address, first).await {
            Ok(connected) => return self.check_session(connected, wanted).await.map_err(one),
            Err(failed) => failed,
        };
        let Some(other) = fallback.filter(|_| failed.other_transport_may_help) else {
            return Err(vec![failed.reason]);
        };
        match self.open(host, address, other).await {
            Ok(connected) => self.check_session(connected, wanted).await.map_err(one),
            Err(second) => Err(vec![failed.reason, second.reason]),
        }
    }

    /// Dials, negotiates and authenticates once.
    async fn open(&self, host: &Host, address: Address<'_>, mode: config::SslMode) -> Result<Connected, Failed> {
        let socket = Socket::dial(address, self.settings).await;
        let socket = socket.map_err(|error| Failed::for_good(FailureReason::Io(error)))?;
        let password = self.password_for(host);
        let config = self.driver_config(mode, password.as_deref());
        let judge = |error| FailureReason::from_driver(error, password.is_some());
        let tls = self.tls.as_ref().filter(|_| mode != config::SslMode::Disable);
        let Some(tls) = tls else {
            let result = negotiate(Guarded::new(socket, Guard::messages()), NoTls, &config).await;
            return result.map_err(|error| Failed::of_transport(judge(error), false));
        };
        let name = match &host.endpoint {
            Endpoint::Tcp { name, .. } => name.as_deref(),
            Endpoint::Unix(_) => None,
        };
        let connector = tls
            .connector(name)
            .map_err(|error| Failed::for_good(FailureReason::Tls(error)))?;
        let progress = connector.progress();
        let guard = match self.settings.tls.negotiation {
            SslNegotiation::Direct => Guard::off(),
            _ => Guard::tls_answer(),
        };
        match negotiate(Guarded::new(socket, guard), connector, &config).await {
            Ok(connected) => Ok(Connected {
                encrypted: progress.finished(),
                ..connected
            }),
            // Without TLS agreed to, this attempt was a plain one already.
            Err(error) if !progress.agreed() => Err(Failed::for_good(judge(error))),
            Err(error) => Err(Failed::of_transport(judge(error), !progress.finished())),
        }
    }

    fn password_for(&self, host: &Host) -> Option<Vec<u8>> {
        if let Some(password) = self.password {
            return Some(password.to_vec());
        }
        let file = self.passfile.as_ref()?;
        file.password(&self.wanted(&host.passfile_name(), host.port))
            .map(String::into_bytes)
    }

    fn wanted<'w>(&'w self, host: &'w str, port: u16) -> passfile::Wanted<'w> {
        passfile::Wanted {
            host,
            port,
            dbname: &self.settings.dbname,
            user: &self.settings.user,
        }
    }

    /// What the password file had to do with this failure.
    fn note(&self, host: &Host, reason: &FailureReason) -> Option<String> {
        let file = self.passfile.as_ref().filter(|_| reason.is_authentication())?;
        Some(file.note(&self.wanted(&host.passfile_name(), host.port)))
    }

    fn driver_config(&self, mode: config::SslMode, password: Option<&[u8]>) -> Config {
        let mut config = Config::new();
        config.user(&self.settings.user).dbname(&self.settings.dbname);
        config.ssl_mode(mode).ssl_negotiation(self.settings.tls.negotiation);
        config.channel_binding(self.settings.channel_binding);
        if let Some(password) = password {
            config.password(password);
        }
        if let Some(options) = &self.options {
            config.options(options);
        }
        if let Some(name) = &self.settings.application_name {
            config.application_name(name);
        }
        config
    }

    /// Keeps the session if it is of the wanted kind, else ends it.
    async fn check_session(&self, mut connected: Connected, wanted: SessionAttrs) -> Result<Connected, FailureReason> {
        if matches!(wanted, SessionAttrs::Any | SessionAttrs::PreferStandby) {
            return Ok(connected);
        }
        let (standby, read_only) = match (connected.standby, connected.default_read_only) {
            (Some(standby), Some(read_only)) => (standby, standby || read_only),
            _ => ask_session(&mut connected).await?,
        };
        let fits = match wanted {
            SessionAttrs::ReadWrite => !read_only,
            SessionAttrs::ReadOnly => read_only,
            SessionAttrs::Primary => !standby,
            SessionAttrs::Standby => standby,
            SessionAttrs::Any | SessionAttrs::PreferStandby => true,
        };
        if fits {
            return Ok(connected);
        }
        // A proper end, so that the server's log does not speak of a lost client; not worth waiting long for.
        let Connected {
            client, mut messages, ..
        } = connected;
        drop(client);
        let _ = tokio::time::timeout(GOODBYE, async { while messages.next().await.is_some() {} }).await;
        Err(FailureReason::Session(wanted))
    }
}

/// One attempt's failure.
struct Failed {
    reason: FailureReason,
    /// TLS instead of plain, or the reverse, is worth trying (sslmode `allow` and `prefer`).
    other_transport_may_help: bool,
}

impl Failed {
    fn for_good(reason: FailureReason) -> Self {
        Self {
            reason,
            other_transport_may_help: false,
        }
    }

    /// libpq tries the other transport after every refusal. A wrong password is left out here: it would be wrong again,
    /// count as a second failed login, and could go over the wire in the clear.
    fn of_transport(reason: FailureReason, handshake_failed: bool) -> Self {
        let refused = reason.sqlstate().is_some_and(|state| state.code() == "28000");
        Self {
            reason,
            other_transport_may_help: handshake_failed || refused,
        }
    }
}

/// Startup over an open socket. The caller fills in `host` and `encrypted`.
async fn negotiate<T>(socket: Guarded<Socket>, tls: T, config: &Config) -> Result<Connected, tokio_postgres::Error>
where
    T: TlsConnect<Guarded<Socket>>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect_raw(socket, tls).await?;
    let switch = |name| connection.parameter(name).map(|value| value == "on");
    Ok(Connected {
        client,
        host: String::new(),
        encrypted: false,
        server_version: connection.parameter("server_version").map(str::to_owned),
        standby: switch("in_hot_standby"),
        default_read_only: switch("default_transaction_read_only"),
        messages: messages(connection),
    })
}

fn messages<S>(mut connection: Connection<Guarded<Socket>, S>) -> Messages
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Messages(Some(Box::pin(futures_util::stream::poll_fn(move |cx| {
        connection.poll_message(cx)
    }))))
}

/// Asks a server that does not report it: in recovery, and read-only.
async fn ask_session(connected: &mut Connected) -> Result<(bool, bool), FailureReason> {
    let sql = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')";
    let query = connected.client.simple_query(sql);
    tokio::pin!(query);
    let rows = loop {
        tokio::select! {
            biased;
            rows = &mut query => break rows.map_err(|error| FailureReason::from_driver(error, true))?,
            message = connected.messages.next() => match message {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(FailureReason::from_driver(error, true)),
                None => return Err(FailureReason::Closed),
            },
        }
    };
    let row = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0) == Some("t"), row.get(1) == Some("on"))),
        _ => None,
    });
    row.ok_or_else(|| FailureReason::Protocol("the server did not say what kind of session this is".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn startup_options_are_escaped() {
        assert_eq!(startup_options(&[], None, &[]).unwrap(), None);
        let options = startup_options(
            &[("d", "1")],
            Some("-c a=b"),
            &[("search_path", "\"my schema\", x\\y"), ("x.y", "1")],
        )
        .unwrap();
        assert_eq!(
            options.as_deref(),
            Some("-c d=1 -c a=b -c search_path=\"my\\ schema\",\\ x\\\\y -c x.y=1")
        );
        for (name, value) in [("a b", "x"), ("", "x"), ("a", "\0"), ("a=b", "x")] {
            assert!(startup_options(&[], None, &[(name, value)]).is_err());
        }
    }

    #[test]
    fn shuffling_keeps_everything() {
        let mut items = shuffled((0..50).collect(), true);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
        assert_eq!(shuffled(vec![3, 1, 2], false), [3, 1, 2]);
    }

    #[tokio::test]
    async fn every_host_is_in_the_error() {
        // Port 1 of the loopback: nothing listens there.
        let settings = |text: &str| super::super::ConnectTarget::parse_with_env(text, &|_| None).unwrap();
        let target = settings("host=127.0.0.1,/nonexistent port=1 user=u sslmode=disable connect_timeout=5");
        let error = target.connect(None, &[]).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot connect: 127.0.0.1:1: connection refused; /nonexistent/.s.PGSQL.1: no such socket"
        );
        assert!(error.is_unreachable() && !error.is_authentication());
        let target = settings("host=127.0.0.1 port=1 user=u sslmode=verify-full sslrootcert=/nonexistent");
        assert!(target.connect(None, &[]).await.unwrap_err().is_tls());
    }
}
