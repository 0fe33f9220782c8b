//! Commits an orchestration turn: history, activities, messages, key-values and statuses.
//!
//! Invariant: a turn is applied wholly or not at all, once, and only under its lease; everything that can refuse it is
//! asked before anything is written.

use std::time::Duration;

use super::abandon_orchestration_item::AbandonedTurn;
use super::{Operation, feed_append, hold_messages, schedule};
use crate::embedded::claim::isolation;
use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::embedded::transaction::Tx;
use crate::item::{pack_version, signed};
use crate::refusal::Refusal;
use crate::refused::{self, Failure};
use crate::turn::EncodedTurn;

/// A turn to commit.
pub(crate) struct AckTurn(pub(crate) EncodedTurn);

/// The instance as it stands before the turn.
struct Before {
    /// Due time of the last message of the claim.
    upto_at: Option<i64>,
    /// The last event of the execution that the turn belongs to.
    last_event_id: Option<i64>,
    has_kv: bool,
    instance: String,
    named: bool,
    execution_id: i64,
    status: String,
    replay_version: Option<i64>,
}

impl Operation for AckTurn {
    const NAME: &'static str = "ack_orchestration_item";
    type Answer = ();

    fn bytes(&self) -> usize {
        self.0.bytes
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.0.token.lease.max(Duration::from_secs(1)))
    }

    fn give_attempt_back(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        AbandonedTurn::untouched(self.0.token).take_back(tx)
    }

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let turn = &self.0;
        let key = turn.token.instance_key;
        let before = check(tx, turn)?;
        tx.execute(
            "DELETE FROM sf_message WHERE instance_key = ?1 AND visible_at <= ?2 AND claim = ?3",
            (key, before.upto_at, turn.token.claim),
        )?;
        for (event_id, kind, payload) in &turn.event_rows {
            tx.execute(
                "INSERT INTO sf_event (instance_key, execution_id, event_id, kind, payload) VALUES (?1, ?2, ?3, ?4, ?5)",
                (key, turn.execution_id, event_id, kind, payload),
            )?;
        }
        update_instance(tx, turn, &before)?;
        update_execution(tx, turn, &before)?;
        if before.has_kv || !turn.kv.is_empty() {
            update_kv(tx, turn)?;
        }
        for (instance, execution_id, activity_id) in &turn.cancelled {
            cancel(tx, &before, key, instance, *execution_id, *activity_id)?;
        }
        for activity in &turn.activities {
            let of = if activity.instance == before.instance {
                key
            } else {
                schedule::key_of(tx, &activity.instance)?
            };
            schedule::queue(tx, of, activity)?;
        }
        hold_messages::release(tx, turn)?;
        isolation::forget(tx, key, 0)?;
        // The lease ends first: a message to the instance itself finds it free.
        schedule::place(tx, key)?;
        for message in &turn.messages {
            let at = schedule::due_at(tx, message, None);
            schedule::deliver(tx, message, at)?;
        }
        feed_append::append(tx, key, turn.execution_id, &turn.events)
    }
}

/// Commits a turn; this process then knows the history as it stands.
pub(crate) async fn ack(store: &Store, turn: AckTurn) -> Result<(), StoreError> {
    let token = turn.0.token;
    if store.spent.contains(token) {
        return Err(Refusal::LeaseEnded.into());
    }
    let (turn, outcome) = store.settle(turn).await;
    if outcome.as_ref().is_err_and(StoreError::may_pass) {
        store.spent.note(token);
        store.give_back_turn(AbandonedTurn::untouched(token));
    }
    if let (Some(AckTurn(turn)), Ok(())) = (turn, &outcome) {
        let bytes = turn.event_rows.iter().map(|e| e.2.len()).sum();
        store
            .cache()
            .append(turn.token.instance_key, turn.execution_id, &turn.events, bytes);
    }
    outcome
}

/// Adds to the failure of a refused turn what the runtime no longer knows; leaves any other turn as it is.
pub(crate) async fn complete(store: &Store, token: &str, failure: Failure<'_>) -> Result<(), StoreError> {
    match store.refused.find(token, failure.events) {
        None => {}
        Some(Some(began)) => failure.complete(began, true),
        Some(None) => {
            let instance = failure
                .events
                .first()
                .map(|e| e.instance_id.clone())
                .unwrap_or_default();
            let execution_id = signed("execution id", failure.execution_id)?;
            let history = super::read::read_execution(store, &instance, Some(execution_id)).await?;
            if let Some(began) = refused::beginning(&history) {
                failure.complete(began, false);
            }
        }
    }
    Ok(())
}

/// Asks everything that can refuse a turn, in one look.
fn check(tx: &Tx<'_>, turn: &EncodedTurn) -> Result<Before, StoreError> {
    let key = turn.token.instance_key;
    let found = tx.one(
        "SELECT t.claim, t.available_at, t.upto_at, i.instance_id, i.orchestration_name IS NOT NULL, i.execution_id,
                i.status, i.replay_version,
                (SELECT max(event_id) FROM sf_event e WHERE e.instance_key = ?1 AND e.execution_id = ?2),
                EXISTS (SELECT 1 FROM sf_kv v WHERE v.instance_key = ?1)
         FROM sf_turn t JOIN sf_instance i USING (instance_key) WHERE t.instance_key = ?1",
        (key, turn.execution_id),
        |row| {
            let before = Before {
                upto_at: row.get(2)?,
                instance: row.get(3)?,
                named: row.get(4)?,
                execution_id: row.get(5)?,
                status: row.get(6)?,
                replay_version: row.get(7)?,
                last_event_id: row.get(8)?,
                has_kv: row.get(9)?,
            };
            Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, i64>(1)?, before))
        },
    )?;
    let Some((claim, until, before)) = found else {
        return Err(Refusal::InvalidToken.into());
    };
    judge(tx, claim, until, turn.token.claim)?;
    // Events are appended: what lies beyond the last one is new.
    let last = before.last_event_id.unwrap_or(i64::MIN);
    for (event_id, ..) in turn.event_rows.iter().filter(|e| e.0 <= last) {
        let exists: Option<i64> = tx.one(
            "SELECT 1 FROM sf_event WHERE instance_key = ?1 AND execution_id = ?2 AND event_id = ?3",
            (key, turn.execution_id, event_id),
            |row| row.get(0),
        )?;
        if exists.is_some() {
            return Err(Refusal::DuplicateEvent.into());
        }
    }
    Ok(before)
}

/// Whether a claim with this token is current and its lease has not ended.
fn judge(tx: &Tx<'_>, current: Option<i64>, until: i64, claim: i64) -> Result<(), Refusal> {
    match current {
        Some(current) if current == claim && until > tx.now => Ok(()),
        Some(current) if current == claim => Err(Refusal::LeaseEnded),
        _ => Err(Refusal::InvalidToken),
    }
}

/// Refuses a claim that is not current, or whose lease has ended.
pub(crate) fn lease(tx: &Tx<'_>, instance_key: i64, claim: i64) -> Result<(), StoreError> {
    let held: Option<(Option<i64>, i64)> = tx.one(
        "SELECT claim, available_at FROM sf_turn WHERE instance_key = ?1",
        [instance_key],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let (current, until) = held.ok_or(Refusal::InvalidToken)?;
    Ok(judge(tx, current, until, claim)?)
}

fn update_instance(tx: &Tx<'_>, turn: &EncodedTurn, before: &Before) -> Result<(), StoreError> {
    let key = turn.token.instance_key;
    let metadata = &turn.metadata;
    let pinned = metadata.pinned_duroxide_version.as_ref().map(pack_version);
    if let (Some(name), Some(version)) = (&metadata.orchestration_name, &metadata.orchestration_version) {
        // The parent is set with the first name and never changes.
        let parent = metadata.parent_instance_id.as_ref().filter(|_| !before.named);
        tx.execute(
            "UPDATE sf_instance SET orchestration_name = ?2, orchestration_version = ?3,
                 parent_instance_id = coalesce(?4, parent_instance_id) WHERE instance_key = ?1",
            (key, name, version, parent),
        )?;
    }
    if let Some(status) = &turn.custom_status {
        tx.execute(
            "UPDATE sf_instance SET custom_status = ?2, custom_status_version = custom_status_version + 1
             WHERE instance_key = ?1",
            (key, status),
        )?;
    }
    let status = metadata.status.as_deref();
    let (execution_id, status, replay) = match turn.execution_id.cmp(&before.execution_id) {
        std::cmp::Ordering::Less => (before.execution_id, before.status.as_str(), before.replay_version),
        std::cmp::Ordering::Greater => (turn.execution_id, status.unwrap_or("Running"), pinned),
        std::cmp::Ordering::Equal => (
            before.execution_id,
            status.unwrap_or(&before.status),
            pinned.or(before.replay_version),
        ),
    };
    if (execution_id, status, replay) == (before.execution_id, before.status.as_str(), before.replay_version) {
        // Most turns: no index is touched.
        tx.execute(
            "UPDATE sf_instance SET updated_at_ms = ?2 WHERE instance_key = ?1",
            (key, tx.wall_ms),
        )?;
    } else {
        tx.execute(
            "UPDATE sf_instance SET execution_id = ?2, status = ?3, replay_version = ?4, updated_at_ms = ?5
             WHERE instance_key = ?1",
            (key, execution_id, status, replay, tx.wall_ms),
        )?;
    }
    Ok(())
}

fn update_execution(tx: &Tx<'_>, turn: &EncodedTurn, before: &Before) -> Result<(), StoreError> {
    let metadata = &turn.metadata;
    let pinned = metadata.pinned_duroxide_version.as_ref().map(pack_version);
    let ended_at = metadata.status.as_ref().map(|_| tx.wall_ms);
    let ends = metadata.status.is_some() || pinned.is_some();
    if before.last_event_id.is_some() && !ends {
        // It began with an earlier turn.
        return Ok(());
    }
    let made = tx.execute(
        "INSERT INTO sf_execution (instance_key, execution_id, status, output, replay_version, started_at_ms,
                                   completed_at_ms)
         VALUES (?1, ?2, coalesce(?3, 'Running'), ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
        (
            turn.token.instance_key,
            turn.execution_id,
            &metadata.status,
            &metadata.output,
            pinned,
            tx.wall_ms,
            ended_at,
        ),
    )?;
    if made == 0 && ends {
        tx.execute(
            "UPDATE sf_execution SET status = coalesce(?3, status),
                 output = CASE WHEN ?3 IS NULL THEN output ELSE ?4 END,
                 completed_at_ms = CASE WHEN ?3 IS NULL THEN completed_at_ms ELSE ?6 END,
                 replay_version = coalesce(?5, replay_version)
             WHERE instance_key = ?1 AND execution_id = ?2",
            (
                turn.token.instance_key,
                turn.execution_id,
                &metadata.status,
                &metadata.output,
                pinned,
                ended_at,
            ),
        )?;
    }
    Ok(())
}

/// Key-value changes, and the merge when an execution ends.
fn update_kv(tx: &Tx<'_>, turn: &EncodedTurn) -> Result<(), StoreError> {
    let key = turn.token.instance_key;
    if turn.kv_clear {
        tx.execute(
            "UPDATE sf_kv SET changed = 1, delta_value = NULL, delta_at_ms = ?2 WHERE instance_key = ?1",
            (key, tx.wall_ms),
        )?;
    }
    for change in &turn.kv {
        tx.execute(
            "INSERT INTO sf_kv (instance_key, key, changed, delta_value, delta_at_ms) VALUES (?1, ?2, 1, ?3, ?4)
             ON CONFLICT (instance_key, key) DO UPDATE
                SET changed = 1, delta_value = excluded.delta_value, delta_at_ms = excluded.delta_at_ms",
            (key, &change.key, &change.value, change.at_ms.unwrap_or(tx.wall_ms)),
        )?;
    }
    if matches!(
        turn.metadata.status.as_deref(),
        Some("Completed" | "Failed" | "ContinuedAsNew")
    ) {
        tx.execute(
            "DELETE FROM sf_kv WHERE instance_key = ?1 AND changed AND delta_value IS NULL",
            [key],
        )?;
        tx.execute(
            "UPDATE sf_kv SET changed = 0, base_value = delta_value, base_at_ms = delta_at_ms, delta_value = NULL,
                 delta_at_ms = NULL WHERE instance_key = ?1 AND changed",
            [key],
        )?;
    }
    Ok(())
}

fn cancel(
    tx: &Tx<'_>,
    before: &Before,
    key: i64,
    instance: &str,
    execution_id: i64,
    activity_id: i64,
) -> Result<(), StoreError> {
    let of = if instance == before.instance {
        Some(key)
    } else {
        tx.one(
            "SELECT instance_key FROM sf_instance WHERE instance_id = ?1",
            [instance],
            |row| row.get(0),
        )?
    };
    if let Some(of) = of {
        tx.execute(
            "DELETE FROM sf_work WHERE instance_key = ?1 AND activity_id = ?2 AND execution_id = ?3",
            (of, activity_id, execution_id),
        )?;
    }
    Ok(())
}
