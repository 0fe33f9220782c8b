//! What waits in the queues, and why.
//!
//! Invariant: reads only; meant for people and dashboards, not for every second.

use rusqlite::Row;

use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::inspect::QueueReport;

const QUESTION: &str = "
    SELECT 'orchestrator', count(*) FILTER (WHERE NOT held AND at <= ?1), count(*) FILTER (WHERE NOT held AND at > ?1),
           count(*) FILTER (WHERE held),
           (SELECT count(*) FROM sf_turn WHERE claim > 0 AND available_at > ?1),
           ?1 - min(at) FILTER (WHERE NOT held AND at <= ?1), min(at) FILTER (WHERE NOT held AND at > ?1) - ?1
    FROM (SELECT m.visible_at AS at, coalesce(m.claim = t.claim AND t.available_at > ?1, 0) AS held
          FROM sf_message m LEFT JOIN sf_turn t USING (instance_key))
    UNION ALL
    SELECT 'worker', count(*) FILTER (WHERE available_at <= ?1),
           count(*) FILTER (WHERE claim IS NULL AND available_at > ?1),
           count(*) FILTER (WHERE claim IS NOT NULL AND available_at > ?1),
           count(*) FILTER (WHERE claim IS NOT NULL AND available_at > ?1),
           ?1 - min(available_at) FILTER (WHERE available_at <= ?1),
           min(available_at) FILTER (WHERE claim IS NULL AND available_at > ?1) - ?1
    FROM sf_work
    UNION ALL
    SELECT 'quarantine', count(*), 0, 0, 0, ?2 - min(quarantined_at_ms), NULL FROM sf_quarantine";

/// One row per queue, then the quarantine.
pub(crate) async fn get(store: &Store) -> Result<Vec<QueueReport>, StoreError> {
    let (now, wall_ms) = (store.now(), crate::embedded::clock::wall_ms());
    store
        .ask(move |connection| {
            let mut statement = connection.prepare_cached(QUESTION)?;
            let rows = statement.query_map((now, wall_ms), report)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
}

fn report(row: &Row<'_>) -> rusqlite::Result<QueueReport> {
    let count = |n| row.get::<_, i64>(n).map(i64::unsigned_abs);
    let maybe = |n| row.get::<_, Option<i64>>(n).map(|n| n.map(|n| n.max(0).unsigned_abs()));
    Ok(QueueReport {
        queue: row.get(0)?,
        ready: count(1)?,
        delayed: count(2)?,
        leased: count(3)?,
        leases: count(4)?,
        oldest_due_ms: maybe(5)?,
        next_due_ms: maybe(6)?,
    })
}
