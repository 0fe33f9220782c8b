//! One instance, with what its current execution has come to.
//!
//! Invariant: a start that was never acknowledged is a pending instance.

use rusqlite::{OptionalExtension, Row};

use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::inspect::{InstanceDetail, InstanceSummary};
use crate::item::unpack_version;

const QUESTION: &str = "
    SELECT i.instance_key, i.instance_id, i.orchestration_name, i.orchestration_version, i.execution_id, i.status,
           i.parent_instance_id, i.created_at_ms, i.updated_at_ms, x.output, i.custom_status, i.custom_status_version,
           i.replay_version, (SELECT count(*) FROM sf_message m WHERE m.instance_key = i.instance_key)
               + (SELECT count(*) FROM sf_held h WHERE h.instance_key = i.instance_key),
           (SELECT t.available_at FROM sf_turn t WHERE t.instance_key = i.instance_key AND t.claim > 0)
    FROM sf_instance i LEFT JOIN sf_execution x USING (instance_key, execution_id)
    WHERE i.instance_id = ?1 AND i.orchestration_name IS NOT NULL";

/// The instance, or `None`.
pub(crate) async fn get(store: &Store, instance: &str) -> Result<Option<InstanceDetail>, StoreError> {
    if let Some(begun) = begun(store, instance).await? {
        return Ok(Some(begun));
    }
    match super::pending_instances::get(store, instance).await? {
        // It may have begun between the two looks.
        None => begun(store, instance).await,
        pending => Ok(pending),
    }
}

async fn begun(store: &Store, instance: &str) -> Result<Option<InstanceDetail>, StoreError> {
    let id = instance.to_owned();
    let now = store.now();
    store
        .ask(move |connection| {
            let mut statement = connection.prepare_cached(QUESTION)?;
            Ok(statement.query_row([&id], |row| detail(row, now)).optional()?)
        })
        .await
}

fn detail(row: &Row<'_>, now: i64) -> rusqlite::Result<InstanceDetail> {
    Ok(InstanceDetail {
        summary: summary(row)?,
        output: row.get(9)?,
        custom_status: row.get(10)?,
        custom_status_version: row.get::<_, i64>(11)?.unsigned_abs(),
        replay_version: row.get::<_, Option<i64>>(12)?.map(unpack_version),
        pending_messages: row.get::<_, i64>(13)?.unsigned_abs(),
        lease_left_ms: row.get::<_, Option<i64>>(14)?.map(|until| until - now),
    })
}

/// The first nine columns of a row.
pub(crate) fn summary(row: &Row<'_>) -> rusqlite::Result<InstanceSummary> {
    Ok(InstanceSummary {
        key: row.get::<_, i64>(0)?.unsigned_abs(),
        instance_id: row.get(1)?,
        orchestration_name: row.get::<_, Option<String>>(2)?.unwrap_or_default(),
        orchestration_version: row.get::<_, Option<String>>(3)?.unwrap_or_else(|| "unknown".to_owned()),
        execution_id: row.get::<_, i64>(4)?.unsigned_abs(),
        status: row.get(5)?,
        parent_instance_id: row.get(6)?,
        created_at_ms: row.get::<_, i64>(7)?.unsigned_abs(),
        updated_at_ms: row.get::<_, i64>(8)?.unsigned_abs(),
    })
}
