//! The folders of one cluster; their invariant: they are removed with this value, and if their owner was killed, by the
//! next cluster made beside them.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{sys::signal::kill, unistd::Pid};
use tempfile::{Builder, TempDir};

use crate::{Error, account::Account};

const PREFIX: &str = "private-postgres-";
/// A Unix socket's path is at most 107 bytes, so the socket lives here whatever the cluster's own folder is.
const SHORT: &str = "/tmp";
const SOCKET_PREFIX: &str = "pp-";
/// Held locked by the owner: whoever can lock it knows that the owner is gone.
const LOCK: &str = "owner.lock";

/// A folder for the data and the log, and a second one for the socket.
#[derive(Debug)]
pub(crate) struct Home {
    dir: TempDir,
    socket: TempDir,
    _lock: File,
}

impl Home {
    /// Makes the folders under `parent`, or under `/tmp` where the server's user cannot reach `parent`.
    pub(crate) fn create(parent: &Path, account: Account) -> Result<Self, Error> {
        let parent = std::path::absolute(parent).map_err(Error::io(format!("find {}", parent.display())))?;
        fs::create_dir_all(&parent).map_err(Error::io(format!("create {}", parent.display())))?;
        let parent = if account.can_reach(&parent) {
            parent
        } else {
            PathBuf::from(SHORT)
        };
        sweep(&parent, account);

        let under = |dir: &Path| Error::io(format!("create a folder under {}", dir.display()));
        let dir = Builder::new()
            .prefix(PREFIX)
            .rand_bytes(8)
            .tempdir_in(&parent)
            .map_err(under(&parent))?;
        let lock = take_lock(dir.path()).map_err(Error::io(format!("lock {}", dir.path().display())))?;
        // Of the same name, so that sweeping the one finds the other.
        let name = socket_name(dir.path()).unwrap_or_else(|| SOCKET_PREFIX.to_owned());
        let socket = Builder::new()
            .prefix(&name)
            .rand_bytes(0)
            .tempdir_in(SHORT)
            .map_err(under(Path::new(SHORT)))?;
        account.own(dir.path())?;
        account.own(socket.path())?;
        Ok(Self {
            dir,
            socket,
            _lock: lock,
        })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("postgres.log")
    }

    pub(crate) fn socket(&self) -> &Path {
        self.socket.path()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A server process that was just killed may still create a file while we remove them: try again.
        for _ in 0..20 {
            match fs::remove_dir_all(self.dir.path()) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

fn socket_name(dir: &Path) -> Option<String> {
    let suffix = dir.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    Some(format!("{SOCKET_PREFIX}{suffix}"))
}

/// The lock appears under its name only once it is held: a sweeper never sees a young folder's lock free.
fn take_lock(dir: &Path) -> io::Result<File> {
    let young = dir.join("owner.lock.new");
    let file = File::create_new(&young)?;
    file.lock()?;
    fs::rename(&young, dir.join(LOCK))?;
    Ok(file)
}

/// Removes what killed owners left. What cannot be removed stays: the new cluster does not need it gone.
fn sweep(parent: &Path, account: Account) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for dir in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let Some(socket) = socket_name(&dir) else { continue };
        if account.is_owner(&dir) && is_abandoned(&dir) {
            let _ = fs::remove_dir_all(&dir);
            let socket = Path::new(SHORT).join(socket);
            if account.is_owner(&socket) {
                let _ = fs::remove_dir_all(socket);
            }
        }
    }
}

fn is_abandoned(dir: &Path) -> bool {
    let Ok(lock) = File::open(dir.join(LOCK)) else {
        return false;
    };
    if lock.try_lock().is_err() {
        return false;
    }
    // The owner is gone; its server may still be on its way out. (A process id in use again only delays the sweep.)
    let server = fs::read_to_string(dir.join("data/postmaster.pid")).unwrap_or_default();
    match server.lines().next().and_then(|pid| pid.parse().ok()) {
        Some(pid) => kill(Pid::from_raw(pid), None) == Err(nix::errno::Errno::ESRCH),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_abandoned_folders_are_swept() {
        let parent = tempfile::tempdir_in("/tmp").unwrap();
        let account = Account::for_server().unwrap();
        let locked = parent.path().join("private-postgres-locked");
        let abandoned = parent.path().join("private-postgres-abandon");
        let young = parent.path().join("private-postgres-young");
        let other = parent.path().join("other");
        for dir in [&locked, &abandoned, &young, &other] {
            fs::create_dir(dir).unwrap();
        }
        let _held = take_lock(&locked).unwrap();
        drop(take_lock(&abandoned).unwrap());
        drop(take_lock(&other).unwrap());
        sweep(parent.path(), account);
        assert!(locked.exists() && young.exists() && other.exists());
        assert!(!abandoned.exists());
    }
}
