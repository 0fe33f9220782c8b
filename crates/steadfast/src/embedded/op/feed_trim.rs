//! Removes the oldest rows of the change feed, in bounded steps.
//!
//! Invariant: the beginning moves in the transaction that removes what was before it.

use super::Operation;
use super::feed_append::last_sequence;
use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::feed::Retention;

/// Rows that one step removes.
const STEP: i64 = 4096;

/// One step of trimming.
pub(crate) struct TrimFeed(pub(crate) Retention);

impl Operation for TrimFeed {
    const NAME: &'static str = "feed_trim";
    /// Rows that went, and whether another step may find some.
    type Answer = (u64, bool);

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(u64, bool), StoreError> {
        step(tx, self.0)
    }
}

pub(crate) fn step(tx: &mut Tx<'_>, retention: Retention) -> Result<(u64, bool), StoreError> {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let last = last_sequence(tx)?;
    let old_ms = retention
        .max_age
        .map(|age| tx.wall_ms.saturating_sub(signed(age.as_millis().min(1 << 62) as u64)));
    let keep_from = retention.max_events.map(|n| last.saturating_sub(signed(n)));
    let held: Option<i64> = tx
        .one(
            "SELECT min(c.sequence) FROM sf_feed_cursor c JOIN sf_feed_head h ON h.epoch = c.epoch WHERE NOT c.lost",
            [],
            |row| row.get(0),
        )?
        .flatten();
    let held = held.map(|at| at.max(last.saturating_sub(signed(retention.max_held_events))));
    let oldest: Vec<(i64, i64, i64)> = tx.all(
        "SELECT last_sequence, at_ms, mark FROM sf_feed ORDER BY last_sequence LIMIT ?1",
        [STEP],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    // The first row that has to stay ends the stretch.
    let goes = |row: &&(i64, i64, i64)| {
        held.is_none_or(|at| row.0 <= at)
            && (old_ms.is_some_and(|ms| row.1 < ms) || keep_from.is_some_and(|from| row.0 <= from))
    };
    let gone: Vec<_> = oldest.iter().take_while(goes).collect();
    let Some((upto, _, mark)) = gone.last() else {
        return Ok((0, false));
    };
    tx.execute("DELETE FROM sf_feed WHERE last_sequence <= ?1", [upto])?;
    tx.execute(
        "UPDATE sf_feed_head SET first_sequence = ?1 + 1, trimmed_mark = ?2",
        (upto, mark),
    )?;
    tx.execute("UPDATE sf_feed_cursor SET lost = 1 WHERE sequence < ?1", [upto])?;
    metrics::counter!("steadfast_feed_trimmed_total").increment(gone.len() as u64);
    Ok((gone.len() as u64, gone.len() as i64 == STEP))
}
