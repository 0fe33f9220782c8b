//! The manifest: one line `digest  name` per file, sorted by name; and the same made once more, without any workflow.
//!
//! Invariant: [`compute`] shares no code with the activities but the rule of what is left out.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use sha2::{Digest, Sha256};

use crate::demo::tree::{TreeError, is_left_out};

/// A file's name and its digest.
pub(crate) type Line = (String, String);

/// The manifest's text, as `sha256sum` writes it.
pub(crate) fn render(mut lines: Vec<Line>) -> String {
    lines.sort_unstable();
    lines
        .iter()
        .map(|(name, digest)| format!("{digest}  {name}\n"))
        .collect()
}

/// The digest of a file's content, read piece by piece.
pub(crate) fn digest_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
    }
}

/// The digest of a text.
pub(crate) fn digest_text(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The manifest of the tree, by a plain walk in this process; also how many bytes it read.
pub(crate) fn compute(root: &Path) -> Result<(String, u64), TreeError> {
    let mut digests = BTreeMap::new();
    let mut bytes = 0;
    walk(root, root, &mut |name, content| {
        bytes += content.len() as u64;
        digests.insert(name, hex(&Sha256::digest(content)));
    })?;
    let mut text = String::new();
    for (name, digest) in digests {
        text.push_str(&digest);
        text.push_str("  ");
        text.push_str(&name);
        text.push('\n');
    }
    Ok((text, bytes))
}

fn walk(root: &Path, dir: &Path, visit: &mut dyn FnMut(String, &[u8])) -> Result<(), TreeError> {
    let failed = |path: &Path, source| TreeError::Io {
        path: path.to_owned(),
        source,
    };
    for entry in fs::read_dir(dir).map_err(|error| failed(dir, error))? {
        let path = entry.map_err(|error| failed(dir, error))?.path();
        let meta = fs::symlink_metadata(&path).map_err(|error| failed(&path, error))?;
        if meta.is_dir() {
            if !is_left_out(&path) {
                walk(root, &path, visit)?;
            }
        } else if meta.is_file() {
            let name = path.strip_prefix(root).unwrap_or(&path);
            let name = name
                .to_str()
                .ok_or_else(|| TreeError::NotUtf8(path.clone()))?
                .to_owned();
            visit(name, &fs::read(&path).map_err(|error| failed(&path, error))?);
        }
    }
    Ok(())
}

/// Names whose lines differ between two manifests.
pub(crate) fn differences(one: &str, other: &str) -> Vec<String> {
    let (one, other) = (by_name(one), by_name(other));
    let mut names: Vec<String> = one
        .iter()
        .filter(|(name, digest)| other.get(*name) != Some(*digest))
        .chain(other.iter().filter(|(name, _)| !one.contains_key(*name)))
        .map(|(name, _)| (*name).to_owned())
        .collect();
    names.sort_unstable();
    names
}

fn by_name(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(digest, name)| (name, digest))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_agree() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(dir.path().join("b/x"), "abc").unwrap();
        // Sorted by the whole name: `b-` is before `b/`.
        fs::write(dir.path().join("b-"), "").unwrap();
        let line = |name: &str| (name.to_owned(), digest_file(&dir.path().join(name)).unwrap());
        let rendered = render(vec![line("b/x"), line("b-")]);
        let (computed, bytes) = compute(dir.path()).unwrap();
        assert_eq!(rendered, computed);
        assert_eq!(bytes, 3);
        assert!(computed.ends_with("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  b/x\n"));
        assert_eq!(
            digest_text("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn differences_are_named_once() {
        assert_eq!(differences("1  a\n2  b\n", "1  a\n3  b\n4  c\n"), ["b", "c"]);
        assert!(differences("1  a\n", "1  a\n").is_empty());
    }
}
