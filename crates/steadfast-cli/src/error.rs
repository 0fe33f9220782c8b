//! Everything that can end a command, and the exit code that follows.
//!
//! Invariant: the text of an error is one line, whatever the server or the system answered.

use std::{io, path::PathBuf};

use duroxide::{ClientError, providers::ProviderError};
use steadfast::{
    embedded,
    feed::FeedError,
    postgres::{OpenError, OpenErrorKind},
    transfer::CopyError,
};

/// The exit codes, as the help lists them.
pub(crate) mod exit {
    /// Done.
    pub(crate) const OK: u8 = 0;
    /// The operation failed, or was refused.
    pub(crate) const FAILED: u8 = 1;
    /// The arguments are wrong.
    pub(crate) const USAGE: u8 = 2;
    /// The server or the file cannot be reached.
    pub(crate) const UNREACHABLE: u8 = 3;
    /// The server refused the user or the password, or the role lacks rights.
    pub(crate) const AUTHENTICATION: u8 = 4;
    /// The database, the schema or the file is missing, of another version, or somebody else's.
    pub(crate) const SCHEMA: u8 = 5;
    /// There is no such instance or execution.
    pub(crate) const NOT_FOUND: u8 = 6;
    /// Ctrl-C, as a shell tells it.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// Neither an option nor the variable says where the store is.
    #[error("no store given: use --database-url (or set DATABASE_URL, or PGHOST or PGDATABASE), or --file")]
    NoStore,
    /// Arguments that the parser could not judge.
    #[error("{0}")]
    Usage(String),
    /// The provider could not be opened.
    #[error("{}{}", one_line(.0), hint(.0.kind()))]
    Open(#[from] OpenError),
    /// The schema or file is not as this version installs it; the findings were printed.
    #[error("{place} is not as this version installs it: {findings}{}", if *.mendable { " (to put back what is Steadfast's: steadfast schema install --repair)" } else { "" })]
    NotAsInstalled {
        /// Which.
        place: String,
        /// How many findings.
        findings: String,
        /// Whether a repair may help.
        mendable: bool,
    },
    /// There is no such file.
    #[error("{}: the file does not exist", .0.display())]
    NoFile(PathBuf),
    /// Nothing is in the file.
    #[error("{}: the file is empty: there is no store in it", .0.display())]
    EmptyFile(PathBuf),
    /// The file could not be opened.
    #[error("{}", one_line(.0))]
    OpenFile(#[from] embedded::OpenError),
    /// An operation of the provider failed.
    #[error("{}", one_line(.0))]
    Provider(#[from] ProviderError),
    /// A store could not be carried elsewhere.
    #[error("{}", one_line(.0))]
    Copy(#[from] CopyError),
    /// An operation of duroxide's client failed or was refused.
    #[error("{}", one_line(.0))]
    Client(#[from] ClientError),
    /// The change feed cannot be read, or not from there.
    #[error("{}", one_line(.0))]
    Feed(#[from] FeedError),
    /// There is no such instance.
    #[error("no instance {0:?} in {1}")]
    NoInstance(String, String),
    /// The instance exists, the execution does not.
    #[error("instance {0:?} has no execution {1}")]
    NoExecution(String, u64),
    /// The user has had enough.
    #[error("interrupted")]
    Interrupted,
    /// The command makes no sense in the state that things are in.
    #[error("{0}")]
    Refused(String),
    /// A file, process or stream failed us.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The given folder or file is not usable.
    #[error("{path}: {reason}", path = path.display())]
    Path {
        /// Which one.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Standard output is closed or full.
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
}

impl CliError {
    /// An [`Io`](Self::Io) error.
    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            action: action.into(),
            source,
        }
    }

    /// For `map_err`: the same.
    pub(crate) fn while_trying(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NoStore | Self::Usage(_) | Self::Path { .. } => exit::USAGE,
            Self::Open(error) => match error.kind() {
                OpenErrorKind::Unreachable => exit::UNREACHABLE,
                OpenErrorKind::Authentication | OpenErrorKind::MissingRights => exit::AUTHENTICATION,
                OpenErrorKind::DatabaseMissing
                | OpenErrorKind::SchemaMissing
                | OpenErrorKind::SchemaOutdated
                | OpenErrorKind::SchemaTooNew
                | OpenErrorKind::SchemaForeign
                | OpenErrorKind::SchemaDamaged => exit::SCHEMA,
                OpenErrorKind::InvalidName | OpenErrorKind::Configuration => exit::USAGE,
                _ => exit::FAILED,
            },
            Self::NoFile(_) | Self::EmptyFile(_) | Self::NotAsInstalled { .. } => exit::SCHEMA,
            Self::OpenFile(error) => match error.kind() {
                embedded::OpenErrorKind::Unreachable => exit::UNREACHABLE,
                embedded::OpenErrorKind::Missing
                | embedded::OpenErrorKind::NotAFile
                | embedded::OpenErrorKind::StrangersLog
                | embedded::OpenErrorKind::LogMissing
                | embedded::OpenErrorKind::Outdated
                | embedded::OpenErrorKind::Foreign
                | embedded::OpenErrorKind::Corrupt
                | embedded::OpenErrorKind::TooNew
                | embedded::OpenErrorKind::Changed => exit::SCHEMA,
                embedded::OpenErrorKind::Configuration => exit::USAGE,
                _ => exit::FAILED,
            },
            Self::NoInstance(..) | Self::NoExecution(..) | Self::Client(ClientError::InstanceNotFound { .. }) => {
                exit::NOT_FOUND
            }
            Self::Interrupted => exit::INTERRUPTED,
            _ => exit::FAILED,
        }
    }

    /// Whether this only says that there is no store yet where one could be.
    pub(crate) fn says_nothing_is_there(&self) -> bool {
        match self {
            Self::NoFile(_) | Self::EmptyFile(_) => true,
            Self::Open(error) => error.kind() == OpenErrorKind::SchemaMissing,
            _ => false,
        }
    }

    /// Whether this only says that the reader of our output has gone.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// What to do about it, where one command helps.
fn hint(kind: OpenErrorKind) -> &'static str {
    match kind {
        OpenErrorKind::SchemaMissing | OpenErrorKind::SchemaOutdated => " (run: steadfast schema install)",
        OpenErrorKind::SchemaDamaged => " (see: steadfast schema verify)",
        _ => "",
    }
}

/// The text of a foreign error, in one line.
pub(crate) fn one_line(error: &impl ToString) -> String {
    let text = error.to_string();
    let parts: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_text_becomes_one_line() {
        assert_eq!(one_line(&"a\n\n  b\r\nc"), "a; b; c");
        let error = CliError::from(ProviderError::permanent("read", "first\nDETAIL: second"));
        assert_eq!(error.to_string(), "read: first; DETAIL: second");
        assert_eq!(error.exit_code(), exit::FAILED);
    }

    #[test]
    fn what_is_not_there_has_its_own_code() {
        let missing = ClientError::InstanceNotFound {
            instance_id: "a".to_owned(),
        };
        assert_eq!(CliError::from(missing).exit_code(), exit::NOT_FOUND);
        assert_eq!(CliError::NoExecution("a".to_owned(), 2).exit_code(), exit::NOT_FOUND);
        assert_eq!(CliError::NoStore.exit_code(), exit::USAGE);
    }

    #[test]
    fn only_a_gone_reader_is_a_broken_pipe() {
        assert!(CliError::Output(io::ErrorKind::BrokenPipe.into()).is_broken_pipe());
        assert!(!CliError::Output(io::ErrorKind::StorageFull.into()).is_broken_pipe());
        assert!(!CliError::io("x", io::ErrorKind::BrokenPipe.into()).is_broken_pipe());
    }
}
