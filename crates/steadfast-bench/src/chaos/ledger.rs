//! The ledger: what clients asked for and were promised, what activities did, what was done to the processes. Kept outside
//! the store: one append-only file of JSON lines per process.
//!
//! Invariant: a line is one `write` in append mode; what was written before a kill stays, and half a line counts as none.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    Start,
    Signal,
    Cancel,
    Delete,
    Prune,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub(crate) enum Fact {
    /// A client is about to ask.
    Intent { ask: Ask, instance: String, data: String },
    /// It was told that this is done.
    Acknowledged { ask: Ask, instance: String, data: String },
    /// It was told that this failed; whether it was done is unknown.
    Refused { ask: Ask, instance: String, error: String },
    /// An activity begins.
    Began { instance: String, activity: String },
    /// An activity has its result; whether the store will know is another question.
    Finished { instance: String, activity: String },
    /// A process was killed.
    Killed { process: u32 },
    /// A process was paused for so long, from then on.
    Paused { process: u32, pause_ms: u64 },
    /// Something else was done, to one process or (`None`) to all: connections, the server, locks; it lasted so long.
    Trouble {
        what: String,
        process: Option<u32>,
        lasts_ms: u64,
    },
    /// Work was put into an idle store, and is to begin within so long.
    Expected { instance: String, within_ms: u64 },
    /// A lease was seen that reaches further than its length.
    Overdue { what: String },
}

/// A line with its time (this machine's clock, in ms) and who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) at_ms: u64,
    pub(crate) process: u32,
    pub(crate) fact: Fact,
}

/// This machine's clock.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: File,
}

impl Ledger {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { file })
    }

    /// Appends one line. What cannot be written down must not happen: the process ends.
    pub(crate) fn note(&self, fact: Fact) {
        let line = Line {
            at_ms: now_ms(),
            process: std::process::id(),
            fact,
        };
        let written = serde_json::to_vec(&line)
            .map_err(std::io::Error::from)
            .and_then(|mut text| {
                text.push(b'\n');
                (&self.file).write_all(&text)
            });
        if written.is_err() {
            std::process::exit(3);
        }
    }
}

/// All lines of these files, oldest first.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or_default());
        for line in whole.lines() {
            lines.push(serde_json::from_str::<Line>(line).with_context(|| format!("not a line: {line}"))?);
        }
    }
    lines.sort_by_key(|line| line.at_ms);
    Ok(lines)
}

/// The ledgers in a folder whose names begin so.
pub(crate) fn files(dir: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(prefix) && name.ends_with(".jsonl") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_and_half_a_line_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("worker-0-0.jsonl");
        let ledger = Ledger::open(&path).unwrap();
        let fact = Fact::Began {
            instance: "a\nb".to_owned(),
            activity: "1".to_owned(),
        };
        ledger.note(fact.clone());
        (&ledger.file).write_all(b"{\"at_ms\":1").unwrap();
        let lines = read(&files(dir.path(), "worker").unwrap()).unwrap();
        assert_eq!(lines.into_iter().map(|line| line.fact).collect::<Vec<_>>(), [fact]);
    }
}
