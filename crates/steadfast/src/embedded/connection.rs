//! Connections to the file: opened with settings that are read back, and watched for the file being taken away.
//!
//! Invariant: a file that is not ours, or whose log is not its own, is recognised before SQLite opens it and might change
//! it.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::builder::{Durability, OpenError, OpenErrorKind};
use super::error::StoreError;
use super::presence::{Presence, beside};
use super::{log, look};

/// Marks our files (bytes 68 to 71 of the header): "SfEm".
pub(crate) const APPLICATION_ID: i32 = 0x5366_456d;
/// Oldest SQLite that is free of known faults of the write-ahead log.
const OLDEST_SQLITE: i32 = 3_051_003;
/// How long a statement waits for another process before the whole transaction is tried again.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// The log is folded back into the file whenever it has grown by so many pages.
const CHECKPOINT_PAGES: u32 = 4_000;

/// Where a store lives.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    File(PathBuf),
    Memory,
}

impl Place {
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Memory => "memory".to_owned(),
        }
    }
}

/// A connection that writes.
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    /// `None` for a store in memory. To be dropped after the connection.
    pub(crate) presence: Option<Presence>,
    /// Nobody else had the file open.
    pub(crate) alone: bool,
}

/// Opens the connection that writes.
pub(crate) fn open_writer(place: &Place, durability: Durability) -> Result<Opened, OpenError> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        let message = format!("SQLite {} is linked, which is too old", rusqlite::version());
        return Err(OpenError::new(OpenErrorKind::Configuration, message));
    }
    let mut opened = match place {
        Place::Memory => {
            let connection = Connection::open_in_memory()?;
            connection.pragma_update(None, "application_id", APPLICATION_ID)?;
            Opened {
                connection,
                presence: None,
                alone: true,
            }
        }
        Place::File(path) => open_file(path)?,
    };
    set(&mut opened.connection)?;
    if matches!(place, Place::File(_)) {
        make_durable(&opened.connection, durability)?;
    }
    Ok(opened)
}

fn open_file(path: &Path) -> Result<Opened, OpenError> {
    let vanished = || {
        OpenError::new(
            OpenErrorKind::Unreachable,
            "the file was taken away while it was opened",
        )
    };
    let mut presence = match Presence::of(path)? {
        Some(presence) => presence,
        None => {
            log::refuse_orphan(path)?;
            make(path)?;
            // Looked at again: somebody else may have been faster.
            Presence::of(path)?.ok_or_else(vanished)?
        }
    };
    let is_new = whose(&presence)? == Found::Empty;
    if is_new {
        log::refuse_orphan(presence.path())?;
    }
    if log::check(&presence)? {
        tracing::warn!(target: "steadfast", file = %path.display(),
            "the file was not closed in order and has no log beside it; a copy of an open file without its log lacks the newest work");
    }
    let alone = presence
        .is_alone()
        .map_err(|error| OpenError::new(OpenErrorKind::Unreachable, error.to_string()))?;
    presence.enter();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(wait_a_little))?;
    if connection.is_readonly(rusqlite::MAIN_DB)? {
        return Err(OpenError::new(OpenErrorKind::ReadOnly, "the file is read-only"));
    }
    if is_new {
        // Before the log exists, so that the header in the file itself says whose it is.
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    Ok(Opened {
        connection,
        presence: Some(presence),
        alone,
    })
}

/// Makes a file aside and puts it in place as a whole: a process that dies meanwhile, or a loss of power, leaves no
/// half-made file, whose header would say nothing of its owner.
fn make(path: &Path) -> Result<(), OpenError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!("-new-{}", uuid::Uuid::new_v4().simple()));
    let aside = PathBuf::from(aside);
    let made = begin(&aside).and_then(|()| put_in_place(&aside, path));
    // Gone already where it was renamed.
    let _ = std::fs::remove_file(&aside);
    made
}

/// An empty file of ours, for its owner alone; SQLite gives its companions the same permissions.
fn begin(path: &Path) -> Result<(), OpenError> {
    let made = File::options().write(true).create_new(true).mode(0o600).open(path);
    drop(made.map_err(|e| OpenError::new(OpenErrorKind::Unreachable, e.to_string()))?);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    // The log from the beginning: a file without one can be caught in the midst of a change of its header.
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(())
}

fn put_in_place(aside: &Path, path: &Path) -> Result<(), OpenError> {
    // A link never replaces what somebody else has put there.
    let placed = match std::fs::hard_link(aside, path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        // A file system without links.
        Err(_) => std::fs::rename(aside, path),
        Ok(()) => Ok(()),
    };
    let folder = path.parent().unwrap_or(path);
    placed
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(|e| OpenError::new(OpenErrorKind::Unreachable, e.to_string()))
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// A file without a byte: it is filled where it is, since others may have it open.
    Empty,
    Ours,
}

/// Looks at the header.
fn whose(presence: &Presence) -> Result<Found, OpenError> {
    let foreign = |why: &str| Err(OpenError::new(OpenErrorKind::Foreign, why));
    let header = presence
        .header()
        .map_err(|e| OpenError::new(OpenErrorKind::Unreachable, e.to_string()))?;
    if header.is_empty() {
        return Ok(Found::Empty);
    }
    if !header.starts_with(b"SQLite format 3\0") {
        return foreign("this is not an SQLite file");
    }
    match header.get(68..72) {
        Some(id) if id == APPLICATION_ID.to_be_bytes() => Ok(Found::Ours),
        Some(_) => foreign("this SQLite file is not a Steadfast store"),
        None => Err(OpenError::new(
            OpenErrorKind::Corrupt,
            "the file ends within its header",
        )),
    }
}

/// Settings that every connection has.
pub(crate) fn set(connection: &mut Connection) -> Result<(), OpenError> {
    connection.busy_handler(Some(wait_a_little))?;
    connection.set_prepared_statement_cache_capacity(256);
    // Plans do not depend on values; otherwise some statements are prepared anew whenever one is bound.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // What a file says is not believed: no function with effects from its schema, no writing to its catalogue, no cell
    // that points out of its page.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "cache_size", -65_536)?;
    Ok(())
}

/// Write-ahead log and syncs. What was asked for is read back: SQLite takes an unknown value without a word.
fn make_durable(connection: &Connection, durability: Durability) -> Result<(), OpenError> {
    let refused = |what: &str, is: &str| {
        let message = format!("SQLite did not accept {what}: it is {is}");
        Err(OpenError::new(OpenErrorKind::Configuration, message))
    };
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return refused("journal_mode=wal", &mode);
    }
    let (name, wanted) = match durability {
        Durability::Full => ("full", 2),
        Durability::Normal => ("normal", 1),
    };
    connection.pragma_update(None, "synchronous", name)?;
    let level: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    if level != wanted {
        return refused(&format!("synchronous={name}"), &level.to_string());
    }
    // Where fsync does not reach the platters (macOS), this does; elsewhere it changes nothing.
    for pragma in ["fullfsync", "checkpoint_fullfsync"] {
        connection.pragma_update(None, pragma, durability == Durability::Full)?;
    }
    connection.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT_PAGES, |_| Ok(()))?;
    connection.pragma_update_and_check(None, "journal_size_limit", 64 << 20, |_| Ok(()))?;
    Ok(())
}

/// Refuses what is not a store of ours, without touching it.
pub(crate) fn require_ours(presence: &Presence) -> Result<(), OpenError> {
    match whose(presence)? {
        Found::Ours => Ok(()),
        Found::Empty => Err(OpenError::new(
            OpenErrorKind::Missing,
            "the file is empty: there is no store in it",
        )),
    }
}

/// Opens a connection that only reads, with options of SQLite's URI. It never folds the log into the file.
pub(crate) fn open_reader(path: &Path, options: &str) -> Result<Connection, OpenError> {
    let mut connection = Connection::open_with_flags(look::uri(path, options), look::flags())?;
    set(&mut connection)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

/// SQLite's own waits grow to a tenth of a second; commits here take a fraction of a millisecond.
fn wait_a_little(turns: i32) -> bool {
    const PAUSE: Duration = Duration::from_micros(500);
    if PAUSE.saturating_mul(turns.unsigned_abs()) >= BUSY_WAIT {
        return false;
    }
    std::thread::sleep(PAUSE);
    true
}

/// Which file is at a path: to notice that it is gone, or another one; and what becomes of its log.
#[derive(Debug)]
pub(crate) struct Witness {
    path: PathBuf,
    seen: (u64, u64),
    log: PathBuf,
    log_seen: Option<(u64, u64)>,
    log_file: Option<File>,
    /// What the log began with: another one whenever it has been begun anew.
    salts: Option<[u8; 8]>,
    /// Bytes of the log when the space left was last looked at.
    measured: u64,
}

/// What has become of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Course {
    /// It was begun anew.
    pub(crate) begun_anew: bool,
    /// There is little more space left than it would take to fold it into the file.
    pub(crate) crowded: bool,
}

impl Witness {
    pub(crate) fn new(path: &Path) -> Result<Self, OpenError> {
        let gone = |error| OpenError::new(OpenErrorKind::Unreachable, format!("{error} after opening"));
        let path = path.canonicalize().map_err(gone)?;
        let seen = identity(&path).map_err(gone)?.0;
        let log = beside(&path, "-wal");
        let log_seen = identity(&log).ok().map(|found| found.0);
        let mut witness = Self {
            path,
            seen,
            log,
            log_seen,
            log_file: None,
            salts: None,
            measured: 0,
        };
        witness.salts = witness.read_salts();
        Ok(witness)
    }

    /// Fails when the file or its log is not the one that was opened: what is written to it would be lost.
    pub(crate) fn check(&mut self) -> Result<Course, StoreError> {
        match identity(&self.path) {
            Ok((found, _)) if found == self.seen => {}
            Ok(_) => return Err(gone(&self.path, "was replaced by another file")),
            Err(error) => return Err(gone(&self.path, &format!("is gone: {error}"))),
        }
        let length = match (identity(&self.log), self.log_seen) {
            (Ok((found, length)), None) => {
                self.log_seen = Some(found);
                length
            }
            (Ok((found, length)), Some(seen)) if found == seen => length,
            (Ok(_), Some(_)) => return Err(gone(&self.log, "was replaced by another file")),
            (Err(_), None) => return Ok(Course::default()),
            (Err(error), Some(_)) => return Err(gone(&self.log, &format!("is gone: {error}"))),
        };
        let salts = self.read_salts();
        let begun_anew = salts.is_some() && std::mem::replace(&mut self.salts, salts) != salts;
        Ok(Course {
            begun_anew,
            crowded: self.is_crowded(length),
        })
    }

    fn read_salts(&mut self) -> Option<[u8; 8]> {
        if self.log_file.is_none() {
            self.log_file = File::open(&self.log).ok();
        }
        let mut salts = [0; 8];
        let read = self.log_file.as_ref()?.read_exact_at(&mut salts, 16);
        read.ok().map(|()| salts)
    }

    /// Looked at whenever the log has grown by some pages, so that it never takes the space that folding it needs.
    fn is_crowded(&mut self, length: u64) -> bool {
        const STEP: u64 = 256 << 10;
        if length < self.measured {
            self.measured = 0;
        }
        if length < self.measured + STEP {
            return false;
        }
        self.measured = length;
        let left = rustix::fs::statvfs(&self.log).map(|volume| volume.f_bavail.saturating_mul(volume.f_frsize));
        left.is_ok_and(|left| left < length + STEP * 2)
    }
}

/// Device, number and length of a file.
fn identity(path: &Path) -> std::io::Result<((u64, u64), u64)> {
    std::fs::metadata(path).map(|m| ((m.dev(), m.ino()), m.len()))
}

fn gone(path: &Path, what: &str) -> StoreError {
    StoreError::Gone(format!("{} {what}; nothing more can be kept in it", path.display()))
}

/// Folds the log into the file and gives its space back, as far as others let us. The file is sound however it ends.
pub(crate) fn fold_log(connection: &Connection) {
    let folded = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    if let Err(error) = folded {
        tracing::debug!(target: "steadfast", %error, "the log could not be folded into the file now");
    }
}

/// Whether closing leaves the log beside the file; otherwise the last one who closes folds and removes it.
pub(crate) fn keep_log(connection: &Connection, keep: bool) {
    if let Err(error) = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep) {
        tracing::debug!(target: "steadfast", %error, "SQLite did not take a setting");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_is_not_believed() {
        let connection = open_writer(&Place::Memory, Durability::Full).unwrap().connection;
        let is = |config| connection.db_config(config).unwrap();
        assert!(is(DbConfig::SQLITE_DBCONFIG_DEFENSIVE) && !is(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        drop(open_writer(&Place::File(path.clone()), Durability::Full).unwrap());
        let connection = open_reader(&path, "").unwrap();
        let is = |config| connection.db_config(config).unwrap();
        assert!(is(DbConfig::SQLITE_DBCONFIG_DEFENSIVE) && !is(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA));
    }
}
