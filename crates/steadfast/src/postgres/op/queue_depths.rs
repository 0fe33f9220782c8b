//! Depths of the queues as the framework counts them.
//!
//! Invariant: what somebody holds does not count.

use std::sync::Arc;

use duroxide::providers::QueueDepths;

use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// The depths.
pub(crate) async fn get(store: &Arc<Store>) -> Result<QueueDepths, StoreError> {
    let rows = store.pipe.call_patiently("sf_queue_depths", &Params::new()).await?;
    let row = rows.first().ok_or_else(|| StoreError::Decode("no row".to_owned()))?;
    let count = |name| column::<i64>(row, name).map(|n| usize::try_from(n).unwrap_or(0));
    Ok(QueueDepths {
        orchestrator_queue: count("orchestrator")?,
        worker_queue: count("worker")?,
        timer_queue: 0,
    })
}
