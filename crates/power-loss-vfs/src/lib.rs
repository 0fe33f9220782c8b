//! For tests: a layer between SQLite and the file system that records what is written and synced, rebuilds what a loss of
//! power could leave at each sync, counts syncs, and fails on demand.
//!
//! Invariant: a file outside the watched folders does not pass through it; it goes straight to SQLite's own layer.

mod image;
mod layer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub use image::Image;
pub use layer::{NotInstalled, install};

/// Something that happened to a watched file, or a mark of the test.
#[derive(Debug, Clone)]
enum Entry {
    /// It was there, and durable, when it was first opened.
    Found {
        file: String,
        data: Vec<u8>,
    },
    Write {
        file: String,
        at: u64,
        data: Vec<u8>,
    },
    Truncate {
        file: String,
        len: u64,
    },
    Sync {
        file: String,
    },
    Delete {
        file: String,
    },
    Note(u64),
}

/// What goes wrong with the watched folder from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trouble {
    /// Nothing.
    #[default]
    None,
    /// No space: every write fails.
    DiskFull,
    /// The device does not take syncs any more.
    SyncFails,
    /// The database file may only be read.
    ReadOnlyFile,
    /// No file can be made beside the database.
    ReadOnlyFolder,
}

/// Watches one folder.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
    log: Mutex<Vec<Entry>>,
    trouble: Mutex<Trouble>,
}

static WATCHED: Mutex<Vec<Weak<Recorder>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// Watches the files of this folder that SQLite opens from now on. [`install`] must have been called before.
    #[must_use]
    pub fn watch(folder: &Path) -> Arc<Self> {
        // SQLite resolves links before it opens anything.
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let recorder = Arc::new(Self {
            folder,
            log: Mutex::default(),
            trouble: Mutex::default(),
        });
        let mut watched = lock(&WATCHED);
        watched.retain(|w| w.strong_count() > 0);
        watched.push(Arc::downgrade(&recorder));
        recorder
    }

    /// Puts a mark into the record: what was written and synced before it came before it.
    pub fn note(&self, mark: u64) {
        lock(&self.log).push(Entry::Note(mark));
    }

    /// How many syncs of files whose name ends so there have been.
    #[must_use]
    pub fn syncs(&self, ending: &str) -> usize {
        let log = lock(&self.log);
        log.iter()
            .filter(|entry| matches!(entry, Entry::Sync { file } if file.ends_with(ending)))
            .count()
    }

    /// What goes wrong from now on.
    pub fn set_trouble(&self, trouble: Trouble) {
        *lock(&self.trouble) = trouble;
    }

    fn trouble(&self) -> Trouble {
        *lock(&self.trouble)
    }

    /// What was in a file before it was opened for the first time.
    fn found(&self, name: &str) {
        let seen = lock(&self.log).iter().any(|entry| match entry {
            Entry::Found { file, .. } | Entry::Write { file, .. } | Entry::Sync { file } => file == name,
            _ => false,
        });
        if !seen
            && let Ok(data) = std::fs::read(self.folder.join(name))
            && !data.is_empty()
        {
            self.record(Entry::Found {
                file: name.to_owned(),
                data,
            });
        }
    }

    fn record(&self, entry: Entry) {
        lock(&self.log).push(entry);
    }

    /// Rebuilds, just before each sync and at the end of the record, `per_point` states that a loss of power at that moment
    /// could leave: without what was not synced, with all of it, and with random sectors of it.
    pub fn for_each_image(&self, seed: u64, per_point: u32, each: impl FnMut(&Image)) {
        let log = lock(&self.log).clone();
        image::rebuild(&log, seed, per_point, each);
    }

    /// The recorder of a path, and the file's name in its folder.
    fn of(path: &Path) -> Option<(Arc<Self>, String)> {
        let name = path.file_name()?.to_str()?.to_owned();
        let folder = path.parent()?;
        let watched = lock(&WATCHED);
        let found = watched.iter().filter_map(Weak::upgrade).find(|r| r.folder == folder)?;
        Some((found, name))
    }
}

/// Contents by file name.
type Files = HashMap<String, Vec<u8>>;
