//! The ledger: a file to which the workers append one line per start and end of an activity, and per turn.
//!
//! Invariant: a line is one `write` in append mode, so that lines of a killed process and of its successor never mix, and
//! what was written before the kill stays.

use std::{
    collections::{HashMap, HashSet},
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::Path,
    process,
};

use crate::clock;

/// What a line tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// An activity begins.
    Start,
    /// An activity is done; whether the store knows is another question.
    End,
    /// An orchestration is replayed and goes one turn further.
    Turn,
}

impl Mark {
    const ALL: [(Self, &'static str); 3] = [(Self::Start, "start"), (Self::End, "end"), (Self::Turn, "turn")];

    fn word(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(mark, _)| *mark == self)
            .map_or("", |(_, word)| word)
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, word)| *word == text).map(|(mark, _)| *mark)
    }
}

/// An activity and what it works on; or an orchestration and its instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) key: String,
}

impl Task {
    pub(crate) fn new(name: impl Into<String>, key: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            key: key.into(),
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) mark: Mark,
    pub(crate) pid: u32,
    pub(crate) at_ms: u64,
    pub(crate) task: Task,
}

impl Entry {
    fn render(&self) -> String {
        let Self { mark, pid, at_ms, task } = self;
        // As JSON, a key with any line break in it is one line.
        let key = serde_json::Value::from(task.key.as_str());
        format!("{} {key} {pid} {at_ms} {}\n", mark.word(), task.name)
    }

    fn parse(line: &str) -> Option<Self> {
        let (mark, rest) = line.split_once(' ')?;
        let mut from_the_end = rest.rsplitn(4, ' ');
        let name = from_the_end.next()?;
        let at_ms = from_the_end.next()?.parse().ok()?;
        let pid = from_the_end.next()?.parse().ok()?;
        let key: String = serde_json::from_str(from_the_end.next()?).ok()?;
        Some(Self {
            mark: Mark::parse(mark)?,
            pid,
            at_ms,
            task: Task::new(name, key),
        })
    }
}

/// The writing end, of a worker.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    pid: u32,
}

impl Writer {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self {
            file,
            pid: process::id(),
        })
    }

    /// Appends one line.
    pub(crate) fn note(&self, mark: Mark, task: Task) -> io::Result<()> {
        let entry = Entry {
            mark,
            pid: self.pid,
            at_ms: clock::now_ms(),
            task,
        };
        // The line reaches the file as a whole or, on a full disk, not at all: it is far shorter than a page.
        (&self.file).write_all(entry.render().as_bytes())
    }
}

/// The reading end, of the demo: follows the file as it grows.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    rest: Vec<u8>,
    entries: Vec<Entry>,
    ended: HashMap<String, HashSet<String>>,
}

impl Reader {
    /// Opens the file, which it creates when no worker has yet.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self {
            file: File::open(path)?,
            rest: Vec::new(),
            entries: Vec::new(),
            ended: HashMap::new(),
        })
    }

    /// Reads what was appended since.
    pub(crate) fn poll(&mut self) -> io::Result<()> {
        self.file.read_to_end(&mut self.rest)?;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(());
        };
        let lines: Vec<u8> = self.rest.drain(..=end).collect();
        for line in String::from_utf8_lossy(&lines).lines() {
            let entry = Entry::parse(line)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("not a ledger line: {line}")))?;
            if entry.mark == Mark::End {
                let Task { name, key } = entry.task.clone();
                self.ended.entry(name).or_default().insert(key);
            }
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Every line so far, in the order of the file.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many different tasks of this activity have ended.
    pub(crate) fn ended(&self, activity: &str) -> usize {
        self.ended.get(activity).map_or(0, HashSet::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_as_they_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let mut reader = Reader::open(&path).unwrap();
        let writer = Writer::open(&path).unwrap();
        let task = Task::new("HashFile", "a folder/b c.txt");
        writer.note(Mark::Start, task.clone()).unwrap();
        reader.poll().unwrap();
        assert_eq!(reader.ended("HashFile"), 0);
        writer.note(Mark::End, task.clone()).unwrap();
        writer
            .note(Mark::End, Task::new("HashFile", "line\nbreak \"quoted\""))
            .unwrap();
        reader.poll().unwrap();
        assert_eq!(reader.ended("HashFile"), 2);
        assert_eq!(reader.entries().len(), 3);
        assert_eq!(reader.entries().first().map(|entry| &entry.task), Some(&task));
    }

    #[test]
    fn half_a_line_waits_for_its_other_half() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let mut reader = Reader::open(&path).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"end \"x\" 7 9").unwrap();
        reader.poll().unwrap();
        assert!(reader.entries().is_empty());
        file.write_all(b"9 HashFile\n").unwrap();
        reader.poll().unwrap();
        assert_eq!(
            reader.entries().first().map(|entry| (entry.pid, entry.at_ms)),
            Some((7, 99))
        );
    }
}
