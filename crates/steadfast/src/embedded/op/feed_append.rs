//! Writes down in the change feed what an operation did.
//!
//! Invariant: positions are dense and given in the transaction that they belong to; an operation writes one row at most.

use super::feed_trim;
use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::feed::{Kind, Level, recorded};

/// Positions between two looks whether something is to be trimmed.
const TRIM_EVERY: i64 = 1024;

/// The events of an operation, by their ids.
pub(crate) fn append<'e>(
    tx: &mut Tx<'_>,
    instance_key: i64,
    execution_id: i64,
    events: impl IntoIterator<Item = &'e duroxide::Event>,
) -> Result<(), StoreError> {
    let level = tx.feed.level;
    if level == Level::Off {
        return Ok(());
    }
    let entries: Vec<(u64, i16)> = events
        .into_iter()
        .map(|e| (e.event_id, recorded(level, &e.kind)))
        .filter(|e| e.1 != 0)
        .collect();
    write(tx, instance_key, execution_id, &entries)
}

/// Something that no history holds, of an instance that is still there.
pub(crate) fn note(tx: &mut Tx<'_>, instance_key: i64, execution_id: i64, kind: Kind) -> Result<(), StoreError> {
    if tx.feed.level == Level::Off {
        return Ok(());
    }
    write(tx, instance_key, execution_id, &[(0, kind.number())])
}

fn write(tx: &mut Tx<'_>, instance_key: i64, execution_id: i64, entries: &[(u64, i16)]) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let before = match tx.feed_last {
        Some(last) => last,
        None => last_sequence(tx)?,
    };
    let count = i64::try_from(entries.len()).unwrap_or(i64::MAX);
    let last = before + count;
    let text = entries
        .iter()
        .map(|(id, kind)| format!("{id},{kind}"))
        .collect::<Vec<_>>();
    let mark = (uuid::Uuid::new_v4().as_u128() >> 66) as i64;
    tx.execute(
        "INSERT INTO sf_feed (last_sequence, events, mark, at_ms, instance_key, instance_id, execution_id,
                              orchestration_name, entries)
         SELECT ?1, ?2, ?3, ?4, i.instance_key, i.instance_id, ?6, i.orchestration_name, ?7
         FROM sf_instance i WHERE i.instance_key = ?5",
        (
            last,
            count,
            mark,
            tx.wall_ms,
            instance_key,
            execution_id,
            format!("[{}]", text.join(",")),
        ),
    )?;
    tx.feed_last = Some(last);
    tx.effects.feed = true;
    if before / TRIM_EVERY != last / TRIM_EVERY {
        feed_trim::step(tx, tx.feed.retention)?;
    }
    Ok(())
}

/// The end of the log.
pub(crate) fn last_sequence(tx: &Tx<'_>) -> Result<i64, StoreError> {
    let last = tx.one(
        "SELECT coalesce((SELECT max(last_sequence) FROM sf_feed), first_sequence - 1) FROM sf_feed_head",
        [],
        |row| row.get(0),
    )?;
    last.ok_or_else(|| StoreError::Decode("the feed has no head".to_owned()))
}
