//! What can go wrong between us and a file, and whether trying again can help: one table, one place.
//!
//! Invariant: errors are judged by SQLite's result code and by kind, never by their text.

use duroxide::providers::ProviderError;
use rusqlite::ffi;

use crate::item::ItemError;
use crate::refusal::Refusal;
use crate::token::InvalidToken;

/// Whether the same call may succeed later, and whom a failure concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// It passes by itself: the batch is repeated.
    Retryable,
    /// The file or its device is not as it must be, which an administrator can mend: the batch is kept and repeated, and
    /// nothing is claimed meanwhile.
    Trouble,
    /// The file that was opened is not there any more: the whole batch fails.
    Broken,
    /// This one operation cannot succeed; others may.
    Permanent,
}

/// Judges an extended result code. Codes: <https://sqlite.org/rescode.html>. Our statements are fixed and tested, so one
/// that does not fit (`SQLITE_ERROR`: no such table or column) says that the file's schema is not what it must be.
pub(crate) fn classify(extended: i32) -> Class {
    match extended {
        // The file was moved or deleted underneath.
        ffi::SQLITE_READONLY_DBMOVED => Class::Broken,
        code => match code & 0xff {
            // Somebody else writes; no memory; recovery under way.
            ffi::SQLITE_BUSY
            | ffi::SQLITE_LOCKED
            | ffi::SQLITE_NOMEM
            | ffi::SQLITE_INTERRUPT
            | ffi::SQLITE_PROTOCOL
            | ffi::SQLITE_SCHEMA => Class::Retryable,
            // No space; the device failed; no file handle; rights; damage; a schema that was changed.
            ffi::SQLITE_FULL
            | ffi::SQLITE_IOERR
            | ffi::SQLITE_CANTOPEN
            | ffi::SQLITE_READONLY
            | ffi::SQLITE_PERM
            | ffi::SQLITE_AUTH
            | ffi::SQLITE_CORRUPT
            | ffi::SQLITE_NOTADB
            | ffi::SQLITE_ERROR => Class::Trouble,
            _ => Class::Permanent,
        },
    }
}

/// Any failure of a call.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("{message} (SQLite code {code})")]
    Sqlite { code: i32, message: String },
    /// The file that was opened is no longer at its path.
    #[error("{0}")]
    Gone(String),
    #[error("the provider is closed")]
    Closed,
    #[error("the store was opened only to be looked at")]
    ReadOnly,
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Item(#[from] ItemError),
    #[error("unexpected content: {0}")]
    Decode(String),
    #[error("{0}")]
    Rejected(String),
}

impl StoreError {
    pub(crate) fn class(&self) -> Class {
        match self {
            Self::Sqlite { code, .. } => classify(*code),
            Self::Gone(_) => Class::Broken,
            Self::Closed | Self::ReadOnly | Self::Refused(_) | Self::Item(_) | Self::Decode(_) | Self::Rejected(_) => {
                Class::Permanent
            }
        }
    }

    /// It passes by itself.
    pub(crate) fn is_retryable(&self) -> bool {
        self.class() == Class::Retryable
    }

    /// The volume is full.
    pub(crate) fn is_no_space(&self) -> bool {
        matches!(self, Self::Sqlite { code, .. } if code & 0xff == ffi::SQLITE_FULL)
    }

    /// The operation itself is not at fault: the same call may succeed later.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self.class(), Class::Retryable | Class::Trouble)
    }

    /// It may concern one statement only, and so one operation.
    pub(crate) fn may_be_one(&self) -> bool {
        match self {
            Self::Sqlite { code, .. } => code & 0xff == ffi::SQLITE_ERROR || self.class() == Class::Permanent,
            _ => self.class() == Class::Permanent,
        }
    }

    /// Damage, which a read need not wait for: it is not mended under a process that has the file open.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Sqlite { code, .. } if matches!(code & 0xff, ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB))
    }

    /// An answer, given before anything was written, rather than trouble.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Item(_) | Self::Rejected(_))
    }

    /// Whether a call is refused for what it holds, for good: neither its token nor the file is to blame.
    pub(crate) fn refuses_content(&self) -> bool {
        self.class() == Class::Permanent && !matches!(self, Self::Closed | Self::Refused(_))
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

/// The error that a test wants to see; by name, as SQLite's documentation has it.
pub(crate) fn injected(fault: &crate::fault::Fault) -> StoreError {
    use crate::fault::Fault;
    let code = match fault {
        Fault::Error("SQLITE_FULL") => ffi::SQLITE_FULL,
        Fault::Error("SQLITE_BUSY") => ffi::SQLITE_BUSY,
        Fault::Error("SQLITE_READONLY") => ffi::SQLITE_READONLY,
        Fault::Error("SQLITE_CORRUPT") => ffi::SQLITE_CORRUPT,
        Fault::Error(_) | Fault::Cut => ffi::SQLITE_IOERR,
    };
    StoreError::Sqlite {
        code,
        message: "injected".to_owned(),
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(e, text) => Self::Sqlite {
                code: e.extended_code,
                message: text.unwrap_or_else(|| e.to_string()),
            },
            rusqlite::Error::SqlInputError { error, msg, .. } => Self::Sqlite {
                code: error.extended_code,
                message: msg,
            },
            other => Self::Decode(other.to_string()),
        }
    }
}

impl From<InvalidToken> for StoreError {
    fn from(_: InvalidToken) -> Self {
        Refusal::InvalidToken.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden: a change here changes what callers are told, and must be meant.
    #[test]
    fn the_table_of_result_codes() {
        let retryable = [
            ffi::SQLITE_BUSY,
            ffi::SQLITE_BUSY_SNAPSHOT,
            ffi::SQLITE_LOCKED,
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_INTERRUPT,
            ffi::SQLITE_PROTOCOL,
            ffi::SQLITE_SCHEMA,
        ];
        let trouble = [
            ffi::SQLITE_ERROR,
            ffi::SQLITE_IOERR,
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_IOERR_WRITE,
            ffi::SQLITE_IOERR_CORRUPTFS,
            ffi::SQLITE_FULL,
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_READONLY_DIRECTORY,
            ffi::SQLITE_CORRUPT,
            ffi::SQLITE_CORRUPT_INDEX,
            ffi::SQLITE_NOTADB,
            ffi::SQLITE_PERM,
            ffi::SQLITE_AUTH,
        ];
        let broken = [ffi::SQLITE_READONLY_DBMOVED];
        let permanent = [
            ffi::SQLITE_CONSTRAINT,
            ffi::SQLITE_CONSTRAINT_UNIQUE,
            ffi::SQLITE_TOOBIG,
            ffi::SQLITE_MISMATCH,
            ffi::SQLITE_MISUSE,
            ffi::SQLITE_RANGE,
        ];
        for code in trouble {
            assert_eq!(classify(code), Class::Trouble, "{code}");
        }
        for code in retryable {
            assert_eq!(classify(code), Class::Retryable, "{code}");
        }
        for code in broken {
            assert_eq!(classify(code), Class::Broken, "{code}");
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
    }
}
