//! Executions of an instance.
//!
//! Invariant: events are only counted where the count is asked for.

use std::sync::Arc;

use duroxide::providers::ExecutionInfo;

use crate::item::signed;
use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// All executions, oldest first, or the one with this id.
pub(crate) async fn list(
    store: &Arc<Store>,
    instance: &str,
    execution_id: Option<u64>,
    count: bool,
) -> Result<Vec<ExecutionInfo>, StoreError> {
    if instance.contains('\0') {
        return Ok(Vec::new());
    }
    let execution_id = execution_id.map(|id| signed("execution id", id)).transpose()?;
    let params = Params::new()
        .text(instance.to_owned())
        .big_opt(execution_id)
        .flag(count);
    let rows = store.pipe.call_patiently("sf_list_executions", &params).await?;
    rows.iter()
        .map(|row| {
            let events: Option<i64> = column(row, "event_count")?;
            let output: Option<Vec<u8>> = column(row, "output")?;
            Ok(ExecutionInfo {
                execution_id: column::<i64>(row, "execution_id")?.unsigned_abs(),
                status: column(row, "status")?,
                output: output.map(|o| String::from_utf8_lossy(&o).into_owned()),
                started_at: column::<i64>(row, "started_ms")?.unsigned_abs(),
                completed_at: column::<Option<i64>>(row, "completed_ms")?.map(i64::unsigned_abs),
                event_count: usize::try_from(events.unwrap_or(0)).unwrap_or(0),
            })
        })
        .collect()
}
