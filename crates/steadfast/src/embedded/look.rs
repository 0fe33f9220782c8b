//! A look at a file that changes nothing, makes nothing, and needs no permission to write.
//!
//! Invariant: a file that somebody has open is read through SQLite's shared memory, as any reader does. A file that nobody
//! has open is read without locks, and what was read counts only if neither it nor its log changed meanwhile.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OpenFlags};

use super::builder::{OpenError, OpenErrorKind};
use super::connection::{self, require_ours};
use super::error::StoreError;
use super::log;
use super::presence::{Presence, beside};

/// A question is asked so often before it counts as trouble that the file never keeps still.
const ATTEMPTS: u32 = 5;
/// A log is folded in memory up to this size of the file.
const LARGEST_IMAGE: u64 = 4 << 30;

/// What a file looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outside {
    identity: (u64, u64),
    length: u64,
    written_at: (i64, i64),
}

impl Outside {
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            identity: (meta.dev(), meta.ino()),
            length: meta.len(),
            written_at: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

/// The same of a file and its log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    file: Option<Outside>,
    log: Option<Outside>,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        Self {
            file: Outside::of(path),
            log: Outside::of(&beside(path, "-wal")),
        }
    }

    fn has_log(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.length > 0)
    }
}

/// An open look. The connection is closed before the presence ends.
struct Open {
    connection: Connection,
    /// `None`: others have it open, and SQLite's locks hold.
    still: Option<Stamp>,
    /// SQLite's number for what was seen last, where others write.
    version: i64,
    presence: Presence,
}

/// A file that is only looked at.
pub(crate) struct Look {
    path: PathBuf,
    open: Mutex<Open>,
    /// Whether the file's log may be missing.
    pub(crate) may_lack_its_log: bool,
}

impl Look {
    pub(crate) fn at(path: &Path) -> Result<Self, OpenError> {
        let (open, may_lack_its_log) = open(path)?;
        Ok(Self {
            path: path.to_owned(),
            open: Mutex::new(open),
            may_lack_its_log,
        })
    }

    /// Another process that has the file open.
    pub(crate) fn other_process(&self) -> std::io::Result<Option<i32>> {
        self.lock().presence.other_process()
    }

    /// For opening: asks once.
    pub(crate) fn open_with<T>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, OpenError>,
    ) -> Result<T, OpenError> {
        question(&self.lock().connection)
    }

    /// Asks within one snapshot, again where the file moved on meanwhile.
    pub(crate) fn ask<T>(&self, question: impl Fn(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut open = self.lock();
        let mut attempt = 0;
        loop {
            self.freshen(&mut open)?;
            let answer = within_snapshot(&open.connection, &question);
            attempt += 1;
            if open.is_fresh()? || attempt >= ATTEMPTS {
                return answer;
            }
        }
    }

    /// Whether somebody has committed since the last time that this was asked.
    pub(crate) fn has_changed(&self) -> Result<bool, StoreError> {
        let mut open = self.lock();
        if open.still.is_some() {
            let changed = !open.is_fresh()?;
            self.freshen(&mut open)?;
            return Ok(changed);
        }
        let version = open
            .connection
            .prepare_cached("PRAGMA data_version")?
            .query_row([], |row| row.get(0))?;
        Ok(std::mem::replace(&mut open.version, version) != version)
    }

    fn freshen(&self, opened: &mut Open) -> Result<(), StoreError> {
        if !opened.is_fresh()? {
            *opened = open(&self.path).map_err(|error| StoreError::Gone(error.to_string()))?.0;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Whether what the connection reads is what is in the file.
    fn is_fresh(&self) -> Result<bool, StoreError> {
        let Some(stamp) = &self.still else { return Ok(true) };
        let alone = self
            .presence
            .is_alone()
            .map_err(|error| StoreError::Gone(error.to_string()))?;
        Ok(alone && *stamp == Stamp::of(self.presence.path()))
    }
}

fn within_snapshot<T>(
    connection: &Connection,
    question: impl Fn(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    connection.execute_batch("BEGIN")?;
    let answer = question(connection);
    // Nothing was written: however it ends, it only ends.
    let ended = connection.execute_batch("COMMIT");
    if ended.is_err() && !connection.is_autocommit() {
        let _ = connection.execute_batch("ROLLBACK");
    }
    answer
}

fn open(path: &Path) -> Result<(Open, bool), OpenError> {
    let unreachable = |error: std::io::Error| OpenError::new(OpenErrorKind::Unreachable, error.to_string());
    for _ in 0..ATTEMPTS {
        let Some(mut presence) = Presence::of(path)? else {
            log::refuse_orphan(path)?;
            return Err(OpenError::new(OpenErrorKind::Missing, "there is no such file"));
        };
        require_ours(&presence)?;
        let may_lack_its_log = log::check(&presence)?;
        let stamp = Stamp::of(presence.path());
        let alone = presence.is_alone().map_err(unreachable)?;
        let connection = if !alone {
            presence.enter();
            connection::open_reader(presence.path(), "")?
        } else if stamp.has_log() {
            folded(&presence, &stamp)?
        } else {
            connection::open_reader(presence.path(), "&immutable=1")?
        };
        let open = Open {
            connection,
            still: alone.then_some(stamp),
            version: 0,
            presence,
        };
        if open.is_fresh()? {
            return Ok((open, may_lack_its_log));
        }
    }
    Err(OpenError::new(OpenErrorKind::Busy, "the file does not keep still"))
}

/// A file that was left with its log, in memory.
fn folded(presence: &Presence, stamp: &Stamp) -> Result<Connection, OpenError> {
    let unreachable = |error: std::io::Error| OpenError::new(OpenErrorKind::Unreachable, error.to_string());
    let size: u64 = [&stamp.file, &stamp.log]
        .into_iter()
        .flatten()
        .map(|part| part.length)
        .sum();
    if size > LARGEST_IMAGE {
        let text =
            "a log was left beside this file, which is too large to be looked at so; open it with a provider once";
        return Err(OpenError::new(OpenErrorKind::Busy, text));
    }
    let image = log::image(presence).map_err(unreachable)?;
    let mut connection = Connection::open_in_memory()?;
    connection.deserialize_read_exact(rusqlite::MAIN_DB, image.as_slice(), image.len(), true)?;
    connection::set(&mut connection)?;
    Ok(connection)
}

/// A file's name as SQLite takes it in a URI.
pub(crate) fn uri(path: &Path, options: &str) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            uri.push_str(&format!("%{byte:02x}"));
        }
    }
    format!("{uri}?mode=ro{options}")
}

/// How a connection that only reads is opened.
pub(crate) fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI
}
