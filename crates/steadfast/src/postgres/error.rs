//! What can go wrong between us and PostgreSQL, and whether trying again can help: one table, one place.
//!
//! Invariant: errors are judged by SQLSTATE and kind, never by their text.

use std::time::Duration;

use duroxide::providers::ProviderError;

use super::target::ConnectError;
use crate::item::ItemError;
use crate::refusal::Refusal;
use crate::trouble::{Lasting, Setback};

/// Whether the same call may succeed later, and what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// It passes by itself: the call is repeated.
    Retryable,
    /// The store is not as it must be, which an administrator can mend: the call is kept and repeated, and nothing is
    /// claimed meanwhile.
    Trouble,
    /// The operation itself cannot succeed; others may.
    Permanent,
}

/// Judges an SQLSTATE. Codes and classes: PostgreSQL documentation, appendix A. Our statements are fixed and tested, so
/// whatever says that a statement is wrong (class 42) says that the schema or a grant is not what it must be.
pub(crate) fn classify(sqlstate: &str) -> Class {
    match sqlstate {
        // Changed cached plan ("cached plan must not change result type" is feature_not_supported);
        // prepared statement that a pooler has lost, or that another client of it has made.
        "0A000" | "26000" | "42P05" => Class::Retryable,
        // Read-only: by a failover, which a new connection ends, or by an administrator.
        "25006" => Class::Trouble,
        // Lock timeout; object in use. The rest of the class: an object is not in the state that is needed.
        "55P03" | "55006" => Class::Retryable,
        // The database was dropped.
        "57P04" => Class::Trouble,
        // The disk is full. (Out of memory, and limits on temporary files, may be one operation's own doing: they pass, or
        // end with its lease.)
        "53100" => Class::Trouble,
        // Damaged rows concern those who need them: isolating them keeps the others at work. A damaged index can be
        // built anew (XX002), and "cache lookup failed" is what DDL under way looks like (XX000).
        "XX001" => Class::Permanent,
        // Query or statement cancelled; shutdown, crash, start-up; idle sessions.
        code => match code.get(..2) {
            // Connection exceptions (a pooler reports a server that it lost in mid-query as 08P01); transaction states of
            // a connection (timeouts, a transaction that has failed), which ends with it; serialization failure and
            // deadlock; out of connections or memory; what operators do; a snapshot that is too old.
            Some("08" | "25" | "40" | "53" | "57" | "72") => Class::Retryable,
            // A role that may not connect, or is gone; a database or schema that is not there; rights and definitions;
            // states of objects; system errors of the server; its configuration file; its internals.
            Some("0P" | "28" | "3D" | "3F" | "42" | "55" | "58" | "F0" | "XX") => Class::Trouble,
            _ => Class::Permanent,
        },
    }
}

/// Any failure of a call.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{message} (SQLSTATE {sqlstate})")]
    Database { sqlstate: String, message: String },
    #[error("connection lost: {0}")]
    Connection(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("no free connection within {0:?}")]
    PoolTimeout(Duration),
    #[error("{message}")]
    Connect {
        message: String,
        sqlstate: Option<String>,
        /// The server refused who we are.
        refused: bool,
    },
    #[error("the provider is closed")]
    Closed,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Item(#[from] ItemError),
    #[error("unexpected answer: {0}")]
    Decode(String),
    #[error("{0}")]
    Rejected(String),
    /// A trouble has outlasted what a caller waits for it.
    #[error("the store has not been as it must be for {lasted:?}: {trouble}")]
    Lasting { lasted: Duration, trouble: String },
}

impl StoreError {
    /// A caller has waited for the store long enough.
    pub(crate) fn lasting(lasting: &Lasting) -> Self {
        Self::Lasting {
            lasted: lasting.lasted,
            trouble: lasting.trouble.clone(),
        }
    }

    pub(crate) fn class(&self) -> Class {
        match self {
            Self::Database { sqlstate, .. } => classify(sqlstate),
            Self::Connect {
                sqlstate: Some(code), ..
            } => classify(code),
            Self::Lasting { .. } => Class::Trouble,
            Self::Connection(_) | Self::Timeout(_) | Self::PoolTimeout(_) | Self::Connect { .. } => Class::Retryable,
            Self::Closed | Self::Refused(_) | Self::Item(_) | Self::Decode(_) | Self::Rejected(_) => Class::Permanent,
        }
    }

    /// The server's own code.
    pub(crate) fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Database { sqlstate, .. } => Some(sqlstate),
            Self::Connect { sqlstate, .. } => sqlstate.as_deref(),
            _ => None,
        }
    }

    /// It passes by itself.
    pub(crate) fn is_retryable(&self) -> bool {
        self.class() == Class::Retryable
    }

    /// Whether a call is refused for what it holds, for good: neither its token nor the store is to blame.
    pub(crate) fn refuses_content(&self) -> bool {
        self.class() == Class::Permanent && !matches!(self, Self::Closed | Self::Refused(_))
    }

    /// The operation itself is not at fault: the same call may succeed later.
    pub(crate) fn may_pass(&self) -> bool {
        self.class() != Class::Permanent
    }

    /// What it means for repeating the call; `None`: nothing is to be repeated.
    pub(crate) fn setback(&self) -> Option<Setback> {
        match self.class() {
            Class::Permanent => None,
            Class::Trouble => Some(Setback::Trouble),
            Class::Retryable if self.is_in_doubt() => Some(Setback::InDoubt),
            Class::Retryable => Some(Setback::Passing),
        }
    }

    /// Whether the call may have happened although it failed: everything but an answer of the server that says
    /// that it was rolled back, and what never reached it.
    pub(crate) fn is_in_doubt(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Timeout(_) => true,
            // A backend that is shut down may have committed before it could say so.
            Self::Database { sqlstate, .. } => {
                sqlstate.starts_with("08") || matches!(sqlstate.as_str(), "57P01" | "57P02")
            }
            _ => false,
        }
    }

    /// Whether a connection that answered so must not be used again.
    pub(crate) fn breaks_connection(&self) -> bool {
        match self {
            Self::Connection(_) | Self::Timeout(_) => true,
            Self::Database { sqlstate, .. } if sqlstate.starts_with("08") || sqlstate.starts_with("25") => true,
            Self::Database { sqlstate, .. } => matches!(
                sqlstate.as_str(),
                "0A000" | "26000" | "42P05" | "57P01" | "57P02" | "57P03" | "57P04" | "57P05"
            ),
            _ => false,
        }
    }

    /// As the framework sees it.
    pub(crate) fn into_provider_error(self, operation: &str) -> ProviderError {
        if self.may_pass() {
            ProviderError::retryable(operation, self.to_string())
        } else {
            ProviderError::permanent(operation, self.to_string())
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            return Self::Database {
                sqlstate: db.code().code().to_owned(),
                message: db.message().to_owned(),
            };
        }
        let closed = error.is_closed();
        let io = std::error::Error::source(&error).is_some_and(|s| s.is::<std::io::Error>());
        let message = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        if closed || io {
            Self::Connection(message)
        } else {
            Self::Decode(message)
        }
    }
}

impl From<ConnectError> for StoreError {
    fn from(error: ConnectError) -> Self {
        Self::Connect {
            sqlstate: error.sqlstate().map(|c| c.code().to_owned()),
            refused: error.is_authentication(),
            message: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden: a change here changes what callers are told, and must be meant.
    #[test]
    fn the_table_of_sqlstates() {
        let retryable = [
            "08000", "08001", "08003", "08006", "08007", "08P01", "0A000", "25001", "25P01", "25P02", "25P03", "25P04",
            "26000", "40001", "40002", "40003", "40P01", "42P05", "53000", "53200", "53300", "53400", "55006", "55P03",
            "57000", "57014", "57P01", "57P02", "57P03", "57P05", "72000",
        ];
        let trouble = [
            "0P000", "25006", "28000", "28P01", "3D000", "3F000", "42501", "42601", "42702", "42703", "42704", "42804",
            "42809", "42883", "42P01", "42P02", "42P13", "42P18", "53100", "55000", "55P02", "57P04", "58000", "58030",
            "58P01", "58P02", "F0000", "F0001", "XX000", "XX002",
        ];
        let permanent = [
            "21000", "22001", "22003", "22021", "22P02", "22P05", "23502", "23505", "23514", "2F005", "38000", "39000",
            "44000", "54000", "54001", "54023", "P0001", "P0002", "XX001",
        ];
        for code in trouble {
            assert_eq!(classify(code), Class::Trouble, "{code}");
        }
        for code in retryable {
            assert_eq!(classify(code), Class::Retryable, "{code}");
        }
        for code in permanent {
            assert_eq!(classify(code), Class::Permanent, "{code}");
        }
    }

    #[test]
    fn refusals_use_the_words_that_the_framework_looks_for() {
        let e = StoreError::from(Refusal::LeaseEnded).into_provider_error("ack_orchestration_item");
        assert!(e.message.contains("Invalid lock token"));
        assert!(!e.is_retryable());
        assert!(StoreError::PoolTimeout(Duration::ZERO).is_retryable());
        assert!(!StoreError::Closed.is_retryable());
    }
}
