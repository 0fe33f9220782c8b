//! Counts over the whole store.
//!
//! Invariant: bounded work: large histories are estimated, not counted.

use std::sync::Arc;

use duroxide::providers::SystemMetrics;

use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// The counts.
pub(crate) async fn get(store: &Arc<Store>) -> Result<SystemMetrics, StoreError> {
    let rows = store.pipe.call_patiently("sf_system_metrics", &Params::new()).await?;
    let row = rows.first().ok_or_else(|| StoreError::Decode("no row".to_owned()))?;
    let count = |name| column::<i64>(row, name).map(i64::unsigned_abs);
    Ok(SystemMetrics {
        total_instances: count("instances")?,
        total_executions: count("executions")?,
        running_instances: count("running")?,
        completed_instances: count("completed")?,
        failed_instances: count("failed")?,
        total_events: count("events")?,
    })
}
