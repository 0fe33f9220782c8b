//! Reads histories; what this process has seen already is not read and decoded again.
//!
//! Invariant: a read sees everything that was committed before it was called; the cache only saves work, never the
//! question.

use std::sync::Arc;

use duroxide::Event;
use rusqlite::{Connection, OptionalExtension};

use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::history_cache::CachedHistory;
use crate::item::decode_history;
use crate::limit::HistoryLimit;

/// What the file says of a history.
struct Found {
    key: i64,
    execution_id: i64,
    revision: i64,
    /// Whether the events follow those of the cache.
    partial: bool,
    events: Vec<Vec<u8>>,
}

/// What is known of the history that is asked for.
#[derive(Clone, Copy)]
struct Known {
    key: i64,
    execution_id: i64,
    revision: i64,
    last_event_id: i64,
}

/// The history of an execution (`None`: the current one); empty when there is none.
pub(crate) async fn read_execution(
    store: &Store,
    instance: &str,
    execution_id: Option<i64>,
) -> Result<Vec<Event>, StoreError> {
    let cached = cached(store, instance);
    let known = cached.as_ref().map(|(key, entry)| Known {
        key: *key,
        execution_id: entry.execution_id,
        revision: entry.revision,
        last_event_id: entry.last_event_id(),
    });
    let (id, limit) = (instance.to_owned(), store.history_limit());
    let found = store
        .ask(move |connection| look(connection, &id, execution_id, known, limit))
        .await?;
    let Some(found) = found else { return Ok(Vec::new()) };
    let bytes = found.events.iter().map(Vec::len).sum();
    let fresh = decode_history(&found.events).map_err(|e| StoreError::Decode(format!("{instance}: {e}")))?;
    drop(found.events);
    if let (true, Some((_, entry))) = (found.partial, cached) {
        let mut events = Arc::unwrap_or_clone(entry.events);
        if !fresh.is_empty() {
            store
                .cache()
                .extend_seen(found.key, found.execution_id, found.revision, &fresh, bytes);
            events.extend(fresh);
        }
        return Ok(events);
    }
    if execution_id.is_none() && !fresh.is_empty() {
        let whole = Arc::new(fresh);
        store.cache().put_named(
            instance,
            found.key,
            found.execution_id,
            found.revision,
            Arc::clone(&whole),
            bytes,
        );
        return Ok(Arc::unwrap_or_clone(whole));
    }
    Ok(fresh)
}

fn cached(store: &Store, instance: &str) -> Option<(i64, CachedHistory)> {
    let mut cache = store.cache();
    let key = cache.key_of(instance)?;
    cache.get(key).map(|entry| (key, entry))
}

fn look(
    connection: &Connection,
    instance: &str,
    wanted: Option<i64>,
    known: Option<Known>,
    limit: HistoryLimit,
) -> Result<Option<Found>, StoreError> {
    let header: Option<(i64, i64, i64)> = connection
        .prepare_cached("SELECT instance_key, execution_id, history_revision FROM sf_instance WHERE instance_id = ?1")?
        .query_row([instance], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((key, current, revision)) = header else {
        return Ok(None);
    };
    let execution_id = wanted.unwrap_or(current);
    let last: Option<i64> = connection
        .prepare_cached("SELECT max(event_id) FROM sf_event WHERE instance_key = ?1 AND execution_id = ?2")?
        .query_row((key, execution_id), |row| row.get(0))?;
    let known = known.filter(|k| {
        (k.key, k.execution_id, k.revision) == (key, execution_id, revision) && k.last_event_id <= last.unwrap_or(0)
    });
    let after = known.map_or(-1, |k| k.last_event_id);
    let events = if last.is_none_or(|last| last <= after) {
        Vec::new()
    } else {
        let bytes: i64 = connection
            .prepare_cached(
                "SELECT coalesce(sum(length(payload)), 0) FROM sf_event
                 WHERE instance_key = ?1 AND execution_id = ?2 AND event_id > ?3",
            )?
            .query_row((key, execution_id, after), |row| row.get(0))?;
        limit.check_read(usize::try_from(bytes).unwrap_or(usize::MAX))?;
        let mut statement = connection.prepare_cached(
            "SELECT payload FROM sf_event WHERE instance_key = ?1 AND execution_id = ?2 AND event_id > ?3
             ORDER BY event_id",
        )?;
        let rows = statement.query_map((key, execution_id, after), |row| row.get(0))?;
        rows.collect::<Result<_, _>>()?
    };
    Ok(Some(Found {
        key,
        execution_id,
        revision,
        partial: known.is_some(),
        events,
    }))
}
