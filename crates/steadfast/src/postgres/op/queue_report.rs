//! What waits in the queues, and why.
//!
//! Invariant: reads only; meant for people and dashboards, not for every second.

use std::sync::Arc;

use crate::inspect::QueueReport;
use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// One row per queue, then the quarantine.
pub(crate) async fn get(store: &Arc<Store>) -> Result<Vec<QueueReport>, StoreError> {
    let rows = store.pipe.call_patiently("sf_queue_report", &Params::new()).await?;
    rows.iter()
        .map(|row| {
            let count = |name| column::<i64>(row, name).map(i64::unsigned_abs);
            let maybe = |name| column::<Option<i64>>(row, name).map(|n| n.map(|n| n.max(0).unsigned_abs()));
            Ok(QueueReport {
                queue: column(row, "queue")?,
                ready: count("ready")?,
                delayed: count("delayed")?,
                leased: count("leased")?,
                leases: count("leases")?,
                oldest_due_ms: maybe("oldest_due_ms")?,
                next_due_ms: maybe("next_due_ms")?,
            })
        })
        .collect()
}
