//! Reads histories; what this process has seen already does not travel again.
//!
//! Invariant: a read sees everything that was committed before it was called: it joins a batch that is not yet sent, and
//! the cache only saves bytes, never the question.

use std::sync::Arc;

use duroxide::Event;
use tokio_postgres::Row;

use crate::batch::Limits;
use crate::history_cache::CachedHistory;
use crate::item::decode_history;
use crate::postgres::error::StoreError;
use crate::postgres::lane::{Batch, Entry};
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};
use crate::postgres::vouched;

const FUNCTION: &str = "sf_read_history";

/// Reads of histories.
pub(crate) struct Reads;

/// An instance, and the execution if not the current one.
pub(crate) struct Read {
    pub(crate) instance: String,
    pub(crate) execution_id: Option<i64>,
}

impl Batch for Reads {
    type Call = Read;
    type Answer = Vec<Event>;
    // Histories are large: few at a time, and two batches, so that a long one does not hold up the others.
    const LIMITS: Limits = Limits {
        max_calls: 64,
        max_bytes: usize::MAX,
        max_in_flight: 2,
        beside_calls: usize::MAX,
    };

    fn bytes(_: &Read) -> usize {
        0
    }

    async fn send(store: Arc<Store>, entries: Vec<Entry<Self>>) {
        let keys: Vec<Option<(i64, CachedHistory)>> = entries.iter().map(|e| cached(&store, &e.call)).collect();
        let of = |f: fn(&(i64, CachedHistory)) -> i64| keys.iter().map(|k| k.as_ref().map(f)).collect::<Vec<_>>();
        let params = Params::new()
            .texts(entries.iter().map(|e| e.call.instance.clone()).collect())
            .bigs_opt(entries.iter().map(|e| e.call.execution_id).collect())
            .bigs_opt(of(|k| k.0))
            .bigs_opt(of(|k| k.1.execution_id))
            .bigs_opt(of(|k| k.1.last_event_id()))
            .bigs_opt(of(|k| k.1.revision))
            .big(MAX_BYTES);
        let rows = match store.pipe.call_patiently(FUNCTION, &params).await {
            Ok(rows) => rows,
            Err(error) => {
                for entry in entries {
                    entry.answer(Err(error.clone()));
                }
                return;
            }
        };
        let mut rows = rows.into_iter().peekable();
        for (n, (entry, cached)) in entries.into_iter().zip(keys).enumerate() {
            let mine = |row: &Row| row.try_get::<_, i64>("op").is_ok_and(|op| op == n as i64 + 1);
            match rows.next_if(mine).map(|row| decode(&store, &entry.call, cached, &row)) {
                None => entry.answer(Ok(Vec::new())),
                Some(Err(error)) => entry.answer(Err(error)),
                Some(Ok(page)) if page.complete => entry.answer(Ok(page.events)),
                Some(Ok(page)) => {
                    let store = Arc::clone(&store);
                    let tasks = store.tasks.clone();
                    tasks.spawn(async move {
                        let rest = read_on(&store, &entry.call, page).await;
                        entry.answer(rest);
                    });
                }
            }
        }
    }
}

/// Most bytes of one history in one answer: beyond it there are further calls.
const MAX_BYTES: i64 = 2 << 20;

/// What has been read of a history.
struct Page {
    key: i64,
    execution_id: i64,
    revision: i64,
    events: Vec<Event>,
    complete: bool,
}

/// Reads the rest of a large history, page by page.
async fn read_on(store: &Arc<Store>, call: &Read, mut page: Page) -> Result<Vec<Event>, StoreError> {
    let bytes = super::history_size::get(store, &call.instance, page.execution_id).await?;
    store.history_limit().check_read(bytes)?;
    while !page.complete {
        let last = page.events.last().map_or(0, |e| e.event_id as i64);
        let params = Params::new()
            .texts(vec![call.instance.clone()])
            .bigs_opt(vec![Some(page.execution_id)])
            .bigs_opt(vec![Some(page.key)])
            .bigs_opt(vec![Some(page.execution_id)])
            .bigs_opt(vec![Some(last)])
            .bigs_opt(vec![Some(page.revision)])
            .big(MAX_BYTES);
        let rows = store.pipe.call_patiently(FUNCTION, &params).await?;
        let Some(row) = rows.first() else { return Ok(Vec::new()) };
        if !column::<bool>(row, "partial")? {
            // It was changed by hand, deleted or re-created meanwhile: what was read is no longer one history.
            page.events.clear();
        }
        page.key = column(row, "instance_key")?;
        page.revision = column(row, "history_revision")?;
        page.complete = column(row, "complete")?;
        page.events.extend(decode_page(call, row)?);
    }
    Ok(page.events)
}

fn decode_page(call: &Read, row: &Row) -> Result<Vec<Event>, StoreError> {
    let payloads: Vec<&[u8]> = column(row, "events")?;
    decode_history(&payloads).map_err(|e| StoreError::Decode(format!("{}: {e}", call.instance)))
}

fn cached(store: &Store, call: &Read) -> Option<(i64, CachedHistory)> {
    let mut cache = store.cache();
    let key = cache.key_of(&call.instance)?;
    cache.get(key).map(|entry| (key, entry))
}

fn decode(store: &Store, call: &Read, cached: Option<(i64, CachedHistory)>, row: &Row) -> Result<Page, StoreError> {
    let key: i64 = column(row, "instance_key")?;
    let execution_id: i64 = column(row, "execution_id")?;
    let revision: i64 = column(row, "history_revision")?;
    let partial: bool = column(row, "partial")?;
    let complete: bool = column(row, "complete")?;
    let bytes: usize = column::<Vec<&[u8]>>(row, "events")?.iter().map(|p| p.len()).sum();
    let mut events = match (partial, cached) {
        (true, Some((_, entry))) => Vec::clone(&entry.events),
        _ => Vec::new(),
    };
    let fresh = decode_page(call, row)?;
    if complete && partial && !fresh.is_empty() {
        store.cache().extend_seen(key, execution_id, revision, &fresh, bytes);
    } else if complete && !partial && call.execution_id.is_none() {
        let whole = Arc::new(fresh.clone());
        store
            .cache()
            .put_named(&call.instance, key, execution_id, revision, whole, bytes);
    }
    events.extend(fresh);
    Ok(Page {
        key,
        execution_id,
        revision,
        events,
        complete,
    })
}

/// The history that the claim of this task vouched for, if it is still held.
pub(crate) fn vouched(store: &Store, instance: &str) -> Option<Vec<Event>> {
    let key = vouched::take(store, instance)?;
    let entry = store.cache().get(key)?;
    metrics::counter!("steadfast_reads_from_claim_total").increment(1);
    Some(Vec::clone(&entry.events))
}

/// A history outside a batch.
pub(crate) async fn read_execution(
    store: &Arc<Store>,
    instance: &str,
    execution_id: Option<i64>,
) -> Result<Vec<Event>, StoreError> {
    store
        .reads
        .submit(Read {
            instance: instance.to_owned(),
            execution_id,
        })
        .await
}
