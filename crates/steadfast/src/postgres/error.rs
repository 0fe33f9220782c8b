//! What can go wrong between us and PostgreSQL, and whether trying again can help: one table, one place.
//!
//! Invariant: errors are judged by SQLSTATE and kind, never by their text.

use std::time::Duration;

use duroxide::providers::ProviderError;

use super::target::ConnectError;
use crate::item::ItemError;
use crate::refusal::Refusal;

/// Whether the same call may succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Trouble that passes: the call is repeated.
    Retryable,
    /// The statement itself cannot succeed.
    Permanent,
}

/// Judges an SQLSTATE. Codes and classes: PostgreSQL documentation, appendix A.
pub(crate) fn classify(sqlstate: &str) -> Class {
    match sqlstate {
        // Changed cached plan ("cached plan must not change result type" is feature_not_supported);
        // prepared statement that a pooler has lost, or that another client of it has made.
        "0A000" | "26000" | "42P05" => Class::Retryable,
        // Read-only transaction: a failover has made our server a standby.
        "25006" => Class::Retryable,
        // Idle-in-transaction and transaction timeouts end a connection, not the call.
        "25P03" | "25P04" => Class::Retryable,
        // Lock timeout; object in use.
        "55P03" | "55006" => Class::Retryable,
        // Statement timeout and cancel, admin and crash shutdown, cannot connect now, idle session timeout.
        "57014" | "57P01" | "57P02" | "57P03" | "57P05" => Class::Retryable,
        code => match code.get(..2) {
            // Connection exceptions (a pooler reports a server that it lost in mid-query as 08P01); serialization failure
            // and deadlock; out of connections, memory or disk;
            // system errors of the server.
            Some("08" | "40" | "53" | "58") => Class::Retryable,
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
}

impl StoreError {
    pub(crate) fn class(&self) -> Class {
        match self {
            Self::Database { sqlstate, .. } => classify(sqlstate),
            Self::Connect {
                sqlstate: Some(code), ..
            } => classify(code),
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

    pub(crate) fn is_retryable(&self) -> bool {
        self.class() == Class::Retryable
    }

    /// Whether a call is refused for what it holds, for good: neither its token nor the store is to blame.
    pub(crate) fn refuses_content(&self) -> bool {
        self.class() == Class::Permanent && !matches!(self, Self::Closed | Self::Refused(_))
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
            Self::Database { sqlstate, .. } if sqlstate.starts_with("08") => true,
            Self::Database { sqlstate, .. } => matches!(
                sqlstate.as_str(),
                "0A000" | "26000" | "42P05" | "25006" | "25P03" | "25P04" | "57P01" | "57P02" | "57P03" | "57P05"
            ),
            _ => false,
        }
    }

    /// As the framework sees it.
    pub(crate) fn into_provider_error(self, operation: &str) -> ProviderError {
        if self.is_retryable() {
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
            "08000", "08001", "08003", "08006", "08007", "08P01", "0A000", "25006", "25P03", "25P04", "26000", "40001",
            "40002", "40003", "40P01", "42P05", "53000", "53100", "53200", "53300", "53400", "55006", "55P03", "57014",
            "57P01", "57P02", "57P03", "57P05", "58000", "58030",
        ];
        let permanent = [
            "22001", "22003", "22021", "22P02", "22P05", "23502", "23505", "23514", "28000", "28P01", "3D000", "3F000",
            "42501", "42601", "42703", "42883", "42P01", "54000", "54001", "P0001", "XX000", "XX001",
        ];
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
