//! Which user the server runs as; its invariant: never root, because PostgreSQL refuses that.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use nix::unistd::{User, getegid, geteuid};

use crate::Error;

/// A user id and its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    uid: u32,
    gid: u32,
    /// True when this is not the user that we run as ourselves (who then is root).
    other: bool,
}

impl Account {
    /// Ourselves, or, for root, `postgres`, or else `nobody`.
    pub(crate) fn for_server() -> Result<Self, Error> {
        if !geteuid().is_root() {
            return Ok(Self {
                uid: geteuid().as_raw(),
                gid: getegid().as_raw(),
                other: false,
            });
        }
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .map(|user| Self {
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
                other: true,
            })
            .ok_or(Error::NoServerUser)
    }

    /// Makes the command run as this user, without our supplementary groups.
    pub(crate) fn apply(self, command: &mut Command) {
        if self.other {
            command.uid(self.uid).gid(self.gid);
        }
    }

    /// Hands the file or folder to this user.
    pub(crate) fn own(self, path: &Path) -> Result<(), Error> {
        if !self.other {
            return Ok(());
        }
        chown(path, Some(self.uid), Some(self.gid))
            .map_err(Error::io(format!("hand {} to the server's user", path.display())))
    }

    /// Whether the path belongs to this user or to ourselves.
    pub(crate) fn is_owner(self, path: &Path) -> bool {
        let ours = geteuid().as_raw();
        fs::symlink_metadata(path).is_ok_and(|meta| meta.uid() == self.uid || meta.uid() == ours)
    }

    /// Whether this user may pass through every folder of the path, the last one too. Access lists are not looked at.
    pub(crate) fn can_reach(self, dir: &Path) -> bool {
        if !self.other {
            return true;
        }
        // The real path: a link may lead through a folder that is closed.
        let Ok(real) = fs::canonicalize(dir) else { return false };
        real.ancestors().all(|part| {
            fs::metadata(part).is_ok_and(|meta| {
                let execute = if meta.uid() == self.uid {
                    0o100
                } else if meta.gid() == self.gid {
                    0o010
                } else {
                    0o001
                };
                meta.mode() & execute != 0
            })
        })
    }
}

/// Whether the user that a server of ours would run as can reach the folder; false too when there is no such user.
///
/// For root that is a question: its home is closed to the user `postgres`, so server programs unpacked there are useless.
pub fn server_can_reach(dir: impl Into<PathBuf>) -> bool {
    Account::for_server().is_ok_and(|account| account.can_reach(&dir.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_closed_folder_is_out_of_reach_for_another_user_only() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let stranger = Account {
            uid: 64_999,
            gid: 64_999,
            other: true,
        };
        assert!(!stranger.can_reach(&inner));
        assert!(
            Account {
                other: false,
                ..stranger
            }
            .can_reach(&inner)
        );
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        assert!(stranger.can_reach(&inner));
        assert!(!stranger.can_reach(&dir.path().join("absent")));
    }
}
