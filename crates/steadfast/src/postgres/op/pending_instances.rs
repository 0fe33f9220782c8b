//! Instances that no worker has taken: starts that wait.
//!
//! Invariant: a page is bounded in rows and bytes; their keys lie above those of all instances, in the order in which they
//! were sent.

use std::sync::Arc;

use tokio_postgres::Row;

use crate::inspect::{InstanceDetail, InstanceQuery, InstanceSummary, PENDING};
use crate::pending::{LISTED_BYTES, PAGE, Queued};
use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// Messages are numbered on their own: above this their numbers cannot be mistaken for instances' keys, and below 2^53
/// programs of every language read them.
const KEYS: u64 = 1 << 52;

/// The pending instances of a page, newest first.
pub(crate) async fn page(store: &Arc<Store>, query: &InstanceQuery) -> Result<Vec<InstanceSummary>, StoreError> {
    let mut found = Vec::new();
    if query.status.as_ref().is_some_and(|s| s != PENDING) {
        return Ok(found);
    }
    let wanted = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let mut before = match query.before {
        None => None,
        Some(key) if key > KEYS => Some(key - KEYS),
        Some(_) => return Ok(found),
    };
    while found.len() < wanted {
        let params = Params::new()
            .text_opt(None)
            .text_opt(query.prefix.clone())
            .big_opt(before.map(|id| i64::try_from(id).unwrap_or(i64::MAX)))
            .big(i64::from(PAGE))
            .int(LISTED_BYTES);
        let rows = store.pipe.call_patiently("sf_pending_instances", &params).await?;
        for row in &rows {
            let summary = InstanceSummary::from(queued(row)?);
            before = Some(summary.key - KEYS);
            if query
                .name
                .as_ref()
                .is_none_or(|name| *name == summary.orchestration_name)
            {
                found.push(summary);
            }
        }
        if rows.len() < PAGE as usize {
            break;
        }
    }
    found.truncate(wanted);
    Ok(found)
}

/// The pending instance with this id, if there is one.
pub(crate) async fn get(store: &Arc<Store>, instance: &str) -> Result<Option<InstanceDetail>, StoreError> {
    let whole = i32::try_from(store.payload_limit().handed_out()).unwrap_or(i32::MAX);
    let params = Params::new()
        .text_opt(Some(instance.to_owned()))
        .text_opt(None)
        .big_opt(None)
        .big(1)
        .int(whole);
    let rows = store.pipe.call_patiently("sf_pending_instances", &params).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    Ok(Some(InstanceDetail {
        summary: queued(row)?.into(),
        output: None,
        custom_status: None,
        custom_status_version: 0,
        replay_version: None,
        pending_messages: column::<i64>(row, "waiting")?.unsigned_abs(),
        lease_left_ms: column(row, "lease_ms_left")?,
    }))
}

fn queued(row: &Row) -> Result<Queued, StoreError> {
    let number = |name| column::<i64>(row, name).map(i64::unsigned_abs);
    Ok(Queued {
        key: KEYS + number("message_id")?,
        instance: column(row, "instance_id")?,
        payload: column(row, "payload")?,
        sent_at_ms: number("sent_ms")?,
        touched_at_ms: number("touched_ms")?,
    })
}
