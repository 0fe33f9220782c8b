//! Everything that can go wrong, as one enum; its invariant: each message says what to do or where to look next.

use std::{io, path::PathBuf};

/// Why there is no cluster, or why it did not do as it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No server programs were found, and they could not be installed here.
    #[error(
        "no PostgreSQL server programs (version {oldest} to {newest}) found in $POSTGRES_BIN, /usr/lib/postgresql/*/bin \
         or PATH. Install the package `postgresql` (Debian, Ubuntu: `apt-get install postgresql`), `postgresql-server` \
         (Fedora) or `postgresql@17` (Homebrew), or set POSTGRES_BIN to the folder that holds initdb and postgres",
        oldest = crate::OLDEST_MAJOR,
        newest = crate::NEWEST_MAJOR
    )]
    NotFound,

    /// A folder was named as the place of the server programs, and it is not.
    #[error("{dir} is no folder of PostgreSQL server programs: {reason}", dir = dir.display())]
    NotBinaries {
        /// The folder.
        dir: PathBuf,
        /// What is missing, or what `postgres --version` answered.
        reason: String,
    },

    /// Installing the Debian package failed.
    #[error("could not install a package by apt-get: {step} failed: {detail}")]
    Install {
        /// The command.
        step: &'static str,
        /// The end of its output.
        detail: String,
    },

    /// There is no PgBouncer, and it could not be installed here.
    #[error("no pgbouncer found in PATH or /usr/sbin: install the package `pgbouncer`")]
    PoolerNotFound,

    /// PgBouncer did not start.
    #[error("pgbouncer did not start; the end of its log:\n{0}")]
    Pooler(String),

    /// PostgreSQL refuses to run as root, and no other user was found.
    #[error("PostgreSQL does not run as root, and neither the user `postgres` nor `nobody` exists: create one")]
    NoServerUser,

    /// A setting's name is not one that a configuration file can hold.
    #[error("{0:?} is not the name of a PostgreSQL setting")]
    SettingName(String),

    /// A file, folder or process operation failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, with its path.
        action: String,
        /// The system's answer.
        source: io::Error,
    },

    /// `initdb` failed.
    #[error("initdb failed: {0}")]
    Initdb(String),

    /// The server ended while it was starting.
    #[error("the PostgreSQL server ended while starting ({status}); the end of its log:\n{log}")]
    Startup {
        /// How it ended.
        status: String,
        /// The end of its log.
        log: String,
    },

    /// The server was not ready in time.
    #[error("the PostgreSQL server was not ready within {seconds} s; the end of its log:\n{log}")]
    StartupTimeout {
        /// The time it had.
        seconds: u64,
        /// The end of its log.
        log: String,
    },

    /// The server did not end in time, not even when killed.
    #[error("the PostgreSQL server with process id {0} does not end")]
    DoesNotEnd(u32),
}

impl Error {
    /// For `map_err`: an [`Error::Io`] that tells what was tried.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
