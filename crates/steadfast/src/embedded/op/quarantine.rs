//! Sets aside what cannot be decoded, and tells whom it concerns.
//!
//! Invariant: only what is still in the claim that met it is set aside.

use super::{Operation, ack_orchestration_item, ack_work_item, schedule};
use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::item::{Message, MessageKind, to_payload};
use crate::token::{TurnToken, WorkToken};
use duroxide::ErrorDetails;
use duroxide::providers::WorkItem;

/// Messages of a claim that cannot be decoded, each with the reason. The claim stays; if nothing of it is left, its
/// lease ends.
pub(crate) struct QuarantinedMessages {
    pub(crate) token: TurnToken,
    pub(crate) instance: String,
    pub(crate) messages: Vec<(i64, String)>,
}

impl Operation for QuarantinedMessages {
    const NAME: &'static str = "quarantine_messages";
    type Answer = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let TurnToken {
            instance_key, claim, ..
        } = self.token;
        ack_orchestration_item::lease(tx, instance_key, claim)?;
        for (id, error) in &self.messages {
            tx.execute(
                "INSERT INTO sf_quarantine (queue, instance_id, error, payload, quarantined_at_ms)
                 SELECT 'orchestrator', ?2, ?3, payload, ?4 FROM sf_message
                 WHERE instance_key = ?6 AND message_id = ?1 AND claim = ?5",
                (id, &self.instance, error, tx.wall_ms, claim, instance_key),
            )?;
            tx.execute(
                "DELETE FROM sf_message WHERE instance_key = ?3 AND message_id = ?1 AND claim = ?2",
                (id, claim, instance_key),
            )?;
        }
        let left: Option<i64> = tx.one(
            "SELECT 1 FROM sf_message WHERE instance_key = ?1 AND claim = ?2 LIMIT 1",
            (instance_key, claim),
            |row| row.get(0),
        )?;
        if left.is_none() {
            schedule::place(tx, instance_key)?;
        }
        Ok(())
    }
}

/// An activity that cannot be decoded. Its orchestration sees it fail.
pub(crate) struct QuarantinedWork {
    pub(crate) token: WorkToken,
    pub(crate) error: String,
}

impl Operation for QuarantinedWork {
    const NAME: &'static str = "quarantine_work_item";
    type Answer = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        ack_work_item::lease(tx, &self.token)?;
        let of: Option<(String, i64, i64)> = tx.one(
            "SELECT i.instance_id, w.execution_id, w.activity_id FROM sf_work w JOIN sf_instance i USING (instance_key)
             WHERE w.instance_key = ?1 AND w.work_id = ?2",
            (self.token.instance_key, self.token.work_id),
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        if let Some((instance, execution_id, id)) = of {
            tracing::error!(target: "steadfast", instance, activity_id = id, error = self.error,
                "an activity that cannot be decoded goes to the quarantine");
            let failed = WorkItem::ActivityFailed {
                instance: instance.clone(),
                execution_id: execution_id.unsigned_abs(),
                id: id.unsigned_abs(),
                details: ErrorDetails::Infrastructure {
                    operation: "fetch_work_item".to_owned(),
                    message: format!("the stored work item cannot be decoded: {}", self.error),
                    retryable: false,
                },
            };
            let message = Message {
                instance: instance.clone(),
                kind: MessageKind::ActivityFailed,
                due_ms: None,
                payload: to_payload(&failed)?,
            };
            tx.execute(
                "INSERT INTO sf_quarantine (queue, instance_id, execution_id, activity_id, error, payload,
                                            quarantined_at_ms)
                 SELECT 'worker', ?2, execution_id, activity_id, ?3, payload, ?4 FROM sf_work
                 WHERE work_id = ?1 AND instance_key = ?5",
                (
                    self.token.work_id,
                    &instance,
                    &self.error,
                    tx.wall_ms,
                    self.token.instance_key,
                ),
            )?;
            schedule::deliver(tx, &message, tx.now)?;
        }
        tx.execute(
            "DELETE FROM sf_work WHERE instance_key = ?1 AND work_id = ?2",
            (self.token.instance_key, self.token.work_id),
        )?;
        Ok(())
    }
}
