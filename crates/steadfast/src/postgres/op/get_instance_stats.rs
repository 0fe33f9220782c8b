//! Sizes of an instance's current history and key-values.
//!
//! Invariant: only what is counted is read, and the first event.

use std::sync::Arc;

use duroxide::{Event, EventKind, SystemStats};

use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// Statistics of an instance, `None` when it does not exist.
pub(crate) async fn get(store: &Arc<Store>, instance: &str) -> Result<Option<SystemStats>, StoreError> {
    if instance.contains('\0') {
        return Ok(None);
    }
    let rows = store
        .pipe
        .call_patiently("sf_get_instance_stats", &Params::new().text(instance.to_owned()))
        .await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let count = |name| column::<i64>(row, name).map(i64::unsigned_abs);
    let first: Option<Vec<u8>> = column(row, "first_event")?;
    let carried = match first.map(|bytes| serde_json::from_slice::<Event>(&bytes)) {
        Some(Ok(Event {
            kind:
                EventKind::OrchestrationStarted {
                    carry_forward_events: Some(events),
                    ..
                },
            ..
        })) => events.len() as u64,
        Some(Err(error)) => return Err(StoreError::Decode(format!("first event of {instance}: {error}"))),
        _ => 0,
    };
    Ok(Some(SystemStats {
        history_event_count: count("event_count")?,
        history_size_bytes: count("event_bytes")?,
        queue_pending_count: carried,
        kv_user_key_count: count("kv_count")?,
        kv_total_value_bytes: count("kv_bytes")?,
    }))
}
