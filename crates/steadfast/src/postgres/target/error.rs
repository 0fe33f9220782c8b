//! What can be wrong with a connection string, and why a connection could not be opened.
//!
//! Invariant: every message is one line and holds no secret; connection strings are never repeated in it.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

use super::settings::SessionAttrs;
use crate::postgres::guard::Violation;
use crate::postgres::tls::TlsError;

/// A connection string, an environment variable or an existing configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The string is neither a URL nor key=value pairs.
    #[error("invalid connection string: {0}")]
    Syntax(&'static str),
    /// A parameter that libpq does not document; the text names it.
    #[error("unknown connection parameter {0}")]
    UnknownParameter(String),
    /// A parameter has a value that it cannot have.
    #[error("invalid value of connection parameter `{parameter}`: {reason}")]
    InvalidValue {
        /// libpq's name of the parameter.
        parameter: &'static str,
        /// What is expected.
        reason: &'static str,
    },
    /// A parameter asks for something that this client cannot do and must not ignore.
    #[error("connection parameter `{parameter}` is not supported with this value: {reason}")]
    Unsupported {
        /// libpq's name of the parameter.
        parameter: &'static str,
        /// What is missing.
        reason: &'static str,
    },
    /// No user was given and the operating system names none.
    #[error("no database user given, and the operating system user has no name")]
    NoUser,
}

impl TargetError {
    pub(super) fn invalid(parameter: &'static str, reason: &'static str) -> Self {
        Self::InvalidValue { parameter, reason }
    }

    pub(super) fn unknown(name: &str, after_password: bool) -> Self {
        // Anything else than an identifier may be the rest of a password with an unquoted space or `&` in it.
        let plain = !name.is_empty()
            && name.len() <= 40
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
        Self::UnknownParameter(if !plain {
            "(its name is not an identifier)".to_owned()
        } else if after_password {
            "(its name may be a piece of the password)".to_owned()
        } else {
            format!("`{name}`")
        })
    }
}

/// Why no connection could be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A local certificate or key cannot be used; no host was tried.
    #[error("cannot prepare TLS: {0}")]
    Tls(#[from] TlsError),
    /// Certificates, the key or the password file could not be read in time; no host was tried.
    #[error("certificates, key or password file cannot be read: {0}")]
    Files(#[source] io::Error),
    /// The caller gave a startup option whose name is not a setting's name, or text with a NUL character.
    #[error("invalid startup option")]
    InvalidStartupOption,
    /// Every host that was tried, in order, with its reason.
    #[error("{}", summary(.0))]
    Hosts(Vec<HostFailure>),
}

/// One host (one of its addresses) and why it gave no connection.
#[derive(Debug)]
#[non_exhaustive]
pub struct HostFailure {
    /// `host:port`, or the path of the Unix socket.
    pub host: String,
    /// What went wrong there.
    pub reason: FailureReason,
    /// Where no password was given and the server refused: what the password file had to do with it.
    pub note: Option<String>,
}

/// Why one host gave no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FailureReason {
    /// The host name has no address.
    #[error("host name cannot be resolved: {}", io_text(.0))]
    Resolve(#[source] io::Error),
    /// The socket could not be opened, or broke.
    #[error("{}", io_text(.0))]
    Io(#[source] io::Error),
    /// The server closed the connection while it was being set up.
    #[error("the server closed the connection")]
    Closed,
    /// `connect_timeout` passed.
    #[error("no connection within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// TLS could not be negotiated, or the server's certificate is not trusted.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// The server asks for a password and none is known.
    #[error("the server asks for a password and none was given")]
    PasswordMissing,
    /// The two sides cannot agree how to authenticate, or the server failed to prove that it knows the password.
    #[error("authentication failed: {0}")]
    Authentication(String),
    /// The server refused, with an SQLSTATE.
    #[error("{}: {}", .0.severity(), one_line(.0.message()))]
    Server(#[source] Box<DbError>),
    /// The session works, but is not of the kind that `target_session_attrs` asks for.
    #[error("the session is not {0}, which target_session_attrs asks for")]
    Session(SessionAttrs),
    /// The other side does not speak PostgreSQL's protocol, or breaks it.
    #[error("{0}")]
    Protocol(String),
}

impl ConnectError {
    /// The failures by host, in the order in which they were tried.
    #[must_use]
    pub fn failures(&self) -> &[HostFailure] {
        match self {
            Self::Hosts(failures) => failures,
            _ => &[],
        }
    }

    /// Whether some host refused the user or password: new credentials may help, waiting does not.
    #[must_use]
    pub fn is_authentication(&self) -> bool {
        self.any(FailureReason::is_authentication)
    }

    /// Whether no host could be talked to (not resolved, refused, closed, timed out): waiting may help.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        let failures = self.failures();
        !failures.is_empty() && failures.iter().all(|failure| failure.reason.is_unreachable())
    }

    /// Whether every host ran into `connect_timeout`.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        let failures = self.failures();
        !failures.is_empty()
            && failures
                .iter()
                .all(|failure| matches!(failure.reason, FailureReason::Timeout(_)))
    }

    /// Whether TLS is the reason: a certificate that is not trusted, no TLS on the server, an unusable local file.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_)) || self.any(|reason| matches!(reason, FailureReason::Tls(_)))
    }

    /// Whether some host answered and only `target_session_attrs` ruled it out.
    #[must_use]
    pub fn is_session_mismatch(&self) -> bool {
        self.any(|reason| matches!(reason, FailureReason::Session(_)))
    }

    /// The SQLSTATE of the last server that refused with one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&SqlState> {
        self.failures()
            .iter()
            .rev()
            .find_map(|failure| failure.reason.sqlstate())
    }

    fn any(&self, test: impl Fn(&FailureReason) -> bool) -> bool {
        self.failures().iter().any(|failure| test(&failure.reason))
    }
}

impl FailureReason {
    /// The SQLSTATE, where the server refused with one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            Self::Server(error) => Some(error.code()),
            _ => None,
        }
    }

    /// Whether the user or password was refused (or a needed password is missing).
    #[must_use]
    pub fn is_authentication(&self) -> bool {
        match self {
            Self::PasswordMissing | Self::Authentication(_) => true,
            Self::Server(error) => error.code().code().starts_with("28"),
            _ => false,
        }
    }

    /// Whether nobody that could accept or refuse was reached.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Resolve(_) | Self::Io(_) | Self::Closed | Self::Timeout(_))
    }

    /// Whether trying the next host is pointless: a server that works has judged the request itself.
    pub(super) fn is_final(&self) -> bool {
        match self {
            // Resources (53), operator intervention such as "is starting up" (57) and connection trouble (08) are
            // the state of one host; everything else is about the user, the database or the request.
            Self::Server(error) => !["53", "57", "08"]
                .iter()
                .any(|class| error.code().code().starts_with(class)),
            reason => reason.is_authentication(),
        }
    }

    /// Sorts a driver error by what it means for the caller. `has_password`: whether one was configured.
    pub(super) fn from_driver(error: tokio_postgres::Error, has_password: bool) -> Self {
        if error.is_closed() {
            return Self::Closed;
        }
        let kind = error.to_string();
        let Some(source) = error.into_source() else {
            return Self::Protocol(kind);
        };
        let source = match source.downcast::<DbError>() {
            Ok(error) => return Self::Server(error),
            Err(source) => source,
        };
        let source = match source.downcast::<TlsError>() {
            Ok(error) => return Self::Tls(*error),
            Err(source) => source,
        };
        // The driver tells these apart by text only.
        let authentication = kind == "authentication error";
        match source.downcast::<io::Error>() {
            Ok(error) if authentication => Self::Authentication(one_line(&error.to_string())),
            Ok(error) => Self::from_io(*error),
            Err(source) if authentication => Self::Authentication(one_line(&source.to_string())),
            Err(source) if !has_password && source.to_string() == "password missing" => Self::PasswordMissing,
            Err(source) if source.to_string() == "server does not support TLS" => Self::Tls(TlsError::NotOffered),
            Err(source) => Self::Protocol(one_line(&format!("{kind}: {source}"))),
        }
    }

    /// An I/O error of a connected socket; a TLS alert comes as one of these.
    pub(super) fn from_io(error: io::Error) -> Self {
        match TlsError::from_io(error) {
            Ok(tls) => Self::Tls(tls),
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Violation>()) => {
                Self::Protocol(error.to_string())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::Closed,
            Err(error) => Self::Io(error),
        }
    }
}

impl fmt::Display for HostFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.host, self.reason)?;
        match &self.note {
            Some(note) => write!(f, " ({note})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for HostFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.reason)
    }
}

fn summary(failures: &[HostFailure]) -> String {
    match failures {
        [] => "cannot connect: no host given".to_owned(),
        [failure] => format!("cannot connect to {failure}"),
        several => {
            let list: Vec<String> = several.iter().map(ToString::to_string).collect();
            format!("cannot connect: {}", list.join("; "))
        }
    }
}

fn io_text(error: &io::Error) -> String {
    match error.kind() {
        kind @ (io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::TimedOut) => kind.to_string(),
        io::ErrorKind::NotFound => "no such socket".to_owned(),
        _ => one_line(&error.to_string()),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(host: &str, reason: FailureReason) -> HostFailure {
        HostFailure {
            host: host.to_owned(),
            reason,
            note: None,
        }
    }

    #[test]
    fn messages_are_one_clear_line() {
        let refused = || FailureReason::Io(io::Error::from_raw_os_error(111));
        let one = ConnectError::Hosts(vec![failure("db.example.org:5432", refused())]);
        assert_eq!(
            one.to_string(),
            "cannot connect to db.example.org:5432: connection refused"
        );
        assert!(one.is_unreachable() && !one.is_authentication() && !one.is_timeout() && one.sqlstate().is_none());
        let two = ConnectError::Hosts(vec![
            failure("a:1", FailureReason::Timeout(Duration::from_secs(3))),
            failure("b:2", FailureReason::Session(SessionAttrs::ReadWrite)),
        ]);
        assert_eq!(
            two.to_string(),
            "cannot connect: a:1: no connection within 3 s; \
             b:2: the session is not read-write, which target_session_attrs asks for"
        );
        assert!(two.is_session_mismatch() && !two.is_unreachable());
    }
}
