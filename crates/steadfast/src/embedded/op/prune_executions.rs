//! Removes ended executions of instances that go on.
//!
//! Invariant: the current execution and a running one are never removed.

use duroxide::providers::{InstanceFilter, PruneOptions, PruneResult};

use super::delete_instances::{epoch_ms, json_ids};
use super::{Operation, feed_append};
use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::embedded::transaction::Tx;
use crate::feed::Kind;

/// Bulk pruning takes so many instances when the caller sets no limit: the framework's own default.
const DEFAULT_LIMIT: u32 = 1000;
/// Instances pruned by one operation.
const CHUNK: usize = 100;

struct Pruned {
    ids: Vec<String>,
    keep_last: Option<i64>,
    completed_before_ms: Option<i64>,
}

impl Operation for Pruned {
    const NAME: &'static str = "prune_executions";
    type Answer = PruneResult;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<PruneResult, StoreError> {
        let mut result = PruneResult::default();
        for id in &self.ids {
            let found: Option<(i64, i64)> = tx.one(
                "SELECT instance_key, execution_id FROM sf_instance
                 WHERE instance_id = ?1 AND orchestration_name IS NOT NULL",
                [id],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            let Some((key, current)) = found else { continue };
            result.instances_processed += 1;
            let doomed: Vec<i64> = tx.all(
                "SELECT execution_id FROM (
                     SELECT execution_id, status, completed_at_ms,
                            row_number() OVER (ORDER BY execution_id DESC) AS place
                     FROM sf_execution WHERE instance_key = ?1)
                 WHERE execution_id <> ?2 AND status <> 'Running' AND (?3 IS NULL OR place > ?3)
                   AND (?4 IS NULL OR completed_at_ms < ?4)",
                (key, current, self.keep_last, self.completed_before_ms),
                |row| row.get(0),
            )?;
            if let Some(newest) = doomed.iter().max() {
                feed_append::note(tx, key, *newest, Kind::Pruned)?;
            }
            for execution_id in doomed {
                result.events_deleted += tx.execute(
                    "DELETE FROM sf_event WHERE instance_key = ?1 AND execution_id = ?2",
                    (key, execution_id),
                )? as u64;
                result.executions_deleted += tx.execute(
                    "DELETE FROM sf_execution WHERE instance_key = ?1 AND execution_id = ?2",
                    (key, execution_id),
                )? as u64;
            }
        }
        Ok(result)
    }
}

/// Prunes one instance.
pub(crate) async fn prune(store: &Store, instance: &str, options: &PruneOptions) -> Result<PruneResult, StoreError> {
    let result = prune_all(store, vec![instance.to_owned()], options).await?;
    if result.instances_processed == 0 {
        return Err(StoreError::Rejected(format!("Instance {instance} not found")));
    }
    Ok(result)
}

/// Prunes the instances that match. The age is that of the executions to prune, not of the current one: an instance
/// that continues as new for ever is pruned too.
pub(crate) async fn prune_bulk(
    store: &Store,
    filter: &InstanceFilter,
    options: &PruneOptions,
) -> Result<PruneResult, StoreError> {
    let mut total = PruneResult::default();
    for chunk in prunable(store, filter).await?.chunks(CHUNK) {
        let one = prune_all(store, chunk.to_vec(), options).await?;
        total.instances_processed += one.instances_processed;
        total.executions_deleted += one.executions_deleted;
        total.events_deleted += one.events_deleted;
    }
    Ok(total)
}

async fn prunable(store: &Store, filter: &InstanceFilter) -> Result<Vec<String>, StoreError> {
    let ids = json_ids(filter);
    let before = filter.completed_before.map(epoch_ms);
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
    store
        .ask(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT i.instance_id FROM sf_instance i
                 WHERE i.orchestration_name IS NOT NULL
                   AND (?1 IS NULL OR i.instance_id IN (SELECT value FROM json_each(?1)))
                   AND (?2 IS NULL OR EXISTS (SELECT 1 FROM sf_execution x
                                              WHERE x.instance_key = i.instance_key AND x.completed_at_ms < ?2))
                 ORDER BY i.instance_key LIMIT ?3",
            )?;
            let rows = statement.query_map((&ids, before, limit), |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
}

async fn prune_all(store: &Store, ids: Vec<String>, options: &PruneOptions) -> Result<PruneResult, StoreError> {
    store
        .submit(Pruned {
            ids,
            keep_last: options.keep_last.map(i64::from),
            completed_before_ms: options.completed_before.map(epoch_ms),
        })
        .await
}
