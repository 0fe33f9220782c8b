//! A turn as a store takes it: encoded and checked before anything is sent.
//!
//! Invariant: nothing has happened when a turn cannot be stored.

use std::collections::{HashMap, HashSet};

use duroxide::providers::{ExecutionMetadata, ScheduledActivityIdentifier, WorkItem};
use duroxide::{Event, EventKind};

use crate::item::{Activity, ItemError, Message, check_instance_id, event_kind, signed, to_payload};
use crate::limit::{PayloadLimit, shortened};
use crate::token::TurnToken;

/// A turn, encoded.
pub(crate) struct EncodedTurn {
    pub(crate) token: TurnToken,
    pub(crate) execution_id: i64,
    pub(crate) events: Vec<Event>,
    pub(crate) event_rows: Vec<(i64, i16, Vec<u8>)>,
    pub(crate) activities: Vec<Activity>,
    pub(crate) messages: Vec<Message>,
    pub(crate) cancelled: Vec<(String, i64, i64)>,
    pub(crate) metadata: ExecutionMetadata,
    pub(crate) custom_status: Option<Option<String>>,
    pub(crate) kv_clear: bool,
    pub(crate) kv: Vec<KvChange>,
    pub(crate) bytes: usize,
}

/// A key-value as the turn left it.
pub(crate) struct KvChange {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    pub(crate) at_ms: Option<i64>,
}

impl EncodedTurn {
    /// Encodes a turn; nothing has happened when it cannot be stored.
    #[allow(
        clippy::too_many_arguments,
        reason = "those of the framework's method, and the limit"
    )]
    pub(crate) fn encode(
        token: TurnToken,
        execution_id: u64,
        mut events: Vec<Event>,
        worker_items: &[WorkItem],
        orchestrator_items: &[WorkItem],
        metadata: ExecutionMetadata,
        cancelled: &[ScheduledActivityIdentifier],
        limit: PayloadLimit,
    ) -> Result<Self, ItemError> {
        let mut seen = HashSet::with_capacity(events.len());
        let mut event_rows = Vec::with_capacity(events.len());
        for event in &mut events {
            if let EventKind::OrchestrationFailed { details } = &mut event.kind
                && let Some(short) = shortened(details)
            {
                *details = short;
            }
            let event = &*event;
            if !seen.insert(event.event_id) {
                return Err(ItemError::DuplicateEvent(event.event_id));
            }
            event_rows.push((
                signed("event id", event.event_id)?,
                event_kind(&event.kind),
                to_payload(event)?,
            ));
        }
        if let Some(parent) = &metadata.parent_instance_id {
            check_instance_id(parent)?;
        }
        if let Some(status) = &metadata.status {
            check_instance_id(status)?;
        }
        let mut cancelled_rows = Vec::with_capacity(cancelled.len());
        for c in cancelled {
            check_instance_id(&c.instance)?;
            cancelled_rows.push((
                c.instance.clone(),
                signed("execution id", c.execution_id)?,
                signed("activity id", c.activity_id)?,
            ));
        }
        // Scheduled and cancelled in the same turn: it is never queued.
        let mut activities = Vec::with_capacity(worker_items.len());
        for item in worker_items {
            let activity = Activity::encode(item, limit)?;
            let stillborn = cancelled_rows
                .iter()
                .any(|c| c.0 == activity.instance && c.1 == activity.execution_id && c.2 == activity.activity_id);
            if !stillborn {
                activities.push(activity);
            }
        }
        let messages = orchestrator_items
            .iter()
            .map(|item| Message::encode(item, limit))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(output) = &metadata.output {
            limit.check("output of an orchestration", output.len())?;
        }
        let (kv_clear, kv) = kv_changes(&events)?;
        let bytes = event_rows.iter().map(|e| e.2.len()).sum::<usize>()
            + activities.iter().map(|a| a.payload.len()).sum::<usize>()
            + messages.iter().map(|m| m.payload.len()).sum::<usize>()
            + metadata.output.as_ref().map_or(0, String::len);
        limit.check_turn(bytes)?;
        Ok(Self {
            token,
            execution_id: signed("execution id", execution_id)?,
            custom_status: events.iter().rev().find_map(|e| match &e.kind {
                EventKind::CustomStatusUpdated { status } => Some(status.clone()),
                _ => None,
            }),
            events,
            event_rows,
            activities,
            messages,
            cancelled: cancelled_rows,
            metadata,
            kv_clear,
            kv,
            bytes,
        })
    }
}

/// What is left of a turn's key-value events: whether everything was cleared, and the last word on each key.
fn kv_changes(events: &[Event]) -> Result<(bool, Vec<KvChange>), ItemError> {
    let mut clear = false;
    let mut changes: HashMap<&str, KvChange> = HashMap::new();
    for event in events {
        match &event.kind {
            EventKind::KeyValueSet {
                key,
                value,
                last_updated_at_ms,
            } => {
                let at_ms = Some(signed("timestamp", *last_updated_at_ms)?);
                changes.insert(
                    key,
                    KvChange {
                        key: key.clone(),
                        value: Some(value.clone()),
                        at_ms,
                    },
                );
            }
            EventKind::KeyValueCleared { key } => {
                changes.insert(
                    key,
                    KvChange {
                        key: key.clone(),
                        value: None,
                        at_ms: None,
                    },
                );
            }
            EventKind::KeyValuesCleared => {
                clear = true;
                changes.clear();
            }
            _ => {}
        }
    }
    Ok((clear, changes.into_values().collect()))
}
