//! Opening a provider: settings, checks, schema.
//!
//! Invariant: what cannot work is refused here, by name, before anything has happened to the file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::connection::Place;
use super::error::StoreError;
use super::feed::FeedSettings;
use super::provider::EmbeddedProvider;
use super::store::Store;
use crate::fault::Faults;
use crate::feed::{Level, Retention};
use crate::limit::{DEFAULT_HISTORY_LIMIT, DEFAULT_PAYLOAD_LIMIT, HistoryLimit, PayloadLimit};

/// What an acknowledged operation survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Everything but the loss of the disk: each commit is forced to it before anybody is told. Power loss and a crash of the
    /// operating system lose nothing that was acknowledged.
    #[default]
    Full,
    /// The end of the process, however sudden, but not the end of the machine: power loss or a crash of the operating
    /// system may lose the operations of the last seconds to minutes, although they were acknowledged. The file stays
    /// sound, as it was at an earlier moment. For tests and for work that can be repeated.
    Normal,
}

/// How fetches wait for work.
#[derive(Debug, Clone)]
pub struct LongPoll {
    /// `false`: a fetch returns at once, whatever its poll timeout.
    pub enabled: bool,
    /// While somebody waits, so often a look (a few microseconds) tells whether another process or provider has written to
    /// the file. Bounds how long work that is made elsewhere goes unseen. Default 10 ms.
    pub peer_poll_interval: Duration,
    /// An idle file is looked at less and less often, down to this. Default 50 ms.
    pub slowest_peer_poll_interval: Duration,
}

impl Default for LongPoll {
    fn default() -> Self {
        Self {
            enabled: true,
            peer_poll_interval: Duration::from_millis(10),
            slowest_peer_poll_interval: Duration::from_millis(50),
        }
    }
}

impl LongPoll {
    /// Short poll: every fetch returns at once.
    #[must_use]
    pub fn disabled() -> Self {
        Self {
            enabled: false,
            ..Self::default()
        }
    }
}

/// What kind of trouble kept a provider from opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenErrorKind {
    /// The file cannot be opened or made there.
    Unreachable,
    /// The file, or the folder that its journal must be written to, is read-only.
    ReadOnly,
    /// There is no file, or it is empty, and it was not to be made.
    Missing,
    /// A folder, a pipe, a socket, a device, or a symbolic link to nothing.
    NotAFile,
    /// The log beside the file belongs to another state of the store: it would undo what was restored. Nothing was
    /// touched.
    StrangersLog,
    /// The file is a copy of an open store, taken without its log.
    LogMissing,
    /// The file's schema is an older version's, and was not to be changed.
    Outdated,
    /// The file is not a Steadfast store. It was not touched.
    Foreign,
    /// The file is a Steadfast store and damaged.
    Corrupt,
    /// The file was made or upgraded by a newer Steadfast. It was not touched.
    TooNew,
    /// The file's schema was changed by hand.
    Changed,
    /// Somebody else holds the file for too long.
    Busy,
    /// The settings cannot work, or SQLite refused one of them.
    Configuration,
    /// SQLite refused something else.
    Database,
}

/// Why a provider could not be opened.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct OpenError {
    kind: OpenErrorKind,
    message: String,
}

impl OpenError {
    pub(crate) fn new(kind: OpenErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// What kind of trouble it was.
    #[must_use]
    pub fn kind(&self) -> OpenErrorKind {
        self.kind
    }

    /// The same, saying which file.
    pub(crate) fn at(self, place: &Place) -> Self {
        Self {
            message: format!("{}: {}", place.describe(), self.message),
            ..self
        }
    }
}

impl From<StoreError> for OpenError {
    fn from(error: StoreError) -> Self {
        use rusqlite::ffi;
        let kind = match &error {
            StoreError::Sqlite { code, .. } => match *code & 0xff {
                ffi::SQLITE_CANTOPEN | ffi::SQLITE_PERM => OpenErrorKind::Unreachable,
                ffi::SQLITE_READONLY => OpenErrorKind::ReadOnly,
                ffi::SQLITE_NOTADB | ffi::SQLITE_CORRUPT => OpenErrorKind::Corrupt,
                ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => OpenErrorKind::Busy,
                _ => OpenErrorKind::Database,
            },
            _ => OpenErrorKind::Database,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        StoreError::from(error).into()
    }
}

/// Everything that can be chosen.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) long_poll: LongPoll,
    pub(crate) durability: Durability,
    pub(crate) history_cache_bytes: usize,
    pub(crate) payload_limit: PayloadLimit,
    pub(crate) history_limit: HistoryLimit,
    pub(crate) readers: usize,
    pub(crate) retry_timeout: Duration,
    pub(crate) trouble_timeout: Duration,
    pub(crate) feed: FeedSettings,
    pub(crate) faults: Faults,
    pub(crate) accepts_changes: bool,
}

/// Settings of a provider to be opened. Made by [`EmbeddedProvider::builder`].
#[must_use = "a builder does nothing until `open` is awaited"]
pub struct Builder {
    place: Place,
    payload_limit: usize,
    history_limit: usize,
    settings: Settings,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("place", &self.place.describe())
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new(path: &Path) -> Self {
        // Made absolute, so that a later change of the working folder does not matter.
        let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
        Self::over(Place::File(path))
    }

    pub(crate) fn over(place: Place) -> Self {
        Self {
            place,
            payload_limit: DEFAULT_PAYLOAD_LIMIT,
            history_limit: DEFAULT_HISTORY_LIMIT,
            settings: Settings {
                payload_limit: PayloadLimit::default(),
                history_limit: HistoryLimit::new(DEFAULT_HISTORY_LIMIT, PayloadLimit::default()),
                long_poll: LongPoll::default(),
                durability: Durability::default(),
                history_cache_bytes: 64 << 20,
                readers: 2,
                retry_timeout: Duration::from_secs(30),
                trouble_timeout: Duration::from_secs(3600),
                feed: FeedSettings::default(),
                faults: Faults::none(),
                accepts_changes: false,
            },
        }
    }

    /// Opens a file whose schema is not as this version makes it, and only says so in the log: for emergencies, and for people
    /// who attach triggers of their own and answer for them.
    pub fn accept_changed_schema(mut self, yes: bool) -> Self {
        self.settings.accepts_changes = yes;
        self
    }

    pub(super) fn into_place(self) -> Place {
        self.place
    }

    /// How fetches wait for work.
    pub fn long_poll(mut self, long_poll: LongPoll) -> Self {
        self.settings.long_poll = long_poll;
        self
    }

    /// What an acknowledged operation survives.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.settings.durability = durability;
        self
    }

    /// Memory for histories that this process has seen. Default 64 MiB; 0 keeps none.
    pub fn history_cache_bytes(mut self, bytes: usize) -> Self {
        self.settings.history_cache_bytes = bytes;
        self
    }

    /// Largest payload in bytes, as it is stored (JSON): an input, a result, the data of an event. Default 16 MiB
    /// ([`DEFAULT_PAYLOAD_LIMIT`](crate::DEFAULT_PAYLOAD_LIMIT)), at most 128 MiB
    /// ([`MAX_PAYLOAD_LIMIT`](crate::MAX_PAYLOAD_LIMIT)). A larger one is refused when it is sent; one that an activity returns
    /// fails the activity, one that an orchestration makes fails the orchestration, by name. Processes of one store should
    /// agree: what was stored under a higher limit is not handed out, and its instance fails.
    pub fn payload_limit(mut self, bytes: usize) -> Self {
        self.payload_limit = bytes;
        self
    }

    /// Largest history in bytes, as it is stored, that this provider hands out for a turn. An instance whose history is larger
    /// fails, by name, after the attempts that the runtime gives it. Default 256 MiB
    /// ([`DEFAULT_HISTORY_LIMIT`](crate::DEFAULT_HISTORY_LIMIT)), never less than two payloads. Processes of one store should
    /// agree. Histories of up to four times the limit can be read.
    ///
    /// While it replays, a worker holds a history about six times in each slot that has one: in 512 MiB, two slots can have
    /// histories of some 32 MiB.
    pub fn history_limit(mut self, bytes: usize) -> Self {
        self.history_limit = bytes;
        self
    }

    /// Connections (each with a thread of its own) that answer reads. Default 2.
    pub fn readers(mut self, connections: usize) -> Self {
        self.settings.readers = connections.max(1);
        self
    }

    /// How long an operation is repeated through what passes by itself (a file that another process holds) before its
    /// caller sees an error. Default 30 s. Acks, abandons and renewals are repeated for [`Self::trouble_timeout`].
    pub fn retry_timeout(mut self, timeout: Duration) -> Self {
        self.settings.retry_timeout = timeout;
        self
    }

    /// How long a call waits while the file is not as it must be (a full disk, a device that fails, a read-only place, a
    /// missing table) before its caller sees an error, which is retryable and names the trouble. Default one hour.
    pub fn trouble_timeout(mut self, timeout: Duration) -> Self {
        self.settings.trouble_timeout = timeout;
        self
    }

    /// How much of what it does this provider records in the change feed. Default [`Level::Lifecycle`]; providers of one
    /// store should agree, as an observer sees only what was recorded.
    pub fn feed(mut self, level: Level) -> Self {
        self.settings.feed.level = level;
        self
    }

    /// How much of the change feed is kept, by this provider's doing.
    pub fn feed_retention(mut self, retention: Retention) -> Self {
        self.settings.feed.retention = retention;
        self
    }

    /// Points at which this provider fails on demand.
    #[cfg(feature = "fault-injection")]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.settings.faults = faults;
        self
    }

    /// Opens the file only to look into it: nothing is written or made, not even beside it, and no permission to write is
    /// needed. Every method that writes, or fetches work, fails. What others commit meanwhile is seen.
    ///
    /// A file that nobody has open is read without locks; a log that was left beside it is folded in memory (as large as
    /// the file).
    ///
    /// # Errors
    /// [`OpenError`], also where there is no store.
    pub async fn open_read_only(self) -> Result<EmbeddedProvider, OpenError> {
        let Self { place, settings, .. } = self;
        let opened = tokio::task::spawn_blocking(move || {
            let Place::File(path) = &place else {
                let text = "a store in memory is its provider's alone";
                return Err(OpenError::new(OpenErrorKind::Configuration, text));
            };
            Store::look_at(path, settings).map_err(|e| e.at(&place))
        });
        match opened.await {
            Ok(store) => Ok(EmbeddedProvider::over(store?)),
            Err(error) => Err(OpenError::new(OpenErrorKind::Database, error.to_string())),
        }
    }

    /// Opens the file, making it (for its owner alone: mode 0600) where it is missing, and brings its schema to what is needed.
    ///
    /// # Errors
    /// [`OpenError`]; its [`kind`](OpenError::kind) says what to do about it. A file that is refused was not changed.
    pub async fn open(self) -> Result<EmbeddedProvider, OpenError> {
        let Self {
            place,
            payload_limit,
            history_limit,
            mut settings,
        } = self;
        settings.payload_limit =
            PayloadLimit::new(payload_limit).map_err(|why| OpenError::new(OpenErrorKind::Configuration, why))?;
        settings.history_limit = HistoryLimit::new(history_limit, settings.payload_limit);
        let opened =
            tokio::task::spawn_blocking(move || Store::open(place.clone(), settings).map_err(|e| e.at(&place)));
        match opened.await {
            Ok(store) => Ok(EmbeddedProvider::over(store?)),
            Err(error) => Err(OpenError::new(OpenErrorKind::Database, error.to_string())),
        }
    }
}
