//! Keeps items apart of which attempts ended with their process or lease, so that none takes others with it.
//!
//! Invariants: an attempt that ended so is counted once. From the third on, the item is put off, longer each time, and then
//! handed to a process that has no other such item in hand; for a while, longer each time, it gets no other. Items with
//! fewer go on beside it, and if they end with it, they are not spent. (The PostgreSQL engine's is `sf_isolate`.)

use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::token::claimer;

/// From so many ended attempts on an item is kept apart.
const SUSPECT: i64 = 3;
/// Nothing is put off or kept alone for longer.
const LONGEST_MS: i64 = 300_000;

/// One look's view: at most one item that is kept apart goes through it.
pub(crate) struct Isolation {
    claim: i64,
    /// There are items with ended attempts.
    any: bool,
    chosen: Option<(i64, i64)>,
}

/// An item that is due. `work_id` 0 is the turn of the instance.
#[derive(Clone, Copy)]
pub(crate) struct Item {
    pub(crate) instance_key: i64,
    pub(crate) work_id: i64,
    /// The claim that ended with its lease.
    pub(crate) ended: Option<i64>,
    pub(crate) lease_ms: i64,
}

/// What is to be done with a due item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Not before this.
    pub(crate) off_until: Option<i64>,
    /// The attempt that ended is not spent.
    pub(crate) unspent: bool,
}

impl Isolation {
    pub(crate) fn new(tx: &Tx<'_>, claim: i64) -> Result<Self, StoreError> {
        let any = tx.one("SELECT 1 FROM sf_suspect LIMIT 1", [], |row| row.get::<_, i64>(0))?;
        Ok(Self {
            claim,
            any: any.is_some(),
            chosen: None,
        })
    }

    /// Judges an item; `None`: nothing is known of it. Whoever gets a verdict carries it out, so that the end of the
    /// attempt is not counted again.
    pub(crate) fn judge(&mut self, tx: &Tx<'_>, item: Item) -> Result<Option<Verdict>, StoreError> {
        if !self.any && item.ended.is_none() {
            return Ok(None);
        }
        let Some(expired) = count(tx, item)? else {
            return Ok(None);
        };
        self.any = true;
        let unspent = match item.ended {
            Some(ended) if expired <= SUSPECT => beside_isolated(tx, ended, item)?,
            _ => false,
        };
        let off_until = if expired < SUSPECT {
            None
        } else if item.ended.is_some() {
            Some(tx.now + jittered(doubled(item.lease_ms.max(100), expired - 6)))
        } else if self.admit(tx, item, expired)? {
            None
        } else {
            Some(tx.now + jittered(1_000))
        };
        Ok(Some(Verdict { off_until, unspent }))
    }

    /// Takes the process's one place for the item, if it is free.
    fn admit(&mut self, tx: &Tx<'_>, item: Item, expired: i64) -> Result<bool, StoreError> {
        let this = (item.instance_key, item.work_id);
        if let Some(chosen) = self.chosen {
            return Ok(chosen == this);
        }
        let taken: Option<i64> = tx.one(
            "SELECT 1 FROM sf_isolated i WHERE i.claimer = ?1 AND i.alone_until > ?2 AND (
                 EXISTS (SELECT 1 FROM sf_turn t WHERE i.work_id = 0 AND t.instance_key = i.instance_key
                         AND t.claim = i.claim AND t.available_at > ?2)
                 OR EXISTS (SELECT 1 FROM sf_work w WHERE w.instance_key = i.instance_key AND w.work_id = i.work_id
                            AND w.claim = i.claim AND w.available_at > ?2))",
            (claimer(self.claim), tx.now),
            |row| row.get(0),
        )?;
        if taken.is_some() {
            return Ok(false);
        }
        self.chosen = Some(this);
        let alone_until = tx.now + doubled(item.lease_ms.max(10_000), expired - SUSPECT);
        tx.execute(
            "INSERT INTO sf_isolated (claimer, instance_key, work_id, claim, alone_until) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (claimer) DO UPDATE SET instance_key = excluded.instance_key, work_id = excluded.work_id,
                 claim = excluded.claim, alone_until = excluded.alone_until",
            (claimer(self.claim), this.0, this.1, self.claim, alone_until),
        )?;
        Ok(true)
    }
}

/// Counts an attempt that ended; answers how many there were.
fn count(tx: &Tx<'_>, item: Item) -> Result<Option<i64>, StoreError> {
    let key = (item.instance_key, item.work_id);
    if item.ended.is_none() {
        return tx.one(
            "SELECT expired FROM sf_suspect WHERE instance_key = ?1 AND work_id = ?2",
            key,
            |row| row.get(0),
        );
    }
    // Now and then, what was cancelled and who has died: both leave a row behind.
    if tx.now % 32 == 0 {
        tx.execute(
            "DELETE FROM sf_suspect WHERE work_id <> 0 AND NOT EXISTS (
                 SELECT 1 FROM sf_work w WHERE w.instance_key = sf_suspect.instance_key AND w.work_id = sf_suspect.work_id)",
            [],
        )?;
        tx.execute("DELETE FROM sf_isolated WHERE alone_until < ?1", [tx.now - 86_400_000])?;
    }
    tx.one(
        "INSERT INTO sf_suspect (instance_key, work_id, expired) VALUES (?1, ?2, 1)
         ON CONFLICT (instance_key, work_id) DO UPDATE SET expired = expired + 1 RETURNING expired",
        key,
        |row| row.get(0),
    )
}

/// Whether the process of this claim had an item in hand that was kept apart.
fn beside_isolated(tx: &Tx<'_>, ended: i64, item: Item) -> Result<bool, StoreError> {
    let found: Option<i64> = tx.one(
        "SELECT 1 FROM sf_isolated i JOIN sf_suspect s USING (instance_key, work_id)
         WHERE i.claimer = ?1 AND (i.instance_key, i.work_id) <> (?2, ?3)",
        (claimer(ended), item.instance_key, item.work_id),
        |row| row.get(0),
    )?;
    Ok(found.is_some())
}

/// The item was acknowledged, or is gone.
pub(crate) fn forget(tx: &Tx<'_>, instance_key: i64, work_id: i64) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM sf_suspect WHERE instance_key = ?1 AND work_id = ?2",
        (instance_key, work_id),
    )?;
    Ok(())
}

/// `ms` doubled so many times, or halved.
fn doubled(ms: i64, times: i64) -> i64 {
    let times = times.clamp(-20, 20);
    let doubled = if times < 0 {
        ms >> times.unsigned_abs()
    } else {
        ms.saturating_mul(1 << times)
    };
    doubled.clamp(1, LONGEST_MS)
}

/// Between half and all of it.
fn jittered(ms: i64) -> i64 {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    let half = ms / 2;
    half + (ms - half) * i64::from(random >> 1) / i64::from(u32::MAX >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_bound() {
        let delays: Vec<i64> = (3..20).map(|n| doubled(30_000, n - 6)).collect();
        assert_eq!(delays[..5], [3_750, 7_500, 15_000, 30_000, 60_000]);
        assert_eq!(delays.last(), Some(&LONGEST_MS));
        assert!((0..100).all(|_| (500..=1_000).contains(&jittered(1_000))));
    }
}
