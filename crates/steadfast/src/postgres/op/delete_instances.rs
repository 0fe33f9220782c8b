//! Deletes instances with all that belongs to them.
//!
//! Invariant: a tree goes as a whole or stays as a whole.

use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::{DeleteInstanceResult, InstanceFilter};
use uuid::Uuid;

use super::{instance_detail, list_children};
use crate::group::millis;
use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// Bulk operations take so many roots when the caller sets no limit: the framework's own default.
const DEFAULT_LIMIT: u32 = 1000;
/// So often a pending instance is looked for again while a claim is taking it.
const CLAIMING: u32 = 100;

/// Deletes exactly these instances.
pub(crate) async fn delete(
    store: &Arc<Store>,
    ids: &[String],
    force: bool,
) -> Result<DeleteInstanceResult, StoreError> {
    delete_if(store, ids, force, None).await
}

/// [`delete`], unless the instance `ended` has not ended, whatever `force` says.
async fn delete_if(
    store: &Arc<Store>,
    ids: &[String],
    force: bool,
    ended: Option<String>,
) -> Result<DeleteInstanceResult, StoreError> {
    let params = Params::new()
        .slow()
        .uuid(Uuid::new_v4())
        .big(millis(store.pipe.settings().retry_timeout) * 3)
        .texts(ids.iter().filter(|id| !id.contains('\0')).cloned().collect())
        .flag(force)
        .text_opt(ended)
        .flag(store.feed.records());
    let rows = store.pipe.call_patiently("sf_delete_instances", &params).await?;
    store.feed_noted();
    let row = rows.first().ok_or_else(|| StoreError::Decode("no row".to_owned()))?;
    let results: Vec<i64> = column(row, "results")?;
    let culprit: Option<String> = column(row, "culprit")?;
    let culprit = culprit.unwrap_or_default();
    match results.as_slice() {
        [0, instances, executions, events, messages] => Ok(DeleteInstanceResult {
            instances_deleted: instances.unsigned_abs(),
            executions_deleted: executions.unsigned_abs(),
            events_deleted: events.unsigned_abs(),
            queue_messages_deleted: messages.unsigned_abs(),
        }),
        [5, ..] => Err(StoreError::Rejected(format!(
            "Instance {culprit} is still running. Cancel it first, or use force=true to delete it anyway."
        ))),
        [7, ..] => Err(StoreError::Rejected(format!(
            "Instance {culprit} is pending: no worker has taken it. Use force=true to delete it all the same."
        ))),
        [6, ..] => Err(StoreError::Rejected(format!(
            "Cannot delete: sub-orchestration {culprit} belongs to one of these instances and is not among them."
        ))),
        other => Err(StoreError::Decode(format!("codes {other:?}"))),
    }
}

/// Deletes an instance and its descendants. Only roots can be deleted so.
pub(crate) async fn delete_tree(
    store: &Arc<Store>,
    instance: &str,
    force: bool,
) -> Result<DeleteInstanceResult, StoreError> {
    let Some(detail) = instance_detail::get(store, instance).await? else {
        return Err(StoreError::Rejected(format!("Instance {instance} not found")));
    };
    // A child that nobody had taken when its parent was deleted is a root now.
    if let Some(parent) = &detail.summary.parent_instance_id
        && instance_detail::get(store, parent).await?.is_some()
    {
        return Err(StoreError::Rejected(format!(
            "Cannot delete sub-orchestration {instance} directly: delete its root instance."
        )));
    }
    let mut tries = 0..CLAIMING;
    loop {
        let tree = list_children::list(store, instance, true).await?;
        let deleted = delete(store, &tree, force).await?;
        // Nothing was there: a claim is taking its start at this moment, and will have made it an instance.
        if deleted.instances_deleted > 0 || tries.next().is_none() {
            return Ok(deleted);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Deletes ended roots that match, each with its tree; a tree that is held up fails alone and is logged.
pub(crate) async fn delete_bulk(
    store: &Arc<Store>,
    filter: &InstanceFilter,
) -> Result<DeleteInstanceResult, StoreError> {
    let mut total = DeleteInstanceResult::default();
    for root in deletable(store, filter).await? {
        let tree = list_children::list(store, &root, true).await?;
        // It had ended when it was listed; it may have been deleted and started again since.
        let one = match delete_if(store, &tree, true, Some(root.clone())).await {
            Ok(one) => one,
            Err(StoreError::Rejected(why)) => {
                tracing::warn!(target: "steadfast", instance = root, why, "left out of a bulk deletion");
                continue;
            }
            Err(error) => return Err(error),
        };
        total.instances_deleted += one.instances_deleted;
        total.executions_deleted += one.executions_deleted;
        total.events_deleted += one.events_deleted;
        total.queue_messages_deleted += one.queue_messages_deleted;
    }
    Ok(total)
}

/// Root instances that have ended, oldest completion first.
pub(crate) async fn deletable(store: &Arc<Store>, filter: &InstanceFilter) -> Result<Vec<String>, StoreError> {
    let params = Params::new()
        .maybe_texts(filter.instance_ids.clone().map(storable))
        .big_opt(filter.completed_before.map(epoch_ms))
        .big(i64::from(filter.limit.unwrap_or(DEFAULT_LIMIT)));
    let rows = store.pipe.call_patiently("sf_deletable_instances", &params).await?;
    rows.iter().map(|row| column(row, "instance_id")).collect()
}

/// Ids that the store can hold at all.
pub(crate) fn storable(ids: Vec<String>) -> Vec<String> {
    ids.into_iter().filter(|id| !id.contains('\0')).collect()
}

/// An epoch time within what a timestamp holds.
pub(crate) fn epoch_ms(at: u64) -> i64 {
    const LAST: u64 = 253_402_300_799_000;
    at.min(LAST) as i64
}
