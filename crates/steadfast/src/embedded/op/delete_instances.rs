//! Deletes instances with all that belongs to them.
//!
//! Invariant: a tree goes as a whole or stays as a whole.

use duroxide::providers::{DeleteInstanceResult, InstanceFilter};

use super::{Operation, feed_append, instance_detail, list_children};
use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::embedded::transaction::Tx;
use crate::feed::Kind;

/// Bulk operations take so many roots when the caller sets no limit: the framework's own default.
const DEFAULT_LIMIT: u32 = 1000;

/// Exactly these instances, if they may go.
struct Deleted {
    ids: Vec<String>,
    force: bool,
    /// This one must have ended, whatever `force` says.
    ended: Option<String>,
}

/// An instance that may go.
struct Doomed {
    key: i64,
    execution_id: i64,
    /// It is an instance, begun or pending, and not only a row that messages hang on.
    known: bool,
}

impl Operation for Deleted {
    const NAME: &'static str = "delete_instances";
    type Answer = DeleteInstanceResult;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<DeleteInstanceResult, StoreError> {
        let keys = self.deletable(tx)?;
        let mut result = DeleteInstanceResult::default();
        for Doomed {
            key,
            execution_id,
            known,
        } in keys
        {
            if known {
                feed_append::note(tx, key, execution_id, Kind::Deleted)?;
            }
            let delete = |table: &str| {
                let gone = tx.execute(&format!("DELETE FROM {table} WHERE instance_key = ?1"), [key]);
                gone.map(|n| n as u64)
            };
            // First, so that the trigger on its events has nothing to do.
            result.instances_deleted += delete("sf_instance")?;
            result.events_deleted += delete("sf_event")?;
            result.executions_deleted += delete("sf_execution")?;
            result.queue_messages_deleted += delete("sf_message")? + delete("sf_held")? + delete("sf_work")?;
            delete("sf_kv")?;
            delete("sf_suspect")?;
            delete("sf_turn")?;
        }
        Ok(result)
    }
}

impl Deleted {
    /// The keys of those that exist, if none of them stands in the way.
    fn deletable(&self, tx: &Tx<'_>) -> Result<Vec<Doomed>, StoreError> {
        let mut keys = Vec::new();
        for id in &self.ids {
            let found: Option<(i64, bool, i64, bool, bool)> = tx.one(
                "SELECT instance_key, orchestration_name IS NOT NULL AND status NOT IN ('Completed', 'Failed'),
                        execution_id, orchestration_name IS NOT NULL, orchestration_name IS NULL AND EXISTS (
                            SELECT 1 FROM sf_message m WHERE m.instance_key = i.instance_key AND m.kind IN (1, 2) AND m.kind = 1)
                 FROM sf_instance i WHERE instance_id = ?1",
                [id],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
            )?;
            let Some((key, running, execution_id, named, pending)) = found else {
                continue;
            };
            if pending && (!self.force || self.ended.as_ref() == Some(id)) {
                return Err(StoreError::Rejected(format!(
                    "Instance {id} is pending: no worker has taken it. Use force=true to delete it all the same."
                )));
            }
            // Between two executions is running, too.
            if running && (!self.force || self.ended.as_ref() == Some(id)) {
                return Err(StoreError::Rejected(format!(
                    "Instance {id} is still running. Cancel it first, or use force=true to delete it anyway."
                )));
            }
            if !keys.iter().any(|doomed: &Doomed| doomed.key == key) {
                keys.push(Doomed {
                    key,
                    execution_id,
                    known: named || pending,
                });
            }
        }
        let among: std::collections::HashSet<&str> = self.ids.iter().map(String::as_str).collect();
        for id in &self.ids {
            let children: Vec<String> = tx.all(
                "SELECT instance_id FROM sf_instance WHERE parent_instance_id = ?1",
                [id],
                |row| row.get(0),
            )?;
            if let Some(child) = children.iter().find(|c| !among.contains(c.as_str())) {
                return Err(StoreError::Rejected(format!(
                    "Cannot delete: sub-orchestration {child} belongs to one of these instances and is not among them."
                )));
            }
        }
        Ok(keys)
    }
}

/// Deletes exactly these instances.
pub(crate) async fn delete(store: &Store, ids: &[String], force: bool) -> Result<DeleteInstanceResult, StoreError> {
    store
        .submit(Deleted {
            ids: ids.to_vec(),
            force,
            ended: None,
        })
        .await
}

/// Deletes an instance and its descendants. Only roots can be deleted so.
pub(crate) async fn delete_tree(
    store: &Store,
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
    let tree = list_children::list(store, instance, true).await?;
    delete(store, &tree, force).await
}

/// Deletes ended roots that match, each with its tree; a tree that is held up fails alone and is logged.
pub(crate) async fn delete_bulk(store: &Store, filter: &InstanceFilter) -> Result<DeleteInstanceResult, StoreError> {
    let mut total = DeleteInstanceResult::default();
    for root in deletable(store, filter).await? {
        let ids = list_children::list(store, &root, true).await?;
        // It had ended when it was listed; it may have been deleted and started again since.
        let ended = Some(root.clone());
        let one = match store
            .submit(Deleted {
                ids,
                force: true,
                ended,
            })
            .await
        {
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
pub(crate) async fn deletable(store: &Store, filter: &InstanceFilter) -> Result<Vec<String>, StoreError> {
    let ids = json_ids(filter);
    let before = filter.completed_before.map(epoch_ms);
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT);
    store
        .ask(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT i.instance_id FROM sf_instance i JOIN sf_execution x USING (instance_key, execution_id)
                 WHERE i.parent_instance_id IS NULL AND i.orchestration_name IS NOT NULL
                   AND i.status IN ('Completed', 'Failed')
                   AND (?1 IS NULL OR i.instance_id IN (SELECT value FROM json_each(?1)))
                   AND (?2 IS NULL OR x.completed_at_ms < ?2)
                 ORDER BY x.completed_at_ms LIMIT ?3",
            )?;
            let rows = statement.query_map((&ids, before, limit), |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
}

/// A filter's ids as SQL takes a list.
pub(crate) fn json_ids(filter: &InstanceFilter) -> Option<String> {
    filter
        .instance_ids
        .as_ref()
        .map(|ids| serde_json::Value::from(ids.clone()).to_string())
}

/// An epoch time within what a timestamp holds.
pub(crate) fn epoch_ms(at: u64) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}
