//! The libpq password file: `host:port:database:user:password` lines, the first match wins.
//!
//! Invariant: a file that others may read is never used, and no line of it reaches a log.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What a password is looked up for.
pub(super) struct Wanted<'a> {
    /// Host name as given, `localhost` for the default socket directory.
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) dbname: &'a str,
    pub(super) user: &'a str,
}

/// A password file as it was found.
pub(super) struct Passfile {
    path: PathBuf,
    content: Result<String, Unusable>,
}

/// Why a password file does not count.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Unusable {
    Missing,
    Unreadable(String),
    NotPlain,
    OpenToOthers,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("does not exist"),
            Self::Unreadable(error) => write!(f, "cannot be read: {error}"),
            Self::NotPlain => f.write_str("is ignored: it is not a plain file"),
            Self::OpenToOthers => {
                f.write_str("is ignored: it has group or world access (permissions should be 0600 or less)")
            }
        }
    }
}

impl Passfile {
    /// The password for this connection, if a line fits.
    pub(super) fn password(&self, wanted: &Wanted<'_>) -> Option<String> {
        find(self.content.as_deref().ok()?, wanted)
    }

    /// What this file had to do with a refusal, for people.
    pub(super) fn note(&self, wanted: &Wanted<'_>) -> String {
        let path = self.path.display();
        match &self.content {
            Err(why) => format!("password file {path} {why}"),
            Ok(_) if self.password(wanted).is_some() => format!("the password is that of {path}"),
            Ok(_) => format!("no line of password file {path} fits"),
        }
    }
}

/// Reads the file. Why it does not count is logged, once, unless it only does not exist.
pub(super) fn read(path: &Path) -> Passfile {
    let content = content(path);
    if let Err(why) = &content
        && *why != Unusable::Missing
    {
        warn_once(path, why);
    }
    Passfile {
        path: path.to_owned(),
        content,
    }
}

fn content(path: &Path) -> Result<String, Unusable> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Unusable::Missing,
        _ => Unusable::Unreadable(error.to_string()),
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Unusable::NotPlain);
    }
    if open_to_others(&metadata) {
        return Err(Unusable::OpenToOthers);
    }
    fs::read_to_string(path).map_err(unreadable)
}

/// The file is read for each connection; its fault need be told only once.
fn warn_once(path: &Path, why: &Unusable) {
    static TOLD: Mutex<BTreeSet<(PathBuf, Unusable)>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.insert((path.to_owned(), why.clone())) {
        tracing::warn!(target: "steadfast", path = %path.display(), "password file {why}");
    }
}

/// The password of the first line that matches.
pub(super) fn find(text: &str, wanted: &Wanted<'_>) -> Option<String> {
    let port = wanted.port.to_string();
    let fields = [wanted.host, port.as_str(), wanted.dbname, wanted.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for field in fields {
            rest = match_field(rest, field)?;
        }
        Some(unescape(rest)).filter(|password| !password.is_empty())
    })
}

/// Takes one field and its colon off the line if it equals `wanted` or is a lone `*`.
fn match_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    let mut escaped = false;
    let end = line.char_indices().find_map(|(at, c)| match c {
        _ if escaped => {
            escaped = false;
            None
        }
        '\\' => {
            escaped = true;
            None
        }
        ':' => Some(at),
        _ => None,
    })?;
    let (field, rest) = (&line[..end], &line[end + 1..]);
    (field == "*" || unescape(field) == wanted).then_some(rest)
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        // A backslash at the very end stands for itself.
        plain.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    plain
}

#[cfg(unix)]
fn open_to_others(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o077 != 0
}

#[cfg(not(unix))]
fn open_to_others(_: &fs::Metadata) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_line_wins() {
        let text = "# host:1:d:u:comment\n\
                    broken line\n\
                    db.example.org:5432:app:alice:first\n\
                    db.example.org:5432:app:alice:second\n\
                    *:*:*:bob:p\\:a\\\\ss:word\n\
                    \\:\\:1:5432:*:carol:six\n\
                    *:5432:odd\\:name:dan:seven\r\n\
                    \\*:5432:*:eve:eight\n\
                    h:1:d:frank:\n";
        for (host, port, dbname, user, expected) in [
            ("db.example.org", 5432, "app", "alice", Some("first")),
            ("db.example.org", 5433, "app", "alice", None),
            ("other", 5432, "app", "alice", None),
            ("anything", 1, "x", "bob", Some("p:a\\ss:word")),
            ("::1", 5432, "x", "carol", Some("six")),
            ("h", 5432, "odd:name", "dan", Some("seven")),
            ("*", 5432, "d", "eve", Some("eight")),
            ("h", 5432, "d", "eve", None),
            ("h", 1, "d", "frank", None),
        ] {
            let wanted = Wanted {
                host,
                port,
                dbname,
                user,
            };
            assert_eq!(
                find(text, &wanted).as_deref(),
                expected,
                "{host}:{port}:{dbname}:{user}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_ignored() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgpass");
        let wanted = Wanted {
            host: "h",
            port: 1,
            dbname: "d",
            user: "u",
        };
        assert!(read(&path).note(&wanted).contains("does not exist"));
        fs::write(&path, "*:*:*:*:s3cret").unwrap();
        for (mode, counts) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let file = read(&path);
            assert_eq!(file.password(&wanted).is_some(), counts, "{mode:o}");
            let note = file.note(&wanted);
            assert_eq!(note.contains("0600 or less"), !counts, "{note}");
            assert!(note.contains("pgpass") && !note.contains("s3cret"), "{note}");
        }
        let folder = read(folder.path());
        assert!(folder.password(&wanted).is_none() && folder.note(&wanted).contains("not a plain file"));
    }
}
