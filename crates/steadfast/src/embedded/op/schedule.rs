//! What every operation does with queues: deliver a message, queue an activity, place an instance in the schedule.
//!
//! Invariants: an instance that is not leased has a scheduling row exactly when it has messages; the row is due when the
//! first of them is (or, for an instance that nobody has started, when its start is).

use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::item::{Activity, Message};

/// Lane of messages for an instance that nobody has started.
pub(crate) const UNSTARTED: i64 = -1;
/// The same, before a claim has looked at them.
pub(crate) const UNSEEN: i64 = -2;

/// An instance's key, and whether it has a name and a replay version.
struct Found {
    key: i64,
    named: bool,
    lane: i64,
}

fn find(tx: &Tx<'_>, instance: &str) -> Result<Option<Found>, StoreError> {
    tx.one(
        "SELECT instance_key, orchestration_name IS NOT NULL, coalesce(replay_version, 0)
         FROM sf_instance WHERE instance_id = ?1",
        [instance],
        |row| {
            Ok(Found {
                key: row.get(0)?,
                named: row.get(1)?,
                lane: row.get(2)?,
            })
        },
    )
}

/// The key of an instance; a row to hang things on is made where there is none.
pub(crate) fn key_of(tx: &mut Tx<'_>, instance: &str) -> Result<i64, StoreError> {
    match find(tx, instance)? {
        Some(found) => Ok(found.key),
        None => create(tx, instance),
    }
}

fn create(tx: &mut Tx<'_>, instance: &str) -> Result<i64, StoreError> {
    let key = tx.new_id();
    tx.execute(
        "INSERT INTO sf_instance (instance_key, instance_id, created_at_ms, updated_at_ms) VALUES (?1, ?2, ?3, ?3)",
        (key, instance, tx.wall_ms),
    )?;
    Ok(key)
}

/// Delivers a message, due at `visible_at`.
pub(crate) fn deliver(tx: &mut Tx<'_>, message: &Message, visible_at: i64) -> Result<(), StoreError> {
    let found = match find(tx, &message.instance)? {
        Some(found) => found,
        None => Found {
            key: create(tx, &message.instance)?,
            named: false,
            lane: 0,
        },
    };
    let id = tx.new_id();
    tx.execute(
        "INSERT INTO sf_message (message_id, instance_key, visible_at, kind, payload) VALUES (?1, ?2, ?3, ?4, ?5)",
        (id, found.key, visible_at, message.kind as i16, &message.payload),
    )?;
    if found.named {
        // A leased instance is placed anew when it is released.
        tx.execute(
            "INSERT INTO sf_turn (instance_key, lane, available_at) VALUES (?1, ?2, ?3)
             ON CONFLICT (instance_key) DO UPDATE SET available_at = min(available_at, excluded.available_at)
             WHERE claim IS NULL",
            (found.key, found.lane, visible_at),
        )?;
        tx.turn_at(visible_at);
        return Ok(());
    }
    let leased = tx.one(
        "SELECT claim IS NOT NULL FROM sf_turn WHERE instance_key = ?1",
        [found.key],
        |row| row.get(0),
    )?;
    if leased != Some(true) {
        place(tx, found.key)?;
    }
    Ok(())
}

/// When a message is due that carries a wall clock's time, or is to be delayed.
pub(crate) fn due_at(tx: &Tx<'_>, message: &Message, delay_ms: Option<i64>) -> i64 {
    match (delay_ms, message.due_ms) {
        (Some(delay), _) => tx.now.saturating_add(delay),
        (None, Some(wall_ms)) => tx.at_wall(wall_ms).max(tx.now),
        (None, None) => tx.now,
    }
}

/// Ends a lease, if there is one, and says when the instance may be taken next.
pub(crate) fn place(tx: &mut Tx<'_>, key: i64) -> Result<(), StoreError> {
    let first: Option<i64> = tx.one(
        "SELECT visible_at FROM sf_message WHERE instance_key = ?1 ORDER BY visible_at LIMIT 1",
        [key],
        |row| row.get(0),
    )?;
    let Some(first) = first else {
        tx.execute("DELETE FROM sf_turn WHERE instance_key = ?1", [key])?;
        return Ok(());
    };
    let (lane, available_at) = match lane_of(tx, key)? {
        Some(lane) => (lane, first),
        None => match start_at(tx, key)? {
            Some(at) => (0, at),
            None => (UNSEEN, first),
        },
    };
    tx.execute(
        "INSERT INTO sf_turn (instance_key, lane, available_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (instance_key) DO UPDATE SET lane = excluded.lane, available_at = excluded.available_at,
             claim = NULL, leased_at = NULL, lease_ms = NULL, upto_at = NULL",
        (key, lane, available_at),
    )?;
    tx.turn_at(available_at);
    Ok(())
}

/// The lane of an instance that has been started (or has at least a history); `None` for one that has not.
fn lane_of(tx: &Tx<'_>, key: i64) -> Result<Option<i64>, StoreError> {
    let lane: Option<Option<i64>> = tx.one(
        "SELECT CASE WHEN orchestration_name IS NOT NULL
                       OR EXISTS (SELECT 1 FROM sf_event e WHERE e.instance_key = i.instance_key)
                THEN coalesce(replay_version, 0) END
         FROM sf_instance i WHERE instance_key = ?1",
        [key],
        |row| row.get(0),
    )?;
    Ok(lane.flatten())
}

/// When the first start message of an instance is due.
fn start_at(tx: &Tx<'_>, key: i64) -> Result<Option<i64>, StoreError> {
    tx.one(
        "SELECT visible_at FROM sf_message WHERE instance_key = ?1 AND kind IN (1, 2) ORDER BY visible_at LIMIT 1",
        [key],
        |row| row.get(0),
    )
}

/// Queues an activity, and makes its session known.
pub(crate) fn queue(tx: &mut Tx<'_>, key: i64, activity: &Activity) -> Result<(), StoreError> {
    if let Some(session) = &activity.session {
        tx.execute(
            "INSERT INTO sf_session (session_key, last_activity_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            (session, tx.now),
        )?;
    }
    let id = tx.new_id();
    tx.execute(
        "INSERT INTO sf_work (work_id, instance_key, execution_id, activity_id, tag, session_key, available_at, payload)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        (
            id,
            key,
            activity.execution_id,
            activity.activity_id,
            &activity.tag,
            &activity.session,
            tx.now,
            &activity.payload,
        ),
    )?;
    tx.work_at(tx.now);
    Ok(())
}

/// These sessions have just been active, as far as they are still held.
pub(crate) fn touch(tx: &Tx<'_>, session: Option<&[u8]>) -> Result<(), StoreError> {
    if let Some(session) = session {
        tx.execute(
            "UPDATE sf_session SET last_activity_at = ?2 WHERE session_key = ?1 AND locked_until > ?2",
            (session, tx.now),
        )?;
    }
    Ok(())
}
