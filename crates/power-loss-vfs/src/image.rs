//! What a loss of power could leave: pure, from the record alone.
//!
//! Invariant: a file's content at its last sync is there; of what was written since, any sectors may be.

use std::path::Path;

use crate::{Entry, Files};

/// The unit that a device writes wholly or not at all.
const SECTOR: usize = 512;

/// A state that a loss of power could leave.
#[derive(Debug)]
pub struct Image {
    /// Which point of the record it belongs to, and which of that point's states it is.
    pub point: (usize, u32),
    /// The marks that were noted before it.
    pub noted: Vec<u64>,
    files: Files,
}

impl Image {
    /// Writes the files into a folder.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write_to(&self, folder: &Path) -> std::io::Result<()> {
        for (name, content) in &self.files {
            std::fs::write(folder.join(name), content)?;
        }
        Ok(())
    }
}

/// A small generator, so that a seed tells the whole story.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// The files as they surely are, and what has happened since.
#[derive(Default)]
struct State {
    durable: Files,
    pending: Vec<Entry>,
    noted: Vec<u64>,
}

pub(crate) fn rebuild(log: &[Entry], seed: u64, per_point: u32, mut each: impl FnMut(&Image)) {
    let mut dice = Dice(seed);
    let mut state = State::default();
    for (point, entry) in log.iter().enumerate() {
        match entry {
            Entry::Found { file, data } => drop(state.durable.insert(file.clone(), data.clone())),
            Entry::Note(mark) => state.noted.push(*mark),
            Entry::Sync { file } => {
                for n in 0..per_point {
                    each(&state.image((point, n), &mut dice));
                }
                state.sync(file);
            }
            other => state.pending.push(other.clone()),
        }
    }
    for n in 0..per_point {
        each(&state.image((log.len(), n), &mut dice));
    }
}

impl State {
    fn sync(&mut self, synced: &str) {
        // A file exists once it was synced, written to or not.
        let content = self.durable.entry(synced.to_owned()).or_default();
        self.pending.retain(|entry| match entry {
            Entry::Write { file, at, data } if file == synced => {
                write(content, *at, data);
                false
            }
            Entry::Truncate { file, len } if file == synced => {
                truncate(content, *len);
                false
            }
            Entry::Delete { file } => file != synced,
            _ => true,
        });
    }

    fn image(&self, point: (usize, u32), dice: &mut Dice) -> Image {
        // Out of ten sectors so many reach the device: none in the first state, all in the second.
        let odds = match point.1 {
            0 => 0,
            1 => 10,
            _ => 1 + dice.roll(9),
        };
        let mut files = self.durable.clone();
        for entry in &self.pending {
            match entry {
                Entry::Write { file, at, data } => {
                    for (n, sector) in data.chunks(SECTOR).enumerate() {
                        if dice.roll(10) < odds {
                            let content = files.entry(file.clone()).or_default();
                            write(content, at + (n * SECTOR) as u64, sector);
                        }
                    }
                }
                Entry::Truncate { file, len } if dice.roll(10) < odds => {
                    truncate(files.entry(file.clone()).or_default(), *len);
                }
                Entry::Delete { file } if dice.roll(10) < odds => drop(files.remove(file)),
                _ => {}
            }
        }
        Image {
            point,
            noted: self.noted.clone(),
            files,
        }
    }
}

fn write(content: &mut Vec<u8>, at: u64, data: &[u8]) {
    let at = at as usize;
    if content.len() < at + data.len() {
        content.resize(at + data.len(), 0);
    }
    if let Some(place) = content.get_mut(at..at + data.len()) {
        place.copy_from_slice(data);
    }
}

fn truncate(content: &mut Vec<u8>, len: u64) {
    // SQLite also lengthens files so.
    content.resize(len as usize, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Vec<Entry> {
        let write = |at: u64, byte: u8| Entry::Write {
            file: "f".to_owned(),
            at,
            data: vec![byte; 1024],
        };
        let sync = Entry::Sync { file: "f".to_owned() };
        vec![
            write(0, 1),
            sync.clone(),
            Entry::Note(7),
            write(1024, 2),
            write(0, 3),
            sync,
        ]
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_may_be_there() {
        let mut seen = std::collections::HashSet::new();
        rebuild(&record(), 1, 60, |image| {
            if image.point.0 < 5 {
                return;
            }
            assert_eq!(image.noted, [7]);
            let content = &image.files["f"];
            match image.point {
                (5, 0) => assert_eq!(content, &vec![1; 1024]),
                (5, 1) => assert_eq!(content, &[vec![3; 1024], vec![2; 1024]].concat()),
                (6, _) => assert_eq!(content, &[vec![3; 1024], vec![2; 1024]].concat()),
                _ => {
                    seen.insert(content.clone());
                }
            }
        });
        assert!(seen.len() > 5, "sectors are lost one by one: {}", seen.len());
    }

    #[test]
    fn a_file_that_was_never_synced_may_be_missing() {
        let log = [Entry::Write {
            file: "new".to_owned(),
            at: 0,
            data: vec![1; 10],
        }];
        let mut there = Vec::new();
        rebuild(&log, 1, 2, |image| there.push(image.files.contains_key("new")));
        assert_eq!(there, [false, true]);
    }
}
