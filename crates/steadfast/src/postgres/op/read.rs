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
            .bigs_opt(of(|k| k.1.revision));
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
            let answer = match rows.next_if(mine) {
                Some(row) => decode(&store, &entry.call, cached, &row),
                None => Ok(Vec::new()),
            };
            entry.answer(answer);
        }
    }
}

fn cached(store: &Store, call: &Read) -> Option<(i64, CachedHistory)> {
    let mut cache = store.cache();
    let key = cache.key_of(&call.instance)?;
    cache.get(key).map(|entry| (key, entry))
}

fn decode(
    store: &Store,
    call: &Read,
    cached: Option<(i64, CachedHistory)>,
    row: &Row,
) -> Result<Vec<Event>, StoreError> {
    let key: i64 = column(row, "instance_key")?;
    let execution_id: i64 = column(row, "execution_id")?;
    let revision: i64 = column(row, "history_revision")?;
    let partial: bool = column(row, "partial")?;
    let payloads: Vec<Vec<u8>> = column(row, "events")?;
    let mut events = match (partial, cached) {
        (true, Some((_, entry))) => Vec::clone(&entry.events),
        _ => Vec::new(),
    };
    let fresh = decode_history(&payloads).map_err(|e| StoreError::Decode(format!("{}: {e}", call.instance)))?;
    let bytes: usize = payloads.iter().map(Vec::len).sum();
    if partial && !fresh.is_empty() {
        store.cache().extend_seen(key, execution_id, revision, &fresh, bytes);
    } else if !partial && call.execution_id.is_none() {
        store.cache().put_named(
            &call.instance,
            key,
            execution_id,
            revision,
            Arc::new(fresh.clone()),
            bytes,
        );
    }
    events.extend(fresh);
    Ok(events)
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
