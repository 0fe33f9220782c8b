//! Who has the file open, and its header as it lies on the disk: one descriptor per file and process.
//!
//! Invariant: while this process has a file open through SQLite, no descriptor of it is closed here: closing any of them
//! would drop SQLite's own locks, and another process could then remove the log underneath.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;
use rustix::process::{Flock, FlockOffsetType, FlockType};

use super::builder::{OpenError, OpenErrorKind};

/// Bytes of a file's header.
pub(crate) const HEADER: usize = 100;
/// Where SQLite's connections hold their shared lock while they have a file open in WAL mode.
const SHARED_LOCK: (u64, u64) = (0x4000_0002, 510);

/// Device and number.
type Identity = (u64, u64);

struct Held {
    /// More than one where a file was replaced while it was opened.
    files: Vec<File>,
    users: usize,
    /// Of the users, those that have it open through SQLite.
    live: usize,
}

static HELD: Mutex<Option<HashMap<Identity, Held>>> = Mutex::new(None);

fn held() -> MutexGuard<'static, Option<HashMap<Identity, Held>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This process's look at a file. To be dropped after the connections to it.
#[derive(Debug)]
pub(crate) struct Presence {
    identity: Identity,
    /// Where the file really is: SQLite keeps the log beside that.
    path: PathBuf,
    live: bool,
}

impl Presence {
    /// The file at a path, `None` where nothing is there. What is no regular file is refused, without waiting for anything.
    pub(crate) fn of(path: &Path) -> Result<Option<Self>, OpenError> {
        let unreachable = |error: io::Error| OpenError::new(OpenErrorKind::Unreachable, error.to_string());
        let meta = match std::fs::metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return match std::fs::symlink_metadata(path) {
                    Ok(_) => Err(OpenError::new(
                        OpenErrorKind::NotAFile,
                        "this is a symbolic link to nothing",
                    )),
                    Err(_) => Ok(None),
                };
            }
            Err(error) => return Err(unreachable(error)),
        };
        require_file(&meta)?;
        let path = path.canonicalize().map_err(unreachable)?;
        for ending in ["-wal", "-shm", "-journal"] {
            if let Ok(meta) = std::fs::metadata(beside(&path, ending)) {
                require_file(&meta).map_err(|error| {
                    OpenError::new(error.kind(), format!("its companion {ending} cannot be used: {error}"))
                })?;
            }
        }
        let mut registry = held();
        let registry = registry.get_or_insert_with(HashMap::new);
        if let Some(known) = registry.get_mut(&identity(&meta)) {
            known.users += 1;
            return Ok(Some(Self {
                identity: identity(&meta),
                path,
                live: false,
            }));
        }
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nonblocking)
            .open(&path)
            .map_err(unreachable)?;
        let meta = file.metadata().map_err(unreachable)?;
        // It may have been replaced since; nothing of it is kept then.
        require_file(&meta)?;
        let here = Self {
            identity: identity(&meta),
            path,
            live: false,
        };
        let entry = registry.entry(here.identity).or_insert(Held {
            files: Vec::new(),
            users: 0,
            live: 0,
        });
        entry.files.push(file);
        entry.users += 1;
        Ok(Some(here))
    }

    /// Where the file really is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The beginning of the file; shorter where the file is.
    pub(crate) fn header(&self) -> io::Result<Vec<u8>> {
        let mut header = vec![0; HEADER];
        let mut filled = 0;
        self.with(|file| {
            while let Some(rest) = header.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                match file.read_at(rest, filled as u64)? {
                    0 => break,
                    count => filled += count,
                }
            }
            Ok(())
        })?;
        header.truncate(filled);
        Ok(header)
    }

    /// The whole file.
    pub(crate) fn content(&self) -> io::Result<Vec<u8>> {
        self.with(|file| {
            let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
            let mut content = vec![0; length];
            file.read_exact_at(&mut content, 0)?;
            Ok(content)
        })
    }

    /// Another process that has the file open through SQLite: its id, where it can be told.
    pub(crate) fn other_process(&self) -> io::Result<Option<i32>> {
        let wish = Flock {
            start: SHARED_LOCK.0,
            length: SHARED_LOCK.1,
            pid: None,
            typ: FlockType::WriteLock,
            offset_type: FlockOffsetType::Set,
        };
        let found = self.with(|file| Ok(rustix::process::fcntl_getlk(file, &wish)?))?;
        Ok(found.map(|lock| lock.pid.map_or(0, |pid| pid.as_raw_nonzero().get())))
    }

    /// From now on the file is open through SQLite here.
    pub(crate) fn enter(&mut self) {
        let mut registry = held();
        let known = registry.as_mut().and_then(|registry| registry.get_mut(&self.identity));
        if let Some(known) = known.filter(|_| !self.live) {
            known.live += 1;
            self.live = true;
        }
    }

    /// Whether nobody else has the file open through SQLite: no other process, and nothing else in this one.
    pub(crate) fn is_alone(&self) -> io::Result<bool> {
        let here = held()
            .as_ref()
            .and_then(|registry| registry.get(&self.identity).map(|known| known.live));
        Ok(here.unwrap_or(0) <= usize::from(self.live) && self.other_process()?.is_none())
    }

    fn with<T>(&self, act: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        let registry = held();
        let file = registry
            .as_ref()
            .and_then(|known| known.get(&self.identity)?.files.first());
        file.map_or_else(|| Err(io::ErrorKind::NotFound.into()), act)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut registry = held();
        let Some(registry) = registry.as_mut() else { return };
        if let Some(known) = registry.get_mut(&self.identity) {
            known.users -= 1;
            known.live -= usize::from(self.live);
            if known.users == 0 {
                // Closed under the lock: nobody opens it meanwhile.
                registry.remove(&self.identity);
            }
        }
    }
}

/// `path` with something appended to its name.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn identity(meta: &Metadata) -> Identity {
    (meta.dev(), meta.ino())
}

fn require_file(meta: &Metadata) -> Result<(), OpenError> {
    let kind = meta.file_type();
    let what = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(OpenError::new(
        OpenErrorKind::NotAFile,
        format!("this is {what}, not a file"),
    ))
}
