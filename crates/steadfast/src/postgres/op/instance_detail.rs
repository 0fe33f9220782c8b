//! One instance, with what its current execution has come to.
//!
//! Invariant: a start that was never acknowledged is a pending instance.

use std::sync::Arc;

use crate::inspect::{InstanceDetail, InstanceSummary};
use crate::item::unpack_version;
use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// The instance, or `None`.
pub(crate) async fn get(store: &Arc<Store>, instance: &str) -> Result<Option<InstanceDetail>, StoreError> {
    if instance.contains('\0') {
        return Ok(None);
    }
    if let Some(begun) = begun(store, instance).await? {
        return Ok(Some(begun));
    }
    match super::pending_instances::get(store, instance).await? {
        // It may have begun between the two looks.
        None => begun(store, instance).await,
        pending => Ok(pending),
    }
}

async fn begun(store: &Arc<Store>, instance: &str) -> Result<Option<InstanceDetail>, StoreError> {
    let rows = store
        .pipe
        .call_patiently("sf_instance_detail", &Params::new().text(instance.to_owned()))
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let text = |name| column::<Option<Vec<u8>>>(row, name).map(|b| b.map(|b| String::from_utf8_lossy(&b).into_owned()));
    let number = |name| column::<i64>(row, name).map(i64::unsigned_abs);
    Ok(Some(InstanceDetail {
        summary: InstanceSummary {
            key: number("instance_key")?,
            instance_id: instance.to_owned(),
            orchestration_name: text("orchestration_name")?.unwrap_or_default(),
            orchestration_version: text("orchestration_version")?.unwrap_or_else(|| "unknown".to_owned()),
            execution_id: number("execution_id")?,
            status: column(row, "status")?,
            parent_instance_id: column(row, "parent_instance_id")?,
            created_at_ms: number("created_ms")?,
            updated_at_ms: number("updated_ms")?,
        },
        output: text("output")?,
        custom_status: text("custom_status")?,
        custom_status_version: number("custom_status_version")?,
        replay_version: column::<Option<i64>>(row, "replay_version")?.map(unpack_version),
        pending_messages: number("routed")?,
        lease_left_ms: column(row, "lease_ms_left")?,
    }))
}
