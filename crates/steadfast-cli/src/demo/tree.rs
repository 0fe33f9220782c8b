//! What of a folder tree belongs to the manifest.
//!
//! Invariant: the same tree gives the same names in the same order. Names are relative to the root, parts joined by `/`;
//! links, special files, `.git` and Cargo's `target` folders are left out.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Why a tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    /// The system refused.
    #[error("cannot read {path}: {source}", path = path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The manifest is text.
    #[error("the name of {0:?} is not UTF-8")]
    NotUtf8(PathBuf),
}

/// The files and folders directly inside a folder, sorted.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) files: Vec<String>,
    pub(crate) folders: Vec<String>,
}

/// Lists one folder; `""` is the root.
pub(crate) fn list(root: &Path, folder: &str) -> Result<Listing, TreeError> {
    let dir = root.join(folder);
    let failed = |source| TreeError::Io {
        path: dir.clone(),
        source,
    };
    let mut listing = Listing::default();
    for entry in fs::read_dir(&dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        if !kind.is_dir() && !kind.is_file() {
            continue;
        }
        let name = entry
            .file_name()
            .into_string()
            .map_err(|_| TreeError::NotUtf8(entry.path()))?;
        let path = if folder.is_empty() {
            name
        } else {
            format!("{folder}/{name}")
        };
        if kind.is_file() {
            listing.files.push(path);
        } else if !is_left_out(&entry.path()) {
            listing.folders.push(path);
        }
    }
    listing.files.sort_unstable();
    listing.folders.sort_unstable();
    Ok(listing)
}

/// Every folder that holds a file, sorted, with how many.
pub(crate) fn folders(root: &Path) -> Result<Vec<(String, usize)>, TreeError> {
    let mut found = Vec::new();
    let mut open = vec![String::new()];
    while let Some(folder) = open.pop() {
        let listing = list(root, &folder)?;
        open.extend(listing.folders);
        if !listing.files.is_empty() {
            found.push((folder, listing.files.len()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether the folder is Git's, or one that Cargo builds into (a module may be called `target` as well).
pub(crate) fn is_left_out(dir: &Path) -> bool {
    match dir.file_name().and_then(|name| name.to_str()) {
        Some(".git") => true,
        Some("target") => dir.join("CACHEDIR.TAG").exists() || dir.with_file_name("Cargo.toml").exists(),
        _ => false,
    }
}

/// The checkout that the working directory is in: the topmost folder with a `.git`, or else with a `Cargo.toml`; or else
/// the working directory itself.
pub(crate) fn checkout() -> io::Result<PathBuf> {
    let here = env::current_dir()?;
    let nearest = |marker: &str| {
        here.ancestors()
            .find(|dir| dir.join(marker).exists())
            .map(Path::to_owned)
    };
    Ok(nearest(".git").or_else(|| nearest("Cargo.toml")).unwrap_or(here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_build_folders_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in [".git", "target", "b/target", "empty"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in [
            "Cargo.toml",
            ".git/config",
            "target/x",
            "b/target/module.rs",
            "b/z",
            "b/a",
        ] {
            fs::write(root.join(file), file).unwrap();
        }
        std::os::unix::fs::symlink(root.join("b"), root.join("link")).unwrap();
        let folders = folders(root).unwrap();
        assert_eq!(
            folders,
            [(String::new(), 1), ("b".to_owned(), 2), ("b/target".to_owned(), 1)]
        );
        assert_eq!(list(root, "b").unwrap().files, ["b/a", "b/z"]);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = list(Path::new("/no/such"), "folder").unwrap_err().to_string();
        assert!(error.starts_with("cannot read /no/such/folder: "), "{error}");
    }
}
