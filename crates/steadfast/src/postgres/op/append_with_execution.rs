//! Appends events outside a turn: for tests and repair.
//!
//! Invariant: all events or none; an event id is never overwritten.

use std::sync::Arc;

use duroxide::Event;
use uuid::Uuid;

use super::ack_orchestration_item::single_code;
use crate::group::millis;
use crate::item::{check_instance_id, event_kind, signed, to_payload};
use crate::postgres::error::StoreError;
use crate::postgres::feed::feed_kinds;
use crate::postgres::params::Params;
use crate::postgres::store::Store;
use crate::refusal::Refusal;

/// Appends `events` to an execution.
pub(crate) async fn append(
    store: &Arc<Store>,
    instance: &str,
    execution_id: u64,
    events: &[Event],
) -> Result<(), StoreError> {
    check_instance_id(instance)?;
    let mut ids = Vec::with_capacity(events.len());
    let mut payloads = Vec::with_capacity(events.len());
    for event in events {
        let id = signed("event id", event.event_id)?;
        if ids.contains(&id) {
            return Err(Refusal::DuplicateEvent.into());
        }
        ids.push(id);
        payloads.push(to_payload(event)?);
    }
    let params = Params::new()
        .uuid(Uuid::new_v4())
        .big(millis(store.pipe.settings().retry_timeout) * 3)
        .text(instance.to_owned())
        .big(signed("execution id", execution_id)?)
        .bigs(ids)
        .smalls(events.iter().map(|e| event_kind(&e.kind)).collect())
        .byteas(payloads)
        .smalls(feed_kinds(store, events));
    let rows = store.pipe.call_patiently("sf_append_with_execution", &params).await?;
    match single_code(&rows, "sf_append_with_execution")?.first() {
        Some(0) => {
            store.feed_written(events);
            Ok(())
        }
        Some(3) => Err(Refusal::DuplicateEvent.into()),
        other => Err(StoreError::Decode(format!("code {other:?}"))),
    }
}
