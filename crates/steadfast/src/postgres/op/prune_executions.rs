//! Removes ended executions of instances that go on.
//!
//! Invariant: the current execution and a running one are never removed.

use std::sync::Arc;

use duroxide::providers::{InstanceFilter, PruneOptions, PruneResult};
use uuid::Uuid;

use super::ack_orchestration_item::single_code;
use super::delete_instances::{epoch_ms, storable};
use crate::group::millis;
use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// Bulk pruning takes so many instances when the caller sets no limit: the framework's own default.
const DEFAULT_LIMIT: u32 = 1000;
/// Instances pruned by one transaction.
const CHUNK: usize = 100;

/// Prunes one instance.
pub(crate) async fn prune(
    store: &Arc<Store>,
    instance: &str,
    options: &PruneOptions,
) -> Result<PruneResult, StoreError> {
    let result = prune_all(store, vec![instance.to_owned()], options).await?;
    if result.instances_processed == 0 {
        return Err(StoreError::Rejected(format!("Instance {instance} not found")));
    }
    Ok(result)
}

/// Prunes the instances that match.
pub(crate) async fn prune_bulk(
    store: &Arc<Store>,
    filter: &InstanceFilter,
    options: &PruneOptions,
) -> Result<PruneResult, StoreError> {
    let params = Params::new()
        .maybe_texts(filter.instance_ids.clone().map(storable))
        .big_opt(filter.completed_before.map(epoch_ms))
        .big(i64::from(filter.limit.unwrap_or(DEFAULT_LIMIT)));
    let rows = store.pipe.call_patiently("sf_prunable_instances", &params).await?;
    let ids = rows
        .iter()
        .map(|row| column(row, "instance_id"))
        .collect::<Result<Vec<String>, _>>()?;
    let mut total = PruneResult::default();
    for chunk in ids.chunks(CHUNK) {
        let one = prune_all(store, chunk.to_vec(), options).await?;
        total.instances_processed += one.instances_processed;
        total.executions_deleted += one.executions_deleted;
        total.events_deleted += one.events_deleted;
    }
    Ok(total)
}

async fn prune_all(store: &Arc<Store>, ids: Vec<String>, options: &PruneOptions) -> Result<PruneResult, StoreError> {
    let params = Params::new()
        .slow()
        .uuid(Uuid::new_v4())
        .big(millis(store.pipe.settings().retry_timeout) * 3)
        .texts(storable(ids))
        .big_opt(options.keep_last.map(i64::from))
        .big_opt(options.completed_before.map(epoch_ms))
        .flag(store.feed.records());
    let rows = store.pipe.call_patiently("sf_prune_executions", &params).await?;
    store.feed_noted();
    match single_code(&rows, "sf_prune_executions")?.as_slice() {
        [instances, executions, events] => Ok(PruneResult {
            instances_processed: instances.unsigned_abs(),
            executions_deleted: executions.unsigned_abs(),
            events_deleted: events.unsigned_abs(),
        }),
        other => Err(StoreError::Decode(format!("codes {other:?}"))),
    }
}
