//! Counts over the whole store.
//!
//! Invariant: bounded work: a long history is estimated, not counted.

use duroxide::providers::SystemMetrics;

use crate::embedded::error::StoreError;
use crate::embedded::store::Store;

/// Below this events are counted; above, the highest row number stands for the count.
const COUNTED: i64 = 100_000;

const QUESTION: &str = "
    SELECT count(*), (SELECT count(*) FROM sf_execution),
           count(*) FILTER (WHERE status = 'Running'), count(*) FILTER (WHERE status = 'Completed'),
           count(*) FILTER (WHERE status = 'Failed'),
           (SELECT CASE WHEN max(row_id) > ?1 THEN max(row_id) ELSE (SELECT count(*) FROM sf_event) END FROM sf_event)
    FROM sf_instance WHERE orchestration_name IS NOT NULL";

/// The counts.
pub(crate) async fn get(store: &Store) -> Result<SystemMetrics, StoreError> {
    store
        .ask(|connection| {
            let metrics = connection.query_row(QUESTION, [COUNTED], |row| {
                let count = |n| row.get::<_, i64>(n).map(i64::unsigned_abs);
                Ok(SystemMetrics {
                    total_instances: count(0)?,
                    total_executions: count(1)?,
                    running_instances: count(2)?,
                    completed_instances: count(3)?,
                    failed_instances: count(4)?,
                    total_events: row.get::<_, Option<i64>>(5)?.unwrap_or(0).unsigned_abs(),
                })
            })?;
            Ok(metrics)
        })
        .await
}
