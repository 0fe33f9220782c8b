//! Carries a store from one place to another, across engines: rows that belong to no engine, and the copy itself.
//!
//! Invariants: the target shows nothing before everything has arrived, and then all of it at once; a copy that says that
//! it succeeded has read the source twice and the target once, and found the same content each time.

use duroxide::providers::ProviderError;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Number columns of a row. The last one only keeps the source's order, and is no content.
pub(crate) const NUMBERS: usize = 6;
/// Payload columns of a row.
pub(crate) const BLOBS: usize = 5;
/// Bounds of one page: rows, and payload bytes (one row may go beyond).
pub(crate) const PAGE_ROWS: usize = 2_000;
pub(crate) const PAGE_BYTES: usize = 4 << 20;

/// What a row is; the numbers stand in the SQL of both engines. Times are milliseconds since the epoch.
///
/// | kind | numbers | payloads |
/// |---|---|---|
/// | instance | execution, replay version, custom status version, created, updated | name, version, status, custom status, parent |
/// | execution | execution, replay version, started, completed | status, output |
/// | event | execution, event, kind | payload |
/// | message | visible at, attempts, kind | payload |
/// | activity | execution, activity, available at, attempts | tag, session, payload |
/// | session | last activity | session |
/// | key-value | base at, changed, delta at | key, base, delta |
/// | quarantined | execution, activity, at | queue, error, payload |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub(crate) enum Kind {
    Instance = 1,
    Execution = 2,
    Event = 3,
    Message = 4,
    Activity = 6,
    Session = 7,
    KeyValue = 8,
    Quarantined = 9,
}

/// A part of a store that is read page by page: a kind, or (5) messages that an engine keeps elsewhere until they are
/// routed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part(pub(crate) i16);

impl Part {
    const ALL: [Self; 9] = [
        Self(1),
        Self(2),
        Self(3),
        Self(4),
        Self(5),
        Self(6),
        Self(7),
        Self(8),
        Self(9),
    ];

    pub(crate) fn kind(self) -> Kind {
        match self.0 {
            1 => Kind::Instance,
            2 => Kind::Execution,
            3 => Kind::Event,
            4 | 5 => Kind::Message,
            6 => Kind::Activity,
            7 => Kind::Session,
            8 => Kind::KeyValue,
            _ => Kind::Quarantined,
        }
    }
}

/// A row on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub(crate) kind: Kind,
    pub(crate) instance: Option<String>,
    pub(crate) numbers: [Option<i64>; NUMBERS],
    pub(crate) blobs: [Option<Vec<u8>>; BLOBS],
}

impl Row {
    /// Payload bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.blobs.iter().flatten().map(Vec::len).sum()
    }

    /// Moves the times that decide something, for engines whose clock is not the wall clock.
    pub(crate) fn shift(&mut self, by_ms: i64) {
        let column = match self.kind {
            Kind::Message | Kind::Session => 0,
            Kind::Activity => 2,
            _ => return,
        };
        if let Some(Some(at)) = self.numbers.get_mut(column) {
            *at = at.saturating_add(by_ms);
        }
    }

    fn hash(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let mut field = |bytes: Option<&[u8]>| match bytes {
            None => hasher.update([0]),
            Some(bytes) => {
                hasher.update([1]);
                hasher.update((bytes.len() as u64).to_be_bytes());
                hasher.update(bytes);
            }
        };
        field(Some(&(self.kind as i16).to_be_bytes()));
        field(self.instance.as_deref().map(str::as_bytes));
        for number in self.numbers.iter().take(NUMBERS - 1) {
            field(number.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
        }
        for blob in &self.blobs {
            field(blob.as_deref());
        }
        hasher.finalize().into()
    }
}

/// Where a page ended.
#[derive(Debug, Clone)]
pub struct Position {
    pub(crate) numbers: [i64; 3],
    pub(crate) bytes: Vec<u8>,
}

impl Position {
    pub(crate) const START: Self = Self {
        numbers: [i64::MIN; 3],
        bytes: Vec::new(),
    };
}

/// Some rows of a part.
#[derive(Debug)]
pub struct Page {
    pub(crate) rows: Vec<Row>,
    /// `None`: there are no more.
    pub(crate) next: Option<Position>,
}

/// What must be known of a store before anything is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Leases that have not ended: instances, activities, sessions.
    pub(crate) leases: i64,
    /// When the last of them ends.
    pub(crate) longest_ms: i64,
    /// Whether nothing is in it.
    pub(crate) is_empty: bool,
    /// What to add to the store's own times to have them in milliseconds since the epoch.
    pub(crate) shift_ms: i64,
}

/// What the target made of the rows that it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// All of them are there now.
    All,
    /// Nothing was done: the store is not empty.
    NotEmpty,
    /// Nothing was done: they are not all there, since another copy to the same place has discarded some.
    Incomplete,
}

/// A store that can be carried elsewhere, and be filled from elsewhere. Implemented by both engines; use [`copy`].
#[async_trait::async_trait]
pub trait Transfer: Send + Sync {
    /// Looks before anything is carried.
    async fn transfer_state(&self) -> Result<State, ProviderError>;
    /// Reads a page of a part.
    async fn export_rows(&self, part: Part, after: Position, shift_ms: i64) -> Result<Page, ProviderError>;
    /// Keeps rows aside, where nobody sees them; the first ones (`first_row` 0) discard what an earlier copy left.
    async fn stage_rows(
        &self,
        copy_id: Uuid,
        first_row: u64,
        rows: Vec<Row>,
        shift_ms: i64,
    ) -> Result<(), ProviderError>;
    /// Takes all rows that were kept aside, at once, if there are so many and the store is empty.
    async fn take_staged(&self, copy_id: Uuid, rows: u64) -> Result<Taken, ProviderError>;
}

/// Why a store was not carried. Unless it says otherwise, the target is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// Somebody works on a store, or has died less than a lease ago.
    #[error("{leases} leases are held in the {side} (the last one ends in {longest_ms} ms): stop its workers first")]
    Leased {
        /// `source` or `target`.
        side: &'static str,
        /// How many.
        leases: i64,
        /// When the last one ends.
        longest_ms: i64,
    },
    /// The target holds something.
    #[error("the target is not empty: nothing is copied into a store that is in use")]
    NotEmpty,
    /// The source was worked on while it was copied.
    #[error("the source changed while it was copied: stop its workers and clients first; the target was left empty")]
    SourceChanged,
    /// Another copy to the same target came in between.
    #[error("another copy to the same target came in between; the target was left as it was")]
    Disturbed,
    /// What the target holds now is not what was sent.
    #[error("the target was filled and differs from the source: do not use it")]
    Differs,
    /// A store failed.
    #[error(transparent)]
    Store(#[from] ProviderError),
}

/// What was carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CopyReport {
    /// Instances, ended ones included.
    pub instances: u64,
    /// Executions of all of them.
    pub executions: u64,
    /// Events of all histories.
    pub events: u64,
    /// Messages that wait for an orchestration, timers included.
    pub messages: u64,
    /// Activities that wait for a worker.
    pub activities: u64,
    /// Sessions.
    pub sessions: u64,
    /// Key-values.
    pub key_values: u64,
    /// Items in quarantine.
    pub quarantined: u64,
    /// SHA-256 over the content of all rows, whatever their order: the same for both stores.
    pub checksum: String,
}

/// What a store holds, in short: per kind, how many rows and the sum of their hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Summary([(u64, [u64; 4]); 10]);

impl Summary {
    fn add(&mut self, row: &Row) {
        let Some((count, sum)) = self.0.get_mut(row.kind as usize) else {
            return;
        };
        *count += 1;
        for (lane, part) in sum.iter_mut().zip(row.hash().chunks_exact(8)) {
            let part: [u8; 8] = part.try_into().unwrap_or_default();
            *lane = lane.wrapping_add(u64::from_be_bytes(part));
        }
    }

    fn count(&self, kind: Kind) -> u64 {
        self.0.get(kind as usize).map_or(0, |k| k.0)
    }

    fn rows(&self) -> u64 {
        self.0.iter().map(|k| k.0).sum()
    }

    fn report(&self) -> CopyReport {
        let mut hasher = Sha256::new();
        for (count, sum) in &self.0 {
            hasher.update(count.to_be_bytes());
            sum.iter().for_each(|lane| hasher.update(lane.to_be_bytes()));
        }
        CopyReport {
            instances: self.count(Kind::Instance),
            executions: self.count(Kind::Execution),
            events: self.count(Kind::Event),
            messages: self.count(Kind::Message),
            activities: self.count(Kind::Activity),
            sessions: self.count(Kind::Session),
            key_values: self.count(Kind::KeyValue),
            quarantined: self.count(Kind::Quarantined),
            checksum: hasher.finalize().iter().map(|b| format!("{b:02x}")).collect(),
        }
    }
}

/// Carries everything in `from` to `to`, which must be empty: instances, histories, pending work with its attempts and
/// due times, key-values, sessions, the quarantine. Leases are not carried; attempts are.
///
/// No worker and no client may use either store meanwhile, and none may go on with the source afterwards, or the same
/// work is done twice. The source is not changed.
///
/// # Errors
/// [`CopyError`]: also when a lease is held, when the target is not empty, and when what arrived is not what was sent.
pub async fn copy(from: &dyn Transfer, to: &dyn Transfer) -> Result<CopyReport, CopyError> {
    let source = idle(from, "source").await?;
    let target = idle(to, "target").await?;
    if !target.is_empty {
        return Err(CopyError::NotEmpty);
    }
    let copy_id = Uuid::new_v4();
    // Also without any row, what an earlier copy left is discarded.
    to.stage_rows(copy_id, 0, Vec::new(), target.shift_ms).await?;
    let sent = walk(from, source.shift_ms, Some((to, target.shift_ms, copy_id))).await?;
    let again = walk(from, source.shift_ms, None).await?;
    if again != sent || idle(from, "source").await.is_err() {
        return Err(CopyError::SourceChanged);
    }
    match to.take_staged(copy_id, sent.rows()).await? {
        Taken::All => {}
        Taken::NotEmpty => return Err(CopyError::NotEmpty),
        Taken::Incomplete => return Err(CopyError::Disturbed),
    }
    if walk(to, target.shift_ms, None).await? != sent {
        return Err(CopyError::Differs);
    }
    Ok(sent.report())
}

/// Fails where [`copy`] would refuse this source, because leases are held in it: asked before a target is made.
///
/// # Errors
/// [`CopyError::Leased`], or that the store cannot be asked.
pub async fn require_idle(source: &dyn Transfer) -> Result<(), CopyError> {
    idle(source, "source").await.map(drop)
}

async fn idle(store: &dyn Transfer, side: &'static str) -> Result<State, CopyError> {
    let state = store.transfer_state().await?;
    if state.leases > 0 {
        return Err(CopyError::Leased {
            side,
            leases: state.leases,
            longest_ms: state.longest_ms,
        });
    }
    Ok(state)
}

/// Reads everything, and hands it on if somebody wants it.
async fn walk(
    from: &dyn Transfer,
    shift_ms: i64,
    to: Option<(&dyn Transfer, i64, Uuid)>,
) -> Result<Summary, CopyError> {
    let mut summary = Summary::default();
    for part in Part::ALL {
        let mut after = Some(Position::START);
        while let Some(position) = after {
            let page = from.export_rows(part, position, shift_ms).await?;
            let first_row = summary.rows();
            page.rows.iter().for_each(|row| summary.add(row));
            if let Some((to, shift_ms, copy_id)) = to
                && !page.rows.is_empty()
            {
                to.stage_rows(copy_id, first_row, page.rows, shift_ms).await?;
            }
            after = page.next;
        }
    }
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            kind: Kind::Message,
            instance: Some("i".to_owned()),
            numbers: [Some(1), Some(2), Some(3), None, None, Some(9)],
            blobs: [Some(b"payload".to_vec()), None, None, None, None],
        }
    }

    #[test]
    fn everything_but_the_source_s_order_counts() {
        let mut other = row();
        other.numbers[NUMBERS - 1] = Some(10);
        assert_eq!(row().hash(), other.hash());
        other.numbers[0] = None;
        assert_ne!(row().hash(), other.hash());
        let mut other = row();
        other.blobs.swap(0, 1);
        assert_ne!(row().hash(), other.hash());
    }

    #[test]
    fn equal_rows_count_each() {
        let (mut once, mut twice) = (Summary::default(), Summary::default());
        once.add(&row());
        twice.add(&row());
        twice.add(&row());
        assert_ne!(once, twice);
        assert_ne!(once.report().checksum, twice.report().checksum);
        assert_eq!(twice.report().messages, 2);
    }

    #[test]
    fn only_deciding_times_are_shifted() {
        let mut shifted = row();
        shifted.shift(5);
        assert_eq!(shifted.numbers[0], Some(6));
        let mut event = Row {
            kind: Kind::Event,
            ..row()
        };
        event.shift(5);
        assert_eq!(event.numbers[0], Some(1));
    }
}
