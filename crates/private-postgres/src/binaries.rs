//! Where the server programs are; its invariant: a [`Binaries`] holds `initdb` and `postgres` of a version we support.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Error, install, server::clean_environment};

/// The oldest major version that is looked for.
pub const OLDEST_MAJOR: u32 = 15;
/// The newest major version that is looked for.
pub const NEWEST_MAJOR: u32 = 18;

/// Where Debian and Ubuntu keep the server programs, one folder for each major version.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// A folder that holds PostgreSQL's server programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    dir: PathBuf,
    version: String,
    major: u32,
}

impl Binaries {
    /// As [`find`](Self::find); where nothing is found and we are root on a Debian system, installs the package
    /// `postgresql` (without the cluster that this package otherwise creates and starts).
    pub fn find_or_install() -> Result<Self, Error> {
        match Self::find() {
            Err(Error::NotFound) => {
                install::by_apt()?;
                Self::find()
            }
            found => found,
        }
    }

    /// Looks in `$POSTGRES_BIN`, then `/usr/lib/postgresql/*/bin` (the newest of the supported versions), then `PATH`.
    ///
    /// A `POSTGRES_BIN` that is set but wrong is an error: someone who names a version wants no other.
    pub fn find() -> Result<Self, Error> {
        if let Some(dir) = env::var_os("POSTGRES_BIN").filter(|dir| !dir.is_empty()) {
            return Self::at(PathBuf::from(dir));
        }
        newest_under(Path::new(DEBIAN_ROOT))
            .or_else(in_path)
            .ok_or(Error::NotFound)
    }

    /// The programs in this folder.
    pub fn at(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let given = dir.into();
        let refuse = |reason: String| Error::NotBinaries {
            dir: given.clone(),
            reason,
        };
        // Absolute, because the server is started in another folder.
        let dir = std::path::absolute(&given).map_err(|error| refuse(error.to_string()))?;
        for program in ["initdb", "postgres"] {
            if !dir.join(program).is_file() {
                return Err(refuse(format!("it holds no {program}")));
            }
        }
        let mut command = Command::new(dir.join("postgres"));
        clean_environment(&mut command);
        let output = command
            .arg("--version")
            .output()
            .map_err(|error| refuse(error.to_string()))?;
        let answer = String::from_utf8_lossy(&output.stdout);
        let (version, major) = parse_version(&answer).ok_or_else(|| refuse(format!("it answers {answer:?}")))?;
        if !(OLDEST_MAJOR..=NEWEST_MAJOR).contains(&major) {
            return Err(refuse(format!(
                "its version {version} is not {OLDEST_MAJOR} to {NEWEST_MAJOR}"
            )));
        }
        Ok(Self { dir, version, major })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The version, such as `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The major version, such as `15`.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The path of one program, such as `pg_dump`; `None` where this installation lacks it.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        Some(self.dir.join(name)).filter(|path| path.is_file())
    }

    /// Whether the server can load this library, such as `pg_stat_statements`.
    pub fn has_library(&self, name: &str) -> bool {
        // Asking pg_config would be exact, but Debian packs it apart from the server. These are the places that a server
        // derives from its own path, in the three layouts there are.
        let file = format!("{name}.so");
        ["../lib", "../lib/postgresql", "../lib64/pgsql"]
            .iter()
            .any(|lib| self.dir.join(lib).join(&file).is_file())
    }
}

/// The newest supported version in a folder of `<major>/bin` folders.
fn newest_under(root: &Path) -> Option<Binaries> {
    let mut majors: Vec<u32> = fs::read_dir(root)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|major| (OLDEST_MAJOR..=NEWEST_MAJOR).contains(major))
        .collect();
    majors.sort_unstable();
    // A client-only installation has the folder but no server: go on to the next.
    majors
        .into_iter()
        .rev()
        .find_map(|major| Binaries::at(root.join(major.to_string()).join("bin")).ok())
}

fn in_path() -> Option<Binaries> {
    which::which_all("postgres")
        .ok()?
        .find_map(|program| Binaries::at(program.parent()?).ok())
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` is version `15.18`, major 15; `19beta1` has major 19.
fn parse_version(answer: &str) -> Option<(String, u32)> {
    let version = answer
        .strip_prefix("postgres (PostgreSQL) ")?
        .split_whitespace()
        .next()?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    Some((version.to_owned(), version.get(..digits)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let debian = parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n");
        assert_eq!(debian, Some(("15.18".to_owned(), 15)));
        assert_eq!(
            parse_version("postgres (PostgreSQL) 19beta1\n"),
            Some(("19beta1".to_owned(), 19))
        );
        assert_eq!(parse_version("psql (PostgreSQL) 15.18\n"), None);
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn an_empty_folder_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = Binaries::at(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("holds no initdb") && error.contains(dir.path().to_str().unwrap()),
            "{error}"
        );
        assert!(newest_under(dir.path()).is_none());
    }
}
