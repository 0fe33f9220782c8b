//! Turns named text parameters into typed settings, with libpq's defaults.
//!
//! Invariant: settings that exist are consistent: at least one host, a port each, and no weak TLS mode with a root
//! store that anybody can get a certificate from.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, SslNegotiation};

use super::conninfo::{Env, Params};
use super::error::TargetError;
use crate::postgres::tls::{ClientCertificate, RootSource, SslMode, TlsSettings, TlsVersions};

pub(super) const DEFAULT_PORT: u16 = 5432;
pub(super) const DEFAULT_SOCKET_DIR: &str = "/var/run/postgresql";

/// What kind of session is wanted, as libpq's `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum SessionAttrs {
    /// Any session will do.
    #[default]
    Any,
    /// Transactions may write by default.
    ReadWrite,
    /// Transactions may not write by default.
    ReadOnly,
    /// The server is not in recovery.
    Primary,
    /// The server is in recovery.
    Standby,
    /// A standby if there is one, else any.
    PreferStandby,
}

impl std::fmt::Display for SessionAttrs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::PreferStandby => "prefer-standby",
        })
    }
}

/// Where one server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// A name to resolve (and to check the certificate against), a known address, or both.
    Tcp {
        name: Option<String>,
        address: Option<IpAddr>,
    },
    /// The directory of a Unix socket; with a leading `@`, a name in Linux's abstract namespace.
    Unix(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) endpoint: Endpoint,
    pub(super) port: u16,
}

impl Host {
    fn new(name: &str, address: Option<IpAddr>, port: u16) -> Self {
        let name = if name.is_empty() && address.is_none() {
            default_host()
        } else {
            name
        };
        let endpoint = if address.is_none() && name.starts_with(['/', '@']) {
            Endpoint::Unix(name.to_owned())
        } else {
            Endpoint::Tcp {
                name: Some(name.to_owned()).filter(|name| !name.is_empty()),
                address,
            }
        };
        Self { endpoint, port }
    }

    /// `host:port`, `[ipv6]:port` or the path of the socket.
    pub(super) fn label(&self) -> String {
        let port = self.port;
        match &self.endpoint {
            Endpoint::Unix(dir) => format!("{dir}/.s.PGSQL.{port}"),
            Endpoint::Tcp { name: Some(name), .. } if name.contains(':') => format!("[{name}]:{port}"),
            Endpoint::Tcp { name: Some(name), .. } => format!("{name}:{port}"),
            Endpoint::Tcp {
                name: None,
                address: Some(IpAddr::V6(address)),
            } => format!("[{address}]:{port}"),
            Endpoint::Tcp {
                name: None,
                address: Some(address),
            } => format!("{address}:{port}"),
            Endpoint::Tcp {
                name: None,
                address: None,
            } => format!(":{port}"),
        }
    }

    /// The name under which the password file knows this host.
    pub(super) fn passfile_name(&self) -> String {
        match &self.endpoint {
            Endpoint::Unix(dir) if dir == DEFAULT_SOCKET_DIR => "localhost".to_owned(),
            Endpoint::Unix(dir) => dir.clone(),
            Endpoint::Tcp { name: Some(name), .. } => name.clone(),
            Endpoint::Tcp { name: None, address } => address.map(|address| address.to_string()).unwrap_or_default(),
        }
    }
}

fn default_host() -> &'static str {
    if Path::new(DEFAULT_SOCKET_DIR).is_dir() {
        DEFAULT_SOCKET_DIR
    } else {
        "localhost"
    }
}

/// TCP keepalive; `None` leaves a value to the operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keepalive {
    pub(super) enabled: bool,
    pub(super) idle: Option<Duration>,
    pub(super) interval: Option<Duration>,
    pub(super) count: Option<u32>,
}

/// A password; its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) hosts: Vec<Host>,
    pub(super) dbname: String,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    pub(super) passfile: Option<PathBuf>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) application_name: Option<String>,
    pub(super) options: Option<String>,
    pub(super) keepalive: Keepalive,
    pub(super) tcp_user_timeout: Option<Duration>,
    pub(super) tls: TlsSettings,
    pub(super) channel_binding: ChannelBinding,
    pub(super) session: SessionAttrs,
    pub(super) shuffle: bool,
}

impl Settings {
    /// Types the parameters; `env` gives only the home directory here (the `PG*` ones are already in `params`).
    pub(super) fn from_params(params: &Params, env: Env<'_>) -> Result<Self, TargetError> {
        let home = env("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let user = params
            .get("user")
            .map_or_else(|| os_user(env), |user| Ok(user.to_owned()))?;
        let text = |name| params.get(name).map(str::to_owned);
        Ok(Self {
            hosts: hosts(params)?,
            dbname: text("dbname").unwrap_or_else(|| user.clone()),
            user,
            password: text("password").map(|password| Secret(password.into_bytes())),
            passfile: text("passfile")
                .map(PathBuf::from)
                .or_else(|| Some(home.as_ref()?.join(".pgpass"))),
            connect_timeout: positive(params, "connect_timeout")?.map(Duration::from_secs),
            application_name: text("application_name").or_else(|| text("fallback_application_name")),
            options: text("options"),
            keepalive: Keepalive {
                enabled: number(params, "keepalives")?.is_none_or(|value| value != 0),
                idle: positive(params, "keepalives_idle")?.map(Duration::from_secs),
                interval: positive(params, "keepalives_interval")?.map(Duration::from_secs),
                count: positive(params, "keepalives_count")?.map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
            },
            tcp_user_timeout: positive(params, "tcp_user_timeout")?.map(Duration::from_millis),
            tls: tls(params, home.as_deref())?,
            channel_binding: choice(params, "channel_binding", CHANNEL_BINDING)?.unwrap_or(ChannelBinding::Prefer),
            session: choice(params, "target_session_attrs", SESSION_ATTRS)?.unwrap_or_default(),
            shuffle: choice(params, "load_balance_hosts", LOAD_BALANCE)?.unwrap_or_default(),
        })
    }

    /// Takes over a driver configuration as it is: neither the environment nor the home directory is looked at.
    pub(super) fn from_config(config: &tokio_postgres::Config) -> Result<Self, TargetError> {
        use tokio_postgres::config::{self, LoadBalanceHosts, TargetSessionAttrs};
        let user = config
            .get_user()
            .map_or_else(|| os_user(&|_| None), |user| Ok(user.to_owned()))?;
        let names = config.get_hosts().iter().map(|host| match host {
            config::Host::Tcp(name) => Ok(name.clone()),
            #[cfg(unix)]
            config::Host::Unix(path) => match path.to_str() {
                Some(path) => Ok(path.to_owned()),
                None => Err(TargetError::invalid("host", "the socket directory is not UTF-8")),
            },
        });
        let names = names.collect::<Result<Vec<_>, _>>()?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let addresses: Vec<_> = config.get_hostaddrs().iter().copied().map(Some).collect();
        let mut tls = TlsSettings::new(match config.get_ssl_mode() {
            config::SslMode::Disable => SslMode::Disable,
            config::SslMode::Require => SslMode::Require,
            _ => SslMode::Prefer,
        });
        tls.negotiation = config.get_ssl_negotiation();
        check_tls(&tls)?;
        Ok(Self {
            hosts: combine(&names, &addresses, config.get_ports())?,
            dbname: config.get_dbname().map_or_else(|| user.clone(), str::to_owned),
            user,
            password: config.get_password().map(|password| Secret(password.to_vec())),
            passfile: None,
            connect_timeout: config
                .get_connect_timeout()
                .copied()
                .filter(|timeout| !timeout.is_zero()),
            application_name: config.get_application_name().map(str::to_owned),
            options: config.get_options().map(str::to_owned),
            keepalive: Keepalive {
                enabled: config.get_keepalives(),
                idle: Some(config.get_keepalives_idle()),
                interval: config.get_keepalives_interval(),
                count: config.get_keepalives_retries(),
            },
            tcp_user_timeout: config.get_tcp_user_timeout().copied(),
            tls,
            channel_binding: config.get_channel_binding(),
            session: match config.get_target_session_attrs() {
                TargetSessionAttrs::ReadWrite => SessionAttrs::ReadWrite,
                TargetSessionAttrs::ReadOnly => SessionAttrs::ReadOnly,
                _ => SessionAttrs::Any,
            },
            shuffle: config.get_load_balance_hosts() == LoadBalanceHosts::Random,
        })
    }
}

const CHANNEL_BINDING: &[(&str, ChannelBinding)] = &[
    ("disable", ChannelBinding::Disable),
    ("prefer", ChannelBinding::Prefer),
    ("require", ChannelBinding::Require),
];
const LOAD_BALANCE: &[(&str, bool)] = &[("disable", false), ("random", true)];
const SESSION_ATTRS: &[(&str, SessionAttrs)] = &[
    ("any", SessionAttrs::Any),
    ("read-write", SessionAttrs::ReadWrite),
    ("read-only", SessionAttrs::ReadOnly),
    ("primary", SessionAttrs::Primary),
    ("standby", SessionAttrs::Standby),
    ("prefer-standby", SessionAttrs::PreferStandby),
];
const SSL_MODE: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];
const NEGOTIATION: &[(&str, SslNegotiation)] = &[
    ("postgres", SslNegotiation::Postgres),
    ("direct", SslNegotiation::Direct),
];
/// Versions by rank: 12 stands for everything that is not newer, as nothing older is spoken.
const TLS_VERSION: &[(&str, u8)] = &[("TLSv1", 10), ("TLSv1.1", 11), ("TLSv1.2", 12), ("TLSv1.3", 13)];

fn tls(params: &Params, home: Option<&Path>) -> Result<TlsSettings, TargetError> {
    let root = match params.get("sslrootcert") {
        Some("system") => RootSource::System,
        Some(path) => RootSource::File(path.into()),
        None => home
            .map(|home| home.join(".postgresql/root.crt"))
            .map_or(RootSource::Unset, RootSource::Default),
    };
    // A certificate of one's own is trusted for nothing less than its name when it comes from a public authority.
    let default_mode = if root == RootSource::System {
        SslMode::VerifyFull
    } else {
        SslMode::Prefer
    };
    let mut tls = TlsSettings::new(choice(params, "sslmode", SSL_MODE)?.unwrap_or(default_mode));
    tls.root = root;
    tls.certificate = match params.get("sslcertmode") {
        Some("disable") => None,
        None | Some("allow") => client_certificate(params, home),
        Some(_) => return Err(TargetError::invalid("sslcertmode", "expected disable or allow")),
    };
    tls.sni = number(params, "sslsni")?.is_none_or(|value| value != 0);
    tls.negotiation = choice(params, "sslnegotiation", NEGOTIATION)?.unwrap_or(SslNegotiation::Postgres);
    let oldest = choice(params, "ssl_min_protocol_version", TLS_VERSION)?.unwrap_or(12);
    let newest = choice(params, "ssl_max_protocol_version", TLS_VERSION)?.unwrap_or(13);
    tls.versions = match (oldest, newest) {
        (_, ..=11) => {
            return Err(TargetError::invalid(
                "ssl_max_protocol_version",
                "TLS before 1.2 is not spoken",
            ));
        }
        (13, 12) => return Err(TargetError::invalid("ssl_min_protocol_version", "is above the maximum")),
        (_, 12) => TlsVersions::Only12,
        (13, _) => TlsVersions::Only13,
        _ => TlsVersions::Both,
    };
    check_tls(&tls)?;
    Ok(tls)
}

/// `sslcert` and `sslkey`, or what lies in the home directory.
fn client_certificate(params: &Params, home: Option<&Path>) -> Option<ClientCertificate> {
    let given = |name| params.get(name).map(PathBuf::from);
    let usual = |file: &str| home.map(|home| home.join(".postgresql").join(file));
    let explicit = given("sslcert").is_some();
    Some(ClientCertificate {
        certificate: given("sslcert").or_else(|| usual("postgresql.crt"))?,
        key: given("sslkey").or_else(|| usual("postgresql.key"))?,
        explicit,
    })
}

/// The combinations that libpq refuses because they only look safe.
pub(super) fn check_tls(tls: &TlsSettings) -> Result<(), TargetError> {
    if tls.root == RootSource::System && tls.mode != SslMode::VerifyFull {
        return Err(TargetError::invalid("sslmode", "sslrootcert=system needs verify-full"));
    }
    if tls.negotiation == SslNegotiation::Direct && tls.mode < SslMode::Require {
        return Err(TargetError::invalid(
            "sslmode",
            "sslnegotiation=direct needs require or stronger",
        ));
    }
    Ok(())
}

fn hosts(params: &Params) -> Result<Vec<Host>, TargetError> {
    let list = |name| {
        params
            .get(name)
            .map(|text| text.split(',').map(str::trim).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    let addresses = list("hostaddr").into_iter().map(|text| match text {
        "" => Ok(None),
        text => match IpAddr::from_str(text) {
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(TargetError::invalid("hostaddr", "expected a numeric IP address")),
        },
    });
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    let ports = list("port").into_iter().map(|text| match text {
        "" => Ok(DEFAULT_PORT),
        text => match u16::from_str(text) {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(TargetError::invalid("port", "expected a number from 1 to 65535")),
        },
    });
    combine(&list("host"), &addresses, &ports.collect::<Result<Vec<_>, _>>()?)
}

fn combine(names: &[&str], addresses: &[Option<IpAddr>], ports: &[u16]) -> Result<Vec<Host>, TargetError> {
    if !names.is_empty() && !addresses.is_empty() && names.len() != addresses.len() {
        return Err(TargetError::invalid(
            "hostaddr",
            "there are not as many addresses as hosts",
        ));
    }
    let count = names.len().max(addresses.len()).max(1);
    let port = |at: usize| match ports {
        [] => Ok(DEFAULT_PORT),
        [port] => Ok(*port),
        ports if ports.len() == count => Ok(ports[at]),
        _ => Err(TargetError::invalid(
            "port",
            "there are neither one port nor as many as hosts",
        )),
    };
    let at = |at: usize| {
        let name = names.get(at).copied().unwrap_or_default();
        Ok(Host::new(name, addresses.get(at).copied().flatten(), port(at)?))
    };
    (0..count).map(at).collect()
}

fn os_user(env: Env<'_>) -> Result<String, TargetError> {
    // The account comes first, as in libpq; in a container its number may have no name.
    whoami::username()
        .ok()
        .or_else(|| env("USER"))
        .or_else(|| env("LOGNAME"))
        .filter(|name| !name.is_empty())
        .ok_or(TargetError::NoUser)
}

fn number(params: &Params, name: &'static str) -> Result<Option<i64>, TargetError> {
    let parse = |text: &str| {
        text.trim()
            .parse()
            .map_err(|_| TargetError::invalid(name, "expected a whole number"))
    };
    params.get(name).map(parse).transpose()
}

/// A number where zero and less mean "not set".
fn positive(params: &Params, name: &'static str) -> Result<Option<u64>, TargetError> {
    Ok(number(params, name)?
        .and_then(|value| u64::try_from(value).ok())
        .filter(|value| *value > 0))
}

fn choice<T: Copy>(params: &Params, name: &'static str, known: &[(&str, T)]) -> Result<Option<T>, TargetError> {
    let Some(text) = params.get(name) else { return Ok(None) };
    match known.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)) {
        Some((_, value)) => Ok(Some(*value)),
        None => Err(TargetError::invalid(name, "is none of the values that libpq documents")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(conninfo: &str) -> Result<Settings, TargetError> {
        let env = |name: &str| (name == "HOME").then(|| "/nowhere".to_owned());
        let mut params = Params::parse(conninfo)?;
        params.complete(&env)?;
        Settings::from_params(&params, &env)
    }

    fn labels(conninfo: &str) -> Vec<String> {
        settings(conninfo).unwrap().hosts.iter().map(Host::label).collect()
    }

    #[test]
    fn hosts_addresses_and_ports_are_matched_up() {
        let default = format!(
            "{}{}",
            default_host(),
            if default_host() == "localhost" {
                ":9"
            } else {
                "/.s.PGSQL.9"
            }
        );
        assert_eq!(labels("port=9"), [default]);
        assert_eq!(labels("host=a,b,c"), ["a:5432", "b:5432", "c:5432"]);
        assert_eq!(labels("host=a,b port=7"), ["a:7", "b:7"]);
        assert_eq!(labels("host=a,b port=,7"), ["a:5432", "b:7"]);
        assert_eq!(labels("postgres://a:1,[::1]:2/d"), ["a:1", "[::1]:2"]);
        assert_eq!(labels("hostaddr=10.0.0.1,::1"), ["10.0.0.1:5432", "[::1]:5432"]);
        assert_eq!(
            labels("host=/tmp,@name port=1"),
            ["/tmp/.s.PGSQL.1", "@name/.s.PGSQL.1"]
        );
        let both = settings("host=db hostaddr=10.0.0.1").unwrap();
        let address = IpAddr::from_str("10.0.0.1").ok();
        assert_eq!(
            both.hosts[0].endpoint,
            Endpoint::Tcp {
                name: Some("db".to_owned()),
                address
            }
        );
        for (text, parameter) in [
            ("host=a,b port=1,2,3", "port"),
            ("host=a port=0", "port"),
            ("host=a port=s3cret", "port"),
            ("host=a,b hostaddr=10.0.0.1", "hostaddr"),
            ("hostaddr=db.example.org", "hostaddr"),
        ] {
            let error = settings(text).unwrap_err();
            assert!(
                matches!(error, TargetError::InvalidValue { parameter: name, .. } if name == parameter),
                "{text}"
            );
            assert!(!error.to_string().contains("s3cret"));
        }
    }

    #[test]
    fn units_are_those_of_libpq() {
        let s = settings("connect_timeout=3 tcp_user_timeout=1500 keepalives_idle=60 keepalives_count=4").unwrap();
        assert_eq!(s.connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(s.tcp_user_timeout, Some(Duration::from_millis(1500)));
        assert_eq!(s.keepalive.idle, Some(Duration::from_secs(60)));
        assert_eq!((s.keepalive.enabled, s.keepalive.count), (true, Some(4)));
        let s = settings("connect_timeout=-1 keepalives=0 keepalives_idle=0").unwrap();
        assert_eq!(
            (s.connect_timeout, s.keepalive.enabled, s.keepalive.idle),
            (None, false, None)
        );
    }

    #[test]
    fn the_database_defaults_to_the_user() {
        let s = settings("user=alice fallback_application_name=fall").unwrap();
        assert_eq!(
            (s.dbname.as_str(), s.application_name.as_deref()),
            ("alice", Some("fall"))
        );
        let s = settings("user=alice dbname=d application_name=app fallback_application_name=fall").unwrap();
        assert_eq!((s.dbname.as_str(), s.application_name.as_deref()), ("d", Some("app")));
        assert_eq!(s.passfile.as_deref(), Some(Path::new("/nowhere/.pgpass")));
    }

    #[test]
    fn tls_modes_and_their_combinations() {
        assert_eq!(settings("").unwrap().tls.mode, SslMode::Prefer);
        assert_eq!(settings("sslrootcert=system").unwrap().tls.mode, SslMode::VerifyFull);
        for (word, mode) in SSL_MODE {
            assert_eq!(settings(&format!("sslmode={word}")).unwrap().tls.mode, *mode);
        }
        for weak in [
            "sslrootcert=system sslmode=verify-ca",
            "sslmode=on",
            "sslnegotiation=direct",
            "ssl_max_protocol_version=TLSv1.1",
            "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
            "sslcertmode=require",
        ] {
            assert!(settings(weak).is_err(), "{weak}");
        }
        assert_eq!(
            settings("ssl_min_protocol_version=TLSv1.3").unwrap().tls.versions,
            TlsVersions::Only13
        );
        assert!(!settings("sslsni=0").unwrap().tls.sni);
    }

    #[test]
    fn words_are_checked() {
        assert_eq!(
            settings("target_session_attrs=prefer-standby").unwrap().session,
            SessionAttrs::PreferStandby
        );
        assert!(settings("load_balance_hosts=random").unwrap().shuffle);
        for wrong in [
            "target_session_attrs=writable",
            "load_balance_hosts=yes",
            "channel_binding=on",
            "connect_timeout=x",
        ] {
            assert!(settings(wrong).is_err(), "{wrong}");
        }
    }
}
