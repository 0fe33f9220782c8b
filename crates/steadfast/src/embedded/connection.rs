//! Connections to the file: opened with settings that are read back, and watched for the file being taken away.
//!
//! Invariant: a file that is not ours is recognised by its header, before SQLite opens it and might change it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::builder::{Durability, OpenError, OpenErrorKind};
use super::error::StoreError;

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

/// Opens the connection that writes.
pub(crate) fn open_writer(place: &Place, durability: Durability) -> Result<Connection, OpenError> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        let message = format!("SQLite {} is linked, which is too old", rusqlite::version());
        return Err(OpenError::new(OpenErrorKind::Configuration, message));
    }
    let mut connection = match place {
        Place::Memory => {
            let connection = Connection::open_in_memory()?;
            connection.pragma_update(None, "application_id", APPLICATION_ID)?;
            connection
        }
        Place::File(path) => open_file(path)?,
    };
    set(&mut connection)?;
    if matches!(place, Place::File(_)) {
        make_durable(&connection, durability)?;
    }
    Ok(connection)
}

fn open_file(path: &Path) -> Result<Connection, OpenError> {
    if inspect(path)? == Found::Nothing {
        make(path)?;
    }
    // Looked at again: somebody else may have been faster.
    let is_new = inspect(path)? != Found::Ours;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(wait_a_little))?;
    if connection.is_readonly(rusqlite::MAIN_DB)? {
        return Err(OpenError::new(OpenErrorKind::ReadOnly, "the file is read-only"));
    }
    if is_new {
        // Before the log exists, so that the header in the file itself says whose it is.
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    Ok(connection)
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

/// An empty file of ours.
fn begin(path: &Path) -> Result<(), OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
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

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A file without a byte: it is filled where it is, since others may have it open.
    Empty,
    Ours,
}

/// Looks at the header.
fn inspect(path: &Path) -> Result<Found, OpenError> {
    let foreign = |why: &str| Err(OpenError::new(OpenErrorKind::Foreign, why));
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(OpenError::new(OpenErrorKind::Unreachable, error.to_string())),
    };
    let mut header = Vec::with_capacity(100);
    file.by_ref()
        .take(100)
        .read_to_end(&mut header)
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
fn set(connection: &mut Connection) -> Result<(), OpenError> {
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
pub(crate) fn check_header(path: &Path) -> Result<(), OpenError> {
    if inspect(path)? != Found::Ours {
        return Err(OpenError::new(
            OpenErrorKind::Unreachable,
            "there is no such file, or it is empty",
        ));
    }
    Ok(())
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    set(&mut connection)?;
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

/// Which file is at a path: to notice that it is gone, or another one.
#[derive(Debug)]
pub(crate) struct Witness {
    path: PathBuf,
    seen: (u64, u64),
    log: PathBuf,
    log_seen: Option<(u64, u64)>,
}

impl Witness {
    pub(crate) fn new(path: &Path) -> Result<Self, OpenError> {
        let seen = identity(path)
            .map_err(|error| OpenError::new(OpenErrorKind::Unreachable, format!("{error} after opening")))?;
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let log = PathBuf::from(log);
        let log_seen = identity(&log).ok();
        Ok(Self {
            path: path.to_owned(),
            seen,
            log,
            log_seen,
        })
    }

    /// Fails when the file or its log is not the one that was opened: what is written to it would be lost.
    pub(crate) fn check(&mut self) -> Result<(), StoreError> {
        match identity(&self.path) {
            Ok(found) if found == self.seen => {}
            Ok(_) => return Err(gone(&self.path, "was replaced by another file")),
            Err(error) => return Err(gone(&self.path, &format!("is gone: {error}"))),
        }
        match (identity(&self.log), self.log_seen) {
            (Ok(found), None) => self.log_seen = Some(found),
            (Ok(found), Some(seen)) if found == seen => {}
            (Ok(_), Some(_)) => return Err(gone(&self.log, "was replaced by another file")),
            (Err(_), None) => {}
            (Err(error), Some(_)) => return Err(gone(&self.log, &format!("is gone: {error}"))),
        }
        Ok(())
    }
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::metadata(path).map(|m| (m.dev(), m.ino()))
}

fn gone(path: &Path, what: &str) -> StoreError {
    StoreError::Gone(format!("{} {what}; nothing more can be kept in it", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_is_not_believed() {
        let connection = open_writer(&Place::Memory, Durability::Full).unwrap();
        let is = |config| connection.db_config(config).unwrap();
        assert!(is(DbConfig::SQLITE_DBCONFIG_DEFENSIVE) && !is(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        drop(open_writer(&Place::File(path.clone()), Durability::Full).unwrap());
        let connection = open_reader(&path).unwrap();
        let is = |config| connection.db_config(config).unwrap();
        assert!(is(DbConfig::SQLITE_DBCONFIG_DEFENSIVE) && !is(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA));
    }
}
