//! Depths of the queues as the framework counts them.
//!
//! Invariant: what somebody holds does not count.

use duroxide::providers::QueueDepths;
use rusqlite::Row;

use crate::embedded::error::StoreError;
use crate::embedded::store::Store;

fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<usize> {
    Ok(usize::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

/// The depths.
pub(crate) async fn get(store: &Store) -> Result<QueueDepths, StoreError> {
    store
        .ask(|connection| {
            let depths = connection.query_row(
                "SELECT (SELECT count(*) FROM sf_message WHERE claim IS NULL),
                        (SELECT count(*) FROM sf_work WHERE claim IS NULL)",
                [],
                |row| {
                    Ok(QueueDepths {
                        orchestrator_queue: count(row, 0)?,
                        worker_queue: count(row, 1)?,
                        timer_queue: 0,
                    })
                },
            )?;
            Ok(depths)
        })
        .await
}
