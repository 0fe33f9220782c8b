//! Where and how to connect, as libpq would read it: connection strings, `PG*` variables, the password file.
//!
//! Invariant: what this type shows (`Debug`, `describe`, every error) never holds a password or a key.

mod connect;
mod conninfo;
mod error;
mod passfile;
mod settings;
mod socket;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

pub use connect::{Connected, Messages};
pub use error::{ConnectError, FailureReason, HostFailure, TargetError};
pub use settings::SessionAttrs;

use super::tls::{RootSource, SslMode};
use settings::{Secret, Settings};

/// Where and how to connect, as libpq would read it.
///
/// Certificates, keys and the password file are read again for each connection, so that renewed ones are picked up (the
/// operating system's store of authorities is read once).
#[derive(Clone)]
pub struct ConnectTarget(Settings);

impl ConnectTarget {
    /// Parses a URL (`postgres://`, `postgresql://`) or a key=value string; what it leaves open comes from `PG*`
    /// environment variables, the password file, then libpq's defaults.
    ///
    /// # Errors
    /// [`TargetError`] names the parameter that is malformed, unknown or not supported, never its value.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        Self::parse_with_env(url, &|name| std::env::var(name).ok())
    }

    /// As [`ConnectTarget::parse`], with the environment (`PG*`, `HOME`, `USER`) read through `env`.
    ///
    /// # Errors
    /// As [`ConnectTarget::parse`].
    pub fn parse_with_env(url: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, TargetError> {
        let mut params = conninfo::Params::parse(url)?;
        params.complete(env)?;
        Settings::from_params(&params, env).map(Self)
    }

    /// Takes over a driver configuration as it is; neither the environment nor the home directory is looked at.
    /// Stricter TLS than the driver can express is set with [`ConnectTarget::with_ssl_mode`].
    ///
    /// # Errors
    /// [`TargetError`] if the numbers of hosts, addresses and ports do not fit, or a socket directory is not UTF-8.
    pub fn from_config(config: tokio_postgres::Config) -> Result<Self, TargetError> {
        Settings::from_config(&config).map(Self)
    }

    /// Replaces the password.
    #[must_use]
    pub fn with_password(mut self, password: impl AsRef<[u8]>) -> Self {
        self.0.password = Some(Secret(password.as_ref().to_vec()));
        self
    }

    /// Replaces the name that `pg_stat_activity` shows.
    #[must_use]
    pub fn with_application_name(mut self, name: impl Into<String>) -> Self {
        self.0.application_name = Some(name.into());
        self
    }

    /// Sets the name that `pg_stat_activity` shows, unless one was given.
    #[must_use]
    pub fn with_default_application_name(mut self, name: impl Into<String>) -> Self {
        self.0.application_name.get_or_insert_with(|| name.into());
        self
    }

    /// Replaces the database.
    #[must_use]
    pub fn with_dbname(mut self, dbname: impl Into<String>) -> Self {
        self.0.dbname = dbname.into();
        self
    }

    /// Replaces the limit on opening a connection to one address; `None` waits for ever.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.0.connect_timeout = timeout.filter(|timeout| !timeout.is_zero());
        self
    }

    /// Sets the limit on opening a connection to one address, unless one was given.
    #[must_use]
    pub fn with_default_connect_timeout(mut self, timeout: Duration) -> Self {
        self.0.connect_timeout.get_or_insert(timeout);
        self
    }

    /// Replaces the kind of session that is wanted.
    #[must_use]
    pub fn with_session_attrs(mut self, wanted: SessionAttrs) -> Self {
        self.0.session = wanted;
        self
    }

    /// Replaces the TLS mode.
    ///
    /// # Errors
    /// [`TargetError::InvalidValue`] if the mode is too weak for `sslrootcert=system` or `sslnegotiation=direct`.
    pub fn with_ssl_mode(mut self, mode: SslMode) -> Result<Self, TargetError> {
        self.0.tls.mode = mode;
        settings::check_tls(&self.0.tls)?;
        Ok(self)
    }

    /// Trusts the authorities in this PEM file.
    #[must_use]
    pub fn with_root_certificate(mut self, file: impl Into<PathBuf>) -> Self {
        self.0.tls.root = RootSource::File(file.into());
        self
    }

    /// Trusts the operating system's authorities, and so demands a certificate for this very host (`verify-full`).
    #[must_use]
    pub fn with_system_certificates(mut self) -> Self {
        self.0.tls.root = RootSource::System;
        self.0.tls.mode = SslMode::VerifyFull;
        self
    }

    /// The database user.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.0.user
    }

    /// The database.
    #[must_use]
    pub fn dbname(&self) -> &str {
        &self.0.dbname
    }

    /// The name that `pg_stat_activity` shows.
    #[must_use]
    pub fn application_name(&self) -> Option<&str> {
        self.0.application_name.as_deref()
    }

    /// The TLS mode.
    #[must_use]
    pub fn ssl_mode(&self) -> SslMode {
        self.0.tls.mode
    }

    /// The limit on opening a connection to one address.
    #[must_use]
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.0.connect_timeout
    }

    /// For messages and logs: `host1:5432,host2:5433/dbname as user`, no secrets.
    #[must_use]
    pub fn describe(&self) -> String {
        let hosts: Vec<String> = self.0.hosts.iter().map(settings::Host::label).collect();
        format!("{}/{} as {}", hosts.join(","), self.0.dbname, self.0.user)
    }

    /// Opens one connection: tries the hosts (and each one's addresses) in order, or shuffled if so configured, each
    /// address within `connect_timeout`, until one accepts TLS mode, credentials and `target_session_attrs`.
    ///
    /// `password` replaces the configured one (short-lived credentials). `startup` are settings for the session, sent
    /// as `-c name=value` behind the configured `options`. Dropping the future closes what it has opened.
    ///
    /// # Errors
    /// [`ConnectError`] lists every host with its reason. A server that refuses the user, the password or the
    /// database ends the search, as in libpq; one that is starting, stopping or full does not.
    pub async fn connect(&self, password: Option<&str>, startup: &[(&str, &str)]) -> Result<Connected, ConnectError> {
        self.connect_with(password, &[], startup).await
    }

    /// As [`connect`](Self::connect), with settings that the configured `options` may replace before those that replace
    /// them.
    pub(crate) async fn connect_with(
        &self,
        password: Option<&str>,
        defaults: &[(&str, &str)],
        startup: &[(&str, &str)],
    ) -> Result<Connected, ConnectError> {
        let options = connect::startup_options(defaults, self.0.options.as_deref(), startup)?;
        connect::connect(&self.0, password, options).await
    }
}

impl fmt::Debug for ConnectTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `options` and the paths of keys stay out: the former may hold anything.
        f.debug_struct("ConnectTarget")
            .field("target", &self.describe())
            .field("password", &self.0.password)
            .field("ssl_mode", &self.0.tls.mode)
            .field("application_name", &self.0.application_name)
            .field("connect_timeout", &self.0.connect_timeout)
            .field("target_session_attrs", &self.0.session)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> ConnectTarget {
        ConnectTarget::parse_with_env(url, &|_| None).unwrap()
    }

    #[test]
    fn describes_itself_without_secrets() {
        let target = parse("postgres://alice:s3cret@h1,h2:5433/app?options=-c%20my.key%3Ds3cret");
        assert_eq!(target.describe(), "h1:5432,h2:5433/app as alice");
        let shown = format!("{target:?} {:?}", target.0.password);
        assert!(
            !shown.contains("s3cret") && !shown.contains("115, 51") && shown.contains("[redacted]"),
            "{shown}"
        );
        let replaced = target.with_password("s3cret");
        assert!(!format!("{replaced:?}").contains("s3cret"));
    }

    #[test]
    fn the_environment_stands_behind_the_string() {
        let env = |name: &str| {
            let value = match name {
                "PGHOST" => "envhost",
                "PGPORT" => "6000",
                "PGUSER" => "envuser",
                "PGDATABASE" => "envdb",
                "PGPASSWORD" => "envpass",
                "PGAPPNAME" => "envapp",
                "PGSSLMODE" => "require",
                "PGCONNECT_TIMEOUT" => "7",
                "PGTARGETSESSIONATTRS" => "primary",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let target = ConnectTarget::parse_with_env("", &env).unwrap();
        assert_eq!(target.describe(), "envhost:6000/envdb as envuser");
        assert_eq!(target.ssl_mode(), SslMode::Require);
        assert_eq!(target.connect_timeout(), Some(Duration::from_secs(7)));
        assert_eq!(target.application_name(), Some("envapp"));
        assert_eq!(target.0.session, SessionAttrs::Primary);
        assert_eq!(target.0.password, Some(Secret(b"envpass".to_vec())));
        let target = ConnectTarget::parse_with_env("postgres://me:mine@h:1/d?sslmode=disable", &env).unwrap();
        assert_eq!(target.describe(), "h:1/d as me");
        assert_eq!(
            (target.ssl_mode(), &target.0.password),
            (SslMode::Disable, &Some(Secret(b"mine".to_vec())))
        );
    }

    #[test]
    fn takes_over_a_driver_configuration() {
        let config: tokio_postgres::Config =
            "host=h1,h2 port=1,2 user=u dbname=d password=p sslmode=require connect_timeout=4"
                .parse()
                .unwrap();
        let target = ConnectTarget::from_config(config)
            .unwrap()
            .with_default_application_name("steadfast");
        assert_eq!(target.describe(), "h1:1,h2:2/d as u");
        assert_eq!(
            (target.ssl_mode(), target.connect_timeout()),
            (SslMode::Require, Some(Duration::from_secs(4)))
        );
        assert_eq!(
            target
                .with_application_name("x")
                .with_default_application_name("y")
                .application_name(),
            Some("x")
        );
    }
}
