//! Claims of instances: what a look of the writer takes for waiting dispatchers.
//!
//! Invariants: a claim reads an index in order of due time and stops at its limit, so that leased, delayed, foreign and
//! incompatible rows cost nothing; the attempt is counted in the commit that precedes the hand-over.

pub(crate) mod isolation;
pub(crate) mod work;

use std::sync::Arc;
use std::time::Duration;

use duroxide::Event;

use self::isolation::{Isolation, Item};
use super::error::StoreError;
use super::op::schedule::{UNSEEN, UNSTARTED, place};
use super::transaction::Tx;
use crate::group::TurnGroup;
use crate::history_cache::HistoryCache;
use crate::limit::MAX_CLAIM;
use crate::pending::LISTED_BYTES;
use crate::token::TurnToken;

/// Most messages and bytes that one turn is handed; the rest waits for the next.
const MAX_MESSAGES: usize = 1000;
const MAX_BYTES: usize = 4 << 20;
/// So many instances are examined at a time for messages that nobody will ever take.
const PAGE: i64 = 64;

/// A claimed instance as it came from the file.
pub(crate) struct RawTurn {
    pub(crate) token: TurnToken,
    pub(crate) instance: String,
    pub(crate) name: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) execution_id: i64,
    pub(crate) revision: i64,
    pub(crate) attempt_count: u32,
    /// Ids and payloads, in order of arrival; no payload where that is too large to be handed out.
    pub(crate) messages: Vec<(i64, Option<Vec<u8>>)>,
    /// What the cache had of the history.
    pub(crate) cached: Option<Arc<Vec<Event>>>,
    /// What follows; or why nothing of it is handed out.
    pub(crate) events: Result<Vec<Vec<u8>>, String>,
    pub(crate) kv: Vec<(String, String, Option<i64>)>,
}

impl RawTurn {
    /// What it takes of memory, beside the cache.
    fn bytes(&self) -> usize {
        let messages = self.messages.iter().filter_map(|(_, payload)| payload.as_ref());
        let events = self.events.iter().flatten();
        messages.chain(events).map(Vec::len).sum()
    }
}

/// What a look found.
pub(crate) struct Looked<I> {
    pub(crate) items: Vec<(Option<usize>, I)>,
    pub(crate) next_due: Option<Duration>,
}

impl<I> Looked<I> {
    pub(crate) fn nothing() -> Self {
        Self {
            items: Vec::new(),
            next_due: None,
        }
    }
}

/// Claims up to `want` instances.
pub(crate) fn turns(
    tx: &mut Tx<'_>,
    cache: &mut HistoryCache,
    group: &TurnGroup,
    claim: i64,
    want: usize,
) -> Result<Looked<RawTurn>, StoreError> {
    examine_unseen(tx)?;
    let lanes = lanes(tx, group)?;
    let mut isolation = Isolation::new(tx, claim)?;
    let mut items = Vec::with_capacity(want);
    let mut bytes = 0;
    while items.len() < want && bytes < MAX_CLAIM {
        let due = due(tx, &lanes, want - items.len())?;
        if due.is_empty() {
            break;
        }
        for key in due {
            if put_off(tx, &mut isolation, key)? {
                continue;
            }
            if let Some(turn) = take(tx, cache, group, claim, key)? {
                bytes += turn.bytes();
                items.push((None, turn));
            }
            if bytes >= MAX_CLAIM {
                break;
            }
        }
    }
    let next_due = if bytes >= MAX_CLAIM {
        // The rest at once, by another look.
        Some(Duration::ZERO)
    } else if items.len() < want {
        next_due(tx, &lanes)?
    } else {
        None
    };
    Ok(Looked { items, next_due })
}

/// Queue messages for an instance that nobody has started are dropped, as the provider guide demands; other messages
/// wait for its start.
fn examine_unseen(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    let keys: Vec<i64> = tx.all(
        "SELECT instance_key FROM sf_turn WHERE lane = ?1 AND available_at <= ?2 LIMIT ?3",
        (UNSEEN, tx.now, PAGE),
        |row| row.get(0),
    )?;
    for key in keys {
        let other: Option<i64> = tx.one(
            "SELECT 1 FROM sf_message WHERE instance_key = ?1 AND kind <> 3 LIMIT 1",
            [key],
            |row| row.get(0),
        )?;
        if other.is_some() {
            tx.execute("UPDATE sf_turn SET lane = ?2 WHERE instance_key = ?1", (key, UNSTARTED))?;
            continue;
        }
        let dropped = tx.execute(
            "DELETE FROM sf_message WHERE instance_key = ?1 AND visible_at <= ?2",
            (key, tx.now),
        )?;
        tracing::warn!(target: "steadfast", dropped, "dropped queue messages of an orchestration that nobody started");
        place(tx, key)?;
        tx.execute(
            "DELETE FROM sf_instance WHERE instance_key = ?1
               AND NOT EXISTS (SELECT 1 FROM sf_message WHERE instance_key = ?1)
               AND NOT EXISTS (SELECT 1 FROM sf_work WHERE instance_key = ?1)
               AND NOT EXISTS (SELECT 1 FROM sf_event WHERE instance_key = ?1)",
            [key],
        )?;
    }
    Ok(())
}

/// The lanes in use that the group may take, by one index probe each.
fn lanes(tx: &Tx<'_>, group: &TurnGroup) -> Result<Vec<i64>, StoreError> {
    let mut lanes = Vec::new();
    let mut after = UNSTARTED;
    loop {
        let next: Option<Option<i64>> = tx.one("SELECT min(lane) FROM sf_turn WHERE lane > ?1", [after], |row| {
            row.get(0)
        })?;
        let Some(lane) = next.flatten() else { return Ok(lanes) };
        match group.versions {
            Some((min, _)) if lane != 0 && lane < min => after = min - 1,
            Some((_, max)) if lane > max => return Ok(lanes),
            _ => {
                lanes.push(lane);
                after = lane;
            }
        }
    }
}

/// Due instances of these lanes, longest due first.
fn due(tx: &Tx<'_>, lanes: &[i64], want: usize) -> Result<Vec<i64>, StoreError> {
    let mut due: Vec<(i64, i64)> = Vec::new();
    for lane in lanes {
        due.extend(tx.all(
            "SELECT available_at, instance_key FROM sf_turn WHERE lane = ?1 AND available_at <= ?2
             ORDER BY available_at LIMIT ?3",
            (lane, tx.now, i64::try_from(want).unwrap_or(i64::MAX)),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?);
    }
    due.sort_unstable();
    due.truncate(want);
    Ok(due.into_iter().map(|(_, key)| key).collect())
}

fn next_due(tx: &Tx<'_>, lanes: &[i64]) -> Result<Option<Duration>, StoreError> {
    let mut next: Option<i64> = None;
    for lane in lanes.iter().chain(&[UNSEEN]) {
        let at: Option<i64> = tx.one(
            "SELECT available_at FROM sf_turn WHERE lane = ?1 AND available_at > ?2 ORDER BY available_at LIMIT 1",
            (lane, tx.now),
            |row| row.get(0),
        )?;
        next = next.into_iter().chain(at).min();
    }
    Ok(next.map(|at| delay(tx, at)))
}

/// How long until a store time.
pub(crate) fn delay(tx: &Tx<'_>, at: i64) -> Duration {
    Duration::from_millis(u64::try_from(at.saturating_sub(tx.now)).unwrap_or(0))
}

/// A lease lasts at least a moment, so that what was claimed is not due again within the same look.
pub(crate) fn until(tx: &Tx<'_>, lease_ms: i64) -> i64 {
    tx.now.saturating_add(lease_ms.max(1))
}

/// Counts an attempt that ended with its lease, and puts the instance off if it is to be kept apart.
fn put_off(tx: &mut Tx<'_>, isolation: &mut Isolation, key: i64) -> Result<bool, StoreError> {
    let held: Option<(Option<i64>, Option<i64>)> = tx.one(
        "SELECT claim, lease_ms FROM sf_turn WHERE instance_key = ?1",
        [key],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let (ended, lease_ms) = held.unwrap_or_default();
    let item = Item {
        instance_key: key,
        work_id: 0,
        ended: ended.filter(|claim| *claim > 0),
        lease_ms: lease_ms.unwrap_or(0),
    };
    let Some(verdict) = isolation.judge(tx, item)? else {
        return Ok(false);
    };
    if let Some(ended) = item.ended {
        tx.execute(
            "UPDATE sf_message SET claim = NULL, attempt_count = max(0, attempt_count - ?3)
             WHERE instance_key = ?1 AND claim = ?2",
            (key, ended, i64::from(verdict.unspent)),
        )?;
    }
    let Some(until) = verdict.off_until else {
        return Ok(false);
    };
    // As if somebody had it: nobody's claim.
    tx.execute(
        "UPDATE sf_turn SET claim = -1, available_at = ?2 WHERE instance_key = ?1",
        (key, until),
    )?;
    tx.turn_at(until);
    Ok(true)
}

/// Claims one due instance; `None` when none of its messages can be taken after all.
fn take(
    tx: &mut Tx<'_>,
    cache: &mut HistoryCache,
    group: &TurnGroup,
    claim: i64,
    key: i64,
) -> Result<Option<RawTurn>, StoreError> {
    let Some(header) = header(tx, key)? else {
        // Nobody removes an instance without its scheduling row, but a hand with a tool might.
        tx.execute("DELETE FROM sf_turn WHERE instance_key = ?1", [key])?;
        tx.execute("DELETE FROM sf_message WHERE instance_key = ?1", [key])?;
        return Ok(None);
    };
    let page = messages(tx, key, header.name.is_none())?;
    let Some(upto_at) = page.messages.iter().map(|m| m.visible_at).max() else {
        place(tx, key)?;
        return Ok(None);
    };
    set_aside(tx, key, &header.instance, &page)?;
    mark(tx, key, claim, &page, upto_at)?;
    tx.execute(
        "UPDATE sf_turn SET claim = ?2, available_at = ?3, leased_at = ?4, lease_ms = ?5, upto_at = ?6
         WHERE instance_key = ?1",
        (key, claim, until(tx, group.lease_ms), tx.now, group.lease_ms, upto_at),
    )?;
    let (cached, events) = history(tx, cache, key, &header)?;
    let kv = if header.has_kv { kv(tx, key)? } else { Vec::new() };
    let attempts = page.messages.iter().map(|m| m.attempts + 1).max().unwrap_or(1);
    let messages: Vec<(i64, Option<Vec<u8>>)> = page.messages.into_iter().map(|m| (m.id, m.payload)).collect();
    Ok(Some(RawTurn {
        token: TurnToken {
            instance_key: key,
            claim,
            upto: messages.last().map_or(0, |m| m.0),
            lease: Duration::from_millis(group.lease_ms.unsigned_abs()),
        },
        instance: header.instance,
        name: header.name,
        version: header.version,
        execution_id: header.execution_id,
        revision: header.revision,
        attempt_count: u32::try_from(attempts).unwrap_or(u32::MAX),
        messages,
        cached,
        events,
        kv,
    }))
}

/// What the file says of the instance itself.
struct Header {
    instance: String,
    name: Option<String>,
    version: Option<String>,
    execution_id: i64,
    revision: i64,
    last_event_id: i64,
    has_kv: bool,
}

fn header(tx: &Tx<'_>, key: i64) -> Result<Option<Header>, StoreError> {
    tx.one(
        "SELECT instance_id, orchestration_name, orchestration_version, execution_id, history_revision,
                (SELECT max(event_id) FROM sf_event e
                 WHERE e.instance_key = i.instance_key AND e.execution_id = i.execution_id),
                EXISTS (SELECT 1 FROM sf_kv v WHERE v.instance_key = i.instance_key)
         FROM sf_instance i WHERE instance_key = ?1",
        [key],
        |row| {
            Ok(Header {
                instance: row.get(0)?,
                name: row.get(1)?,
                version: row.get(2)?,
                execution_id: row.get(3)?,
                revision: row.get(4)?,
                last_event_id: row.get::<_, Option<i64>>(5)?.unwrap_or(0),
                has_kv: row.get(6)?,
            })
        },
    )
}

fn kv(tx: &Tx<'_>, key: i64) -> Result<Vec<(String, String, Option<i64>)>, StoreError> {
    tx.all(
        "SELECT key, base_value, base_at_ms FROM sf_kv WHERE instance_key = ?1 AND base_value IS NOT NULL",
        [key],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
}

struct Claimable {
    id: i64,
    visible_at: i64,
    attempts: i64,
    /// Unless it is too large, or was: [`set_aside`].
    payload: Option<Vec<u8>>,
    bytes: i64,
}

struct Page {
    messages: Vec<Claimable>,
    /// More are due than are taken.
    cut: bool,
}

/// The due messages of an instance, within bounds, in order of arrival. A start comes along whatever waits before it:
/// without it the rest means nothing.
fn messages(tx: &Tx<'_>, key: i64, unnamed: bool) -> Result<Page, StoreError> {
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Claimable {
            id: row.get(0)?,
            visible_at: row.get(1)?,
            attempts: row.get(2)?,
            payload: row.get(3)?,
            bytes: row.get(4)?,
        })
    };
    let mut messages: Vec<Claimable> = Vec::new();
    let (mut bytes, mut cut) = (0, false);
    // A continuation carries unread events beside its input: it may be as large as a history, which it begins.
    let mut statement = tx.statement(
        "SELECT message_id, visible_at, attempt_count,
                CASE WHEN length(payload) <= CASE kind WHEN 2 THEN max(?3, ?4) ELSE ?3 END
                          AND substr(payload, 1, 1) <> x'20' THEN payload END, length(payload)
         FROM sf_message WHERE instance_key = ?1 AND visible_at <= ?2 ORDER BY visible_at, message_id",
    )?;
    let mut rows = statement.query((key, tx.now, tx.handed_out, tx.history_limit.bytes()))?;
    while let Some(row) = rows.next()? {
        if messages.len() == MAX_MESSAGES || bytes >= MAX_BYTES {
            cut = true;
            break;
        }
        let message = read(row)?;
        bytes += message.payload.as_ref().map_or(0, Vec::len);
        messages.push(message);
    }
    drop(rows);
    if cut && unnamed {
        let starts = tx.all(
            "SELECT message_id, visible_at, attempt_count,
                    CASE WHEN length(payload) <= CASE kind WHEN 2 THEN max(?3, ?4) ELSE ?3 END
                              AND substr(payload, 1, 1) <> x'20' THEN payload END, length(payload)
             FROM sf_message WHERE instance_key = ?1 AND kind IN (1, 2) AND visible_at <= ?2",
            (key, tx.now, tx.handed_out, tx.history_limit.bytes()),
            read,
        )?;
        for start in starts {
            if !messages.iter().any(|m| m.id == start.id) {
                messages.push(start);
            }
        }
    }
    messages.sort_unstable_by_key(|m| m.id);
    Ok(Page { messages, cut })
}

/// A row is written as a whole whenever anything of it changes: one that is too large to be handed out would be written twice
/// with each attempt, and everybody would wait for that. So its payload goes to the quarantine, once. What stays is its
/// beginning, which says what it starts, behind a space, with which no payload begins.
fn set_aside(tx: &Tx<'_>, key: i64, instance: &str, page: &Page) -> Result<(), StoreError> {
    let whole = |m: &&Claimable| m.payload.is_none() && m.bytes > i64::from(LISTED_BYTES) + 1;
    for message in page.messages.iter().filter(whole) {
        let at = (key, message.visible_at, message.id);
        tracing::error!(target: "steadfast", instance, bytes = message.bytes,
            "a message is larger than payload_limit: its instance will fail");
        metrics::counter!("steadfast_quarantined_total", "queue" => "orchestrator").increment(1);
        let beginning: Option<Vec<u8>> = tx.one(
            "SELECT substr(payload, 1, ?4) FROM sf_message
             WHERE instance_key = ?1 AND visible_at = ?2 AND message_id = ?3",
            (at.0, at.1, at.2, LISTED_BYTES),
            |row| row.get(0),
        )?;
        tx.execute(
            "INSERT INTO sf_quarantine (queue, instance_id, error, payload, quarantined_at_ms)
             SELECT 'orchestrator', ?4, 'larger than payload_limit', payload, ?5 FROM sf_message
             WHERE instance_key = ?1 AND visible_at = ?2 AND message_id = ?3",
            (at.0, at.1, at.2, instance, tx.wall_ms),
        )?;
        let mut left = vec![b' '];
        left.extend(beginning.unwrap_or_default());
        tx.execute(
            "UPDATE sf_message SET payload = ?4 WHERE instance_key = ?1 AND visible_at = ?2 AND message_id = ?3",
            (at.0, at.1, at.2, left),
        )?;
    }
    Ok(())
}

/// Marks the messages as the claim's, and counts the attempt.
fn mark(tx: &Tx<'_>, key: i64, claim: i64, page: &Page, upto_at: i64) -> Result<(), StoreError> {
    if !page.cut {
        tx.execute(
            "UPDATE sf_message SET claim = ?2, attempt_count = attempt_count + 1
             WHERE instance_key = ?1 AND visible_at <= ?3",
            (key, claim, upto_at),
        )?;
        return Ok(());
    }
    for message in &page.messages {
        tx.execute(
            "UPDATE sf_message SET claim = ?2, attempt_count = attempt_count + 1
             WHERE instance_key = ?1 AND visible_at = ?3 AND message_id = ?4",
            (key, claim, message.visible_at, message.id),
        )?;
    }
    Ok(())
}

/// What the cache has of a history, and what follows it in the file.
type History = (Option<Arc<Vec<Event>>>, Result<Vec<Vec<u8>>, String>);

/// The history of an execution: as far as the cache has it, from there; the rest from the file.
fn history(tx: &Tx<'_>, cache: &mut HistoryCache, key: i64, header: &Header) -> Result<History, StoreError> {
    let last = header.last_event_id;
    let entry = cache.get(key).filter(|c| {
        (c.execution_id, c.revision) == (header.execution_id, header.revision) && c.last_event_id() <= last
    });
    let (cached, known, held) = match entry {
        Some(entry) => {
            let (known, held) = (entry.last_event_id(), entry.payload_bytes());
            (Some(entry.events), known, held)
        }
        None => (None, -1, 0),
    };
    let outcome = match (&cached, known == last) {
        (Some(_), true) => "hit",
        (Some(_), false) => "stale",
        (None, _) => "miss",
    };
    metrics::counter!("steadfast_history_cache_total", "outcome" => outcome).increment(1);
    let follows = known.max(0) != last;
    if let Err(error) = tx
        .history_limit
        .check(held + if follows { size(tx, key, header, known)? } else { 0 })
    {
        return Ok((None, Err(error.to_string())));
    }
    if !follows {
        return Ok((cached, Ok(Vec::new())));
    }
    let events = tx.all(
        "SELECT payload FROM sf_event WHERE instance_key = ?1 AND execution_id = ?2 AND event_id > ?3
         ORDER BY event_id",
        (key, header.execution_id, known),
        |row| row.get(0),
    )?;
    Ok((cached, Ok(events)))
}

/// Bytes of the events after `known`, which are not read for it.
fn size(tx: &Tx<'_>, key: i64, header: &Header, known: i64) -> Result<usize, StoreError> {
    let bytes: Option<Option<i64>> = tx.one(
        "SELECT sum(length(payload)) FROM sf_event WHERE instance_key = ?1 AND execution_id = ?2 AND event_id > ?3",
        (key, header.execution_id, known),
        |row| row.get(0),
    )?;
    Ok(usize::try_from(bytes.flatten().unwrap_or(0)).unwrap_or(usize::MAX))
}
