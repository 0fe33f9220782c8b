//! The write-ahead log as it lies on the disk, and whether it belongs to its file: a file that was restored over the log
//! of its successor must not be turned back into that successor, nor a copy that lacks its log be taken for the whole.
//!
//! Invariant: whatever a crash or a loss of power can leave is accepted; only what no sequence of our own steps leaves is
//! refused ([ADR 0018](../../../../docs/adr/0018-log-of-its-own.md)). Nothing here writes.
//!
//! Every opening, every closing and every new beginning of the log raises a *mark* in the file's header
//! (`user_version`): a number that only grows, and in its two lowest bits what was done. The log holds the header of
//! each of its commits that changed it. So the file's own mark is the one before the log's first, or one of the log's.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use rusqlite::Connection;

use super::builder::{OpenError, OpenErrorKind};
use super::presence::{Presence, beside};

/// Marks below this were never made by us: the file is too old to have one.
const FIRST_MARK: u32 = 1 << 18;
const LAST_MARK: u32 = 1 << 29;
/// Looks that must agree before a file is refused.
const LOOKS: u32 = 4;

/// What a mark tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The last one who had the file open has closed it: there is no log.
    Closed = 0,
    /// Somebody opens the file; a log is there, with nothing but marks in it.
    Opening = 1,
    /// There is a log.
    Working = 2,
}

/// Raises the mark, within a transaction or as one of its own.
pub(crate) fn mark(connection: &Connection, phase: Phase) -> rusqlite::Result<()> {
    let now: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let number = match now >> 2 {
        none if none < FIRST_MARK => {
            // Files are told apart by where their numbers begin.
            let [a, b, c, ..] = uuid::Uuid::new_v4().into_bytes();
            FIRST_MARK + u32::from_be_bytes([0, a, b, c])
        }
        last if last >= LAST_MARK - 1 => FIRST_MARK,
        number => number + 1,
    };
    connection.pragma_update(None, "user_version", number << 2 | phase as u32)
}

/// What the header of a file, or the first page in a log, says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    mark: u32,
    changes: u32,
    uses_log: bool,
}

impl Head {
    fn read(page: &[u8]) -> Option<Self> {
        Some(Self {
            mark: number(page, 60)?,
            changes: number(page, 24)?,
            uses_log: page.get(18..20)? == [2, 2],
        })
    }

    fn number(self) -> Option<u32> {
        Some(self.mark >> 2).filter(|number| *number >= FIRST_MARK)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_be_bytes(four))
}

/// What a log holds: commits only, up to the first frame that is not whole.
#[derive(Debug, Default)]
pub(crate) struct Log {
    first: Option<Head>,
    last: Option<Head>,
    commits: u64,
}

impl Log {
    /// Reads the log of a file; `None` where there is no file for it.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut log = Self::default();
        let mut pending: Vec<Head> = Vec::new();
        let found = each_frame(path, |page, size, content| {
            if page == 1 {
                pending.extend(Head::read(content));
            }
            if size != 0 {
                log.commits += 1;
                log.first = log.first.or(pending.first().copied());
                log.last = pending.last().copied().or(log.last);
                pending.clear();
            }
        })?;
        Ok(found.then_some(log))
    }
}

/// Calls for each valid frame with its page number, the size of the file in pages after it where it ends a commit (or 0),
/// and the page. `false`: there is no log.
fn each_frame(path: &Path, mut frame: impl FnMut(u32, u32, &[u8])) -> io::Result<bool> {
    let mut file = match File::open(beside(path, "-wal")) {
        Ok(file) => BufReader::with_capacity(1 << 16, file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut head = [0; 32];
    if !fill(&mut file, &mut head)? {
        return Ok(true);
    }
    let field = |at| number(&head, at).unwrap_or_default();
    let big_endian = match field(0) {
        0x377f_0682 => false,
        0x377f_0683 => true,
        _ => return Ok(true),
    };
    let page_size = usize::try_from(field(8)).unwrap_or_default();
    let mut sum = add((0, 0), head.get(..24).unwrap_or_default(), big_endian);
    let sane = page_size.is_power_of_two() && (512..=65_536).contains(&page_size);
    if !sane || field(4) != 3_007_000 || sum != (field(24), field(28)) {
        return Ok(true);
    }
    let salts = head.get(16..24).unwrap_or_default();
    let mut one = vec![0; 24 + page_size];
    while fill(&mut file, &mut one)? {
        let (header, page) = one.split_at(24);
        if header.get(8..16) != Some(salts) {
            break;
        }
        sum = add(sum, header.get(..8).unwrap_or_default(), big_endian);
        sum = add(sum, page, big_endian);
        let field = |at| number(header, at).unwrap_or_default();
        if sum != (field(16), field(20)) || field(0) == 0 {
            break;
        }
        frame(field(0), field(4), page);
    }
    Ok(true)
}

/// Whether there was enough to fill the buffer.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// SQLite's checksum of a log: <https://sqlite.org/fileformat2.html#checksum_algorithm>.
fn add((mut a, mut b): (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    for eight in bytes.as_chunks::<8>().0 {
        let [p, q, r, s, t, u, v, w] = *eight;
        let (x, y) = if big_endian {
            (u32::from_be_bytes([p, q, r, s]), u32::from_be_bytes([t, u, v, w]))
        } else {
            (u32::from_le_bytes([p, q, r, s]), u32::from_le_bytes([t, u, v, w]))
        };
        a = a.wrapping_add(x).wrapping_add(b);
        b = b.wrapping_add(y).wrapping_add(a);
    }
    (a, b)
}

/// How a file and what lies beside it go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    /// As we, or a crash, leave them.
    Fits,
    /// The log is another file's, or another time's.
    Stranger,
    /// A log must be there.
    Lost,
    /// No log is there, and whoever wrote the file last did not close it in order: a log may be missing.
    Unclosed,
}

fn judge(presence: &Presence) -> io::Result<Match> {
    let Some(file) = Head::read(&presence.header()?) else {
        return Ok(Match::Fits);
    };
    let log = Log::read(presence.path())?;
    let Some(mark) = file.number() else {
        return Ok(Match::Fits);
    };
    let Some(log) = log else {
        return Ok(match file.mark & 3 {
            // Made by VACUUM INTO: whole in itself.
            _ if !file.uses_log => Match::Fits,
            phase if phase == Phase::Opening as u32 => Match::Lost,
            phase if phase == Phase::Working as u32 => Match::Unclosed,
            _ => Match::Fits,
        });
    };
    let (Some(first), Some(last)) = (log.first, log.last) else {
        // No commit has touched the header yet. Still, only a file that uses a log has one.
        return Ok(if log.commits > 0 && !file.uses_log {
            Match::Stranger
        } else {
            Match::Fits
        });
    };
    let (Some(from), Some(upto)) = (first.number(), last.number()) else {
        return Ok(Match::Fits);
    };
    let wrapped = upto < from;
    let in_range = wrapped || (from - 1..=upto).contains(&mark);
    // SQLite counts as well, and never downwards; a file that its backup interface made begins anew.
    let counted = file.changes.wrapping_add(1) >= first.changes;
    Ok(if file.uses_log && in_range && counted {
        Match::Fits
    } else {
        Match::Stranger
    })
}

/// Refuses a file whose log is a stranger's or is missing. `true`: its log may be missing.
pub(crate) fn check(presence: &Presence) -> Result<bool, OpenError> {
    let unreachable = |error: io::Error| OpenError::new(OpenErrorKind::Unreachable, error.to_string());
    let mut verdict = Match::Fits;
    for look in 0..LOOKS {
        // Whoever has it open works with that log, and changes both while we look.
        if !presence.is_alone().map_err(unreachable)? {
            return Ok(false);
        }
        verdict = judge(presence).map_err(unreachable)?;
        if matches!(verdict, Match::Fits | Match::Unclosed) {
            break;
        }
        if look + 1 < LOOKS {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    match verdict {
        Match::Fits => Ok(false),
        Match::Unclosed => Ok(true),
        Match::Stranger => Err(stranger(presence.path())),
        Match::Lost => Err(OpenError::new(
            OpenErrorKind::LogMissing,
            format!(
                "this is a copy of an open store without its log, so what was done since it was opened is missing; copy both \
                 together, or use VACUUM INTO (if it is the store itself, and nothing was done since: make an empty file {})",
                beside(presence.path(), "-wal").display()
            ),
        )),
    }
}

/// Refuses a log that lies where a file is to be made.
pub(crate) fn refuse_orphan(path: &Path) -> Result<(), OpenError> {
    let log = Log::read(path).map_err(|error| OpenError::new(OpenErrorKind::Unreachable, error.to_string()))?;
    match log {
        Some(log) if log.commits > 0 => Err(stranger(path)),
        _ => Ok(()),
    }
}

fn stranger(path: &Path) -> OpenError {
    let name = |ending| beside(path, ending).display().to_string();
    OpenError::new(
        OpenErrorKind::StrangersLog,
        format!(
            "the log beside it belongs to another state of the store, and would undo what was restored; if this file is the \
             one to go on with, remove {} and {} (keep them elsewhere first: the log holds commits)",
            name("-wal"),
            name("-shm")
        ),
    )
}

/// The file with its log folded in, as an image that needs neither log nor locks.
pub(crate) fn image(presence: &Presence) -> io::Result<Vec<u8>> {
    let mut content = presence.content()?;
    let page_size = match content.get(16..18) {
        Some([0, 1]) => 65_536,
        Some(&[high, low]) => usize::from(high) << 8 | usize::from(low),
        _ => 0,
    };
    let mut pending: Vec<(usize, Vec<u8>)> = Vec::new();
    each_frame(presence.path(), |page, size, bytes| {
        if bytes.len() != page_size {
            return;
        }
        pending.push(((page as usize - 1) * page_size, bytes.to_owned()));
        if size != 0 {
            content.resize(size as usize * page_size, 0);
            for (at, bytes) in pending.drain(..) {
                // A page beyond the end was cut off again within the same commit.
                if let Some(there) = content.get_mut(at..at + page_size) {
                    there.copy_from_slice(&bytes);
                }
            }
        }
    })?;
    // It uses no log.
    if let Some(versions) = content.get_mut(18..20) {
        versions.fill(1);
    }
    Ok(content)
}
