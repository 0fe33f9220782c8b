//! Keeps messages of a claim back that its turn cannot be handed, and gives them back when there may be room.
//!
//! Invariants: what is held back has its attempt back; it is given back by each turn that may have made room, so that
//! nothing waits for another input.

use super::{Operation, ack_orchestration_item, schedule};
use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::item::MessageKind;
use crate::token::TurnToken;
use crate::turn::EncodedTurn;

/// Messages of a claim that its turn is not handed: queue events, each with the key of its queue, and (without one) what
/// waits for the next turn. The claim stays; if nothing of it is left, its lease ends.
pub(crate) struct HeldMessages {
    pub(crate) token: TurnToken,
    pub(crate) messages: Vec<(i64, Option<Vec<u8>>)>,
}

impl Operation for HeldMessages {
    const NAME: &'static str = "hold_messages";
    type Answer = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let TurnToken {
            instance_key, claim, ..
        } = self.token;
        ack_orchestration_item::lease(tx, instance_key, claim)?;
        let mut claimed: std::collections::HashMap<i64, i64> = tx
            .all(
                "SELECT message_id, visible_at FROM sf_message WHERE instance_key = ?1 AND claim = ?2",
                (instance_key, claim),
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?
            .into_iter()
            .collect();
        for (id, queue) in &self.messages {
            let Some(visible_at) = claimed.remove(id) else { continue };
            match queue {
                Some(queue) => {
                    tx.execute(
                        "INSERT INTO sf_held (instance_key, message_id, queue, visible_at, attempt_count, kind, payload)
                         SELECT instance_key, message_id, ?4, visible_at, max(0, attempt_count - 1), kind, payload
                         FROM sf_message WHERE instance_key = ?1 AND visible_at = ?2 AND message_id = ?3",
                        (instance_key, visible_at, id, queue),
                    )?;
                    tx.execute(
                        "DELETE FROM sf_message WHERE instance_key = ?1 AND visible_at = ?2 AND message_id = ?3",
                        (instance_key, visible_at, id),
                    )?;
                }
                None => {
                    tx.execute(
                        "UPDATE sf_message SET claim = NULL, attempt_count = max(0, attempt_count - 1)
                         WHERE instance_key = ?1 AND visible_at = ?2 AND message_id = ?3",
                        (instance_key, visible_at, id),
                    )?;
                }
            }
        }
        if claimed.is_empty() {
            schedule::place(tx, instance_key)?;
        }
        Ok(())
    }
}

/// Gives back what was held, after a turn that may have made room: that was handed queue events, read a queue, or
/// continued as new. As many of the oldest as there may be room for, and the oldest of each queue, in case that it is
/// waited for; whoever claims them judges exactly. An orchestration that has ended reads nothing more.
pub(crate) fn release(tx: &Tx<'_>, turn: &EncodedTurn) -> Result<(), StoreError> {
    const SUBSCRIBED: i16 = 40;
    const DELIVERED: i16 = 41;
    const CONTINUED: i16 = 4;
    let key = turn.token.instance_key;
    let held: Option<i64> = tx.one("SELECT 1 FROM sf_held WHERE instance_key = ?1 LIMIT 1", [key], |row| {
        row.get(0)
    })?;
    if held.is_none() {
        return Ok(());
    }
    if matches!(turn.metadata.status.as_deref(), Some("Completed" | "Failed")) {
        tx.execute("DELETE FROM sf_held WHERE instance_key = ?1", [key])?;
        return Ok(());
    }
    if !turn
        .event_rows
        .iter()
        .any(|e| matches!(e.1, SUBSCRIBED | DELIVERED | CONTINUED))
    {
        return Ok(());
    }
    let room = room(tx, key, turn.execution_id)?;
    let mut ids: Vec<i64> = tx.all(
        "SELECT message_id FROM sf_held WHERE instance_key = ?1 ORDER BY message_id LIMIT ?2",
        (key, room.max(0)),
        |row| row.get(0),
    )?;
    let mut head = next_queue(tx, key, &[])?;
    while let Some((queue, id)) = head {
        ids.push(id);
        head = next_queue(tx, key, &queue)?;
    }
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        tx.execute(
            "INSERT INTO sf_message (instance_key, message_id, visible_at, attempt_count, kind, payload)
             SELECT instance_key, message_id, visible_at, attempt_count, kind, payload FROM sf_held
             WHERE instance_key = ?1 AND message_id = ?2",
            (key, id),
        )?;
        tx.execute(
            "DELETE FROM sf_held WHERE instance_key = ?1 AND message_id = ?2",
            (key, id),
        )?;
    }
    Ok(())
}

/// How many more the execution may be handed, all queues together: what a queue is waited for counts as room.
fn room(tx: &Tx<'_>, key: i64, execution_id: i64) -> Result<i64, StoreError> {
    let taken: Option<i64> = tx.one(
        "SELECT (SELECT coalesce(sum(CASE kind WHEN 40 THEN -1 ELSE 1 END), 0) FROM sf_event
                 WHERE instance_key = ?1 AND execution_id = ?2 AND kind IN (40, 41, 42))
              + (SELECT count(*) FROM sf_message WHERE instance_key = ?1 AND kind = ?3)",
        (key, execution_id, MessageKind::QueueMessage as i16),
        |row| row.get(0),
    )?;
    let most = i64::try_from(duroxide::runtime::limits::MAX_CARRY_FORWARD_EVENTS).unwrap_or(i64::MAX);
    Ok(most - taken.unwrap_or(0))
}

/// The oldest event that is held of the queue after this one.
fn next_queue(tx: &Tx<'_>, key: i64, after: &[u8]) -> Result<Option<(Vec<u8>, i64)>, StoreError> {
    tx.one(
        "SELECT queue, message_id FROM sf_held WHERE instance_key = ?1 AND queue > ?2 ORDER BY queue, message_id LIMIT 1",
        (key, after),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}
