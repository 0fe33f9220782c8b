//! Appends events outside a turn: for tests and repair.
//!
//! Invariant: all events or none; an event id is never overwritten.

use duroxide::Event;

use super::{Operation, feed_append, schedule};
use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::item::{check_instance_id, event_kind, signed, to_payload};
use crate::refusal::Refusal;

/// Events to append.
pub(crate) struct Appended {
    instance: String,
    execution_id: i64,
    events: Vec<(i64, i16, Vec<u8>)>,
    given: Vec<Event>,
}

impl Appended {
    pub(crate) fn encode(instance: &str, execution_id: u64, events: &[Event]) -> Result<Self, StoreError> {
        check_instance_id(instance)?;
        let mut encoded: Vec<(i64, i16, Vec<u8>)> = Vec::with_capacity(events.len());
        for event in events {
            let id = signed("event id", event.event_id)?;
            if encoded.iter().any(|e| e.0 == id) {
                return Err(Refusal::DuplicateEvent.into());
            }
            encoded.push((id, event_kind(&event.kind), to_payload(event)?));
        }
        Ok(Self {
            instance: instance.to_owned(),
            execution_id: signed("execution id", execution_id)?,
            events: encoded,
            given: events.to_vec(),
        })
    }
}

impl Operation for Appended {
    const NAME: &'static str = "append_with_execution";
    type Answer = ();

    fn bytes(&self) -> usize {
        self.events.iter().map(|e| e.2.len()).sum()
    }

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        for (event_id, ..) in &self.events {
            let exists: Option<i64> = tx.one(
                "SELECT 1 FROM sf_event e JOIN sf_instance i USING (instance_key)
                 WHERE i.instance_id = ?1 AND e.execution_id = ?2 AND e.event_id = ?3",
                (&self.instance, self.execution_id, event_id),
                |row| row.get(0),
            )?;
            if exists.is_some() {
                return Err(Refusal::DuplicateEvent.into());
            }
        }
        let key = schedule::key_of(tx, &self.instance)?;
        for (event_id, kind, payload) in &self.events {
            tx.execute(
                "INSERT INTO sf_event (instance_key, execution_id, event_id, kind, payload) VALUES (?1, ?2, ?3, ?4, ?5)",
                (key, self.execution_id, event_id, kind, payload),
            )?;
        }
        // Nobody's cache has these (nor, where they fill a gap, would it notice); and an instance without a name is as
        // far as its events are.
        tx.execute(
            "UPDATE sf_instance SET history_revision = history_revision + 1,
                 execution_id = CASE WHEN orchestration_name IS NULL THEN max(execution_id, ?2) ELSE execution_id END
             WHERE instance_key = ?1",
            (key, self.execution_id),
        )?;
        let claimed = tx.one(
            "SELECT claim IS NOT NULL FROM sf_turn WHERE instance_key = ?1",
            [key],
            |row| row.get(0),
        )?;
        if claimed == Some(false) {
            schedule::place(tx, key)?;
        }
        feed_append::append(tx, key, self.execution_id, &self.given)
    }
}
