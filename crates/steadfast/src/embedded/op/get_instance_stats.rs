//! Sizes of an instance's current history and key-values.
//!
//! Invariant: only what is counted is read, and the first event.

use duroxide::{Event, EventKind, SystemStats};
use rusqlite::OptionalExtension;

use crate::embedded::error::StoreError;
use crate::embedded::store::Store;

const QUESTION: &str = "
    SELECT (SELECT count(*) FROM sf_event e
            WHERE e.instance_key = i.instance_key AND e.execution_id = i.execution_id),
           (SELECT coalesce(sum(length(payload)), 0) FROM sf_event e
            WHERE e.instance_key = i.instance_key AND e.execution_id = i.execution_id),
           (SELECT payload FROM sf_event e WHERE e.instance_key = i.instance_key
               AND e.execution_id = i.execution_id AND e.event_id = 1),
           (SELECT count(*) FROM sf_kv v WHERE v.instance_key = i.instance_key
               AND CASE WHEN v.changed THEN v.delta_value ELSE v.base_value END IS NOT NULL),
           (SELECT coalesce(sum(octet_length(CASE WHEN v.changed THEN v.delta_value ELSE v.base_value END)), 0)
            FROM sf_kv v WHERE v.instance_key = i.instance_key)
    FROM sf_instance i WHERE i.instance_id = ?1 AND i.orchestration_name IS NOT NULL";

/// Statistics of an instance, `None` when it does not exist.
pub(crate) async fn get(store: &Store, instance: &str) -> Result<Option<SystemStats>, StoreError> {
    type Counted = (i64, i64, Option<Vec<u8>>, i64, i64);
    let id = instance.to_owned();
    let found: Option<Counted> = store
        .ask(move |connection| {
            let found = connection
                .prepare_cached(QUESTION)?
                .query_row([&id], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
                })
                .optional()?;
            Ok(found)
        })
        .await?;
    let Some((events, bytes, first, values, value_bytes)) = found else {
        return Ok(None);
    };
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
        history_event_count: events.unsigned_abs(),
        history_size_bytes: bytes.unsigned_abs(),
        queue_pending_count: carried,
        kv_user_key_count: values.unsigned_abs(),
        kv_total_value_bytes: value_bytes.unsigned_abs(),
    }))
}
