//! Claims of instances: what a look of the writer takes for waiting dispatchers.
//!
//! Invariants: a claim reads an index in order of due time and stops at its limit, so that leased, delayed, foreign and
//! incompatible rows cost nothing; the attempt is counted in the commit that precedes the hand-over.

pub(crate) mod work;

use std::sync::Arc;
use std::time::Duration;

use duroxide::Event;

use super::error::StoreError;
use super::op::schedule::{MAX_MESSAGES, UNSEEN, UNSTARTED, place};
use super::transaction::Tx;
use crate::group::TurnGroup;
use crate::history_cache::HistoryCache;
use crate::token::TurnToken;

/// Most bytes that one turn is handed; the rest waits for the next.
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
    /// Ids and payloads, in order of arrival.
    pub(crate) messages: Vec<(i64, Vec<u8>)>,
    /// What the cache had of the history.
    pub(crate) cached: Option<Arc<Vec<Event>>>,
    /// What follows.
    pub(crate) events: Vec<Vec<u8>>,
    pub(crate) kv: Vec<(String, String, Option<i64>)>,
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
    let mut items = Vec::with_capacity(want);
    while items.len() < want {
        let due = due(tx, &lanes, want - items.len())?;
        if due.is_empty() {
            break;
        }
        for key in due {
            if let Some(turn) = take(tx, cache, group, claim, key)? {
                items.push((None, turn));
            }
        }
    }
    let next_due = if items.len() < want {
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

/// Claims one due instance; `None` when none of its messages can be taken after all.
fn take(
    tx: &mut Tx<'_>,
    cache: &mut HistoryCache,
    group: &TurnGroup,
    claim: i64,
    key: i64,
) -> Result<Option<RawTurn>, StoreError> {
    let header = tx.one(
        "SELECT instance_id, orchestration_name, orchestration_version, execution_id, history_revision
         FROM sf_instance WHERE instance_key = ?1",
        [key],
        |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, Option<String>>(1)?,
                row.get::<_, Option<String>>(2)?,
                row.get::<_, i64>(3)?,
                row.get::<_, i64>(4)?,
            ))
        },
    )?;
    let Some((instance, name, version, execution_id, revision)) = header else {
        // Nobody removes an instance without its scheduling row, but a hand with a tool might.
        tx.execute("DELETE FROM sf_turn WHERE instance_key = ?1", [key])?;
        tx.execute("DELETE FROM sf_message WHERE instance_key = ?1", [key])?;
        return Ok(None);
    };
    let messages = messages(tx, key, name.is_none())?;
    if messages.is_empty() {
        place(tx, key)?;
        return Ok(None);
    }
    let mut attempts = 0;
    for message in &messages {
        let attempt: Option<i64> = tx.one(
            "UPDATE sf_message SET claim = ?2, attempt_count = attempt_count + 1 WHERE message_id = ?1
             RETURNING attempt_count",
            (message.0, claim),
            |row| row.get(0),
        )?;
        attempts = attempts.max(attempt.unwrap_or(0));
    }
    tx.execute(
        "UPDATE sf_turn SET claim = ?2, available_at = ?3, leased_at = ?4, lease_ms = ?5 WHERE instance_key = ?1",
        (key, claim, until(tx, group.lease_ms), tx.now, group.lease_ms),
    )?;
    let (cached, events) = history(tx, cache, key, execution_id, revision)?;
    let kv = tx.all(
        "SELECT key, base_value, base_at_ms FROM sf_kv WHERE instance_key = ?1 AND base_value IS NOT NULL",
        [key],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    Ok(Some(RawTurn {
        token: TurnToken {
            instance_key: key,
            claim,
            upto: messages.last().map_or(0, |m| m.0),
            lease: Duration::from_millis(group.lease_ms.unsigned_abs()),
        },
        instance,
        name,
        version,
        execution_id,
        revision,
        attempt_count: u32::try_from(attempts).unwrap_or(u32::MAX),
        messages,
        cached,
        events,
        kv,
    }))
}

/// The due messages of an instance, within bounds, in order of arrival. A start comes along whatever waits before it:
/// without it the rest means nothing.
fn messages(tx: &Tx<'_>, key: i64, unnamed: bool) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    let mut found: Vec<(i64, Vec<u8>)> = Vec::new();
    let mut bytes = 0;
    let mut statement = tx.statement(
        "SELECT message_id, payload FROM sf_message WHERE instance_key = ?1 AND visible_at <= ?2
         ORDER BY visible_at, message_id LIMIT ?3",
    )?;
    let mut rows = statement.query((key, tx.now, MAX_MESSAGES))?;
    while let Some(row) = rows.next()? {
        let payload: Vec<u8> = row.get(1)?;
        bytes += payload.len();
        found.push((row.get(0)?, payload));
        if bytes >= MAX_BYTES {
            break;
        }
    }
    if unnamed {
        let starts: Vec<(i64, Vec<u8>)> = tx.all(
            "SELECT message_id, payload FROM sf_message
             WHERE instance_key = ?1 AND kind IN (1, 2) AND visible_at <= ?2",
            (key, tx.now),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        for start in starts {
            if !found.iter().any(|m| m.0 == start.0) {
                found.push(start);
            }
        }
    }
    found.sort_unstable_by_key(|m| m.0);
    Ok(found)
}

/// What the cache has of a history, and what follows it in the file.
type History = (Option<Arc<Vec<Event>>>, Vec<Vec<u8>>);

/// The history of an execution: as far as the cache has it, from there; the rest from the file.
pub(crate) fn history(
    tx: &Tx<'_>,
    cache: &mut HistoryCache,
    key: i64,
    execution_id: i64,
    revision: i64,
) -> Result<History, StoreError> {
    let last: Option<Option<i64>> = tx.one(
        "SELECT max(event_id) FROM sf_event WHERE instance_key = ?1 AND execution_id = ?2",
        (key, execution_id),
        |row| row.get(0),
    )?;
    let last = last.flatten().unwrap_or(0);
    let entry = cache
        .get(key)
        .filter(|c| c.execution_id == execution_id && c.revision == revision && c.last_event_id() <= last);
    let (cached, known) = match entry {
        Some(entry) => {
            let known = entry.last_event_id();
            (Some(entry.events), known)
        }
        None => (None, -1),
    };
    let outcome = match (&cached, known == last) {
        (Some(_), true) => "hit",
        (Some(_), false) => "stale",
        (None, _) => "miss",
    };
    metrics::counter!("steadfast_history_cache_total", "outcome" => outcome).increment(1);
    let events = if cached.is_some() && known == last {
        Vec::new()
    } else {
        tx.all(
            "SELECT payload FROM sf_event WHERE instance_key = ?1 AND execution_id = ?2 AND event_id > ?3
             ORDER BY event_id",
            (key, execution_id, known),
            |row| row.get(0),
        )?
    };
    Ok((cached, events))
}
