//! Executions of an instance.
//!
//! Invariant: events are only counted where the count is asked for.

use duroxide::providers::ExecutionInfo;

use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::item::signed;

const QUESTION: &str = "
    SELECT x.execution_id, x.status, x.output, x.started_at_ms, x.completed_at_ms,
           CASE WHEN ?3 THEN (SELECT count(*) FROM sf_event e
                              WHERE e.instance_key = x.instance_key AND e.execution_id = x.execution_id) END
    FROM sf_instance i JOIN sf_execution x USING (instance_key)
    WHERE i.instance_id = ?1 AND (?2 IS NULL OR x.execution_id = ?2) ORDER BY x.execution_id";

/// All executions, oldest first, or the one with this id.
pub(crate) async fn list(
    store: &Store,
    instance: &str,
    execution_id: Option<u64>,
    count: bool,
) -> Result<Vec<ExecutionInfo>, StoreError> {
    let id = instance.to_owned();
    let execution_id = execution_id.map(|id| signed("execution id", id)).transpose()?;
    store
        .ask(move |connection| {
            let mut statement = connection.prepare_cached(QUESTION)?;
            let rows = statement.query_map((&id, execution_id, count), |row| {
                Ok(ExecutionInfo {
                    execution_id: row.get::<_, i64>(0)?.unsigned_abs(),
                    status: row.get(1)?,
                    output: row.get(2)?,
                    started_at: row.get::<_, i64>(3)?.unsigned_abs(),
                    completed_at: row.get::<_, Option<i64>>(4)?.map(i64::unsigned_abs),
                    event_count: usize::try_from(row.get::<_, Option<i64>>(5)?.unwrap_or(0)).unwrap_or(0),
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
}
