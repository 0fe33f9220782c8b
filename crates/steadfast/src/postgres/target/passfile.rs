//! The libpq password file: `host:port:database:user:password` lines, the first match wins.
//!
//! Invariant: a file that others may read is never used, and no line of it reaches a log.

use std::fs;
use std::io;
use std::path::Path;

/// What a password is looked up for.
pub(super) struct Wanted<'a> {
    /// Host name as given, `localhost` for the default socket directory.
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) dbname: &'a str,
    pub(super) user: &'a str,
}

/// Reads the file; `None` when it is missing, unreadable or open to others (the latter two are logged).
pub(super) fn read(path: &Path) -> Option<String> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "password file cannot be read");
            return None;
        }
    };
    if !metadata.is_file() {
        tracing::warn!(path = %path.display(), "password file is not a plain file: ignored");
        return None;
    }
    if open_to_others(&metadata) {
        tracing::warn!(
            path = %path.display(),
            "password file has group or world access: ignored (permissions should be 0600 or less)"
        );
        return None;
    }
    match fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "password file cannot be read");
            None
        }
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
        assert_eq!(read(&path), None);
        fs::write(&path, "*:*:*:*:x").unwrap();
        for (mode, read_back) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(read(&path).is_some(), read_back, "{mode:o}");
        }
        assert_eq!(read(folder.path()), None, "a directory is no password file");
    }
}
