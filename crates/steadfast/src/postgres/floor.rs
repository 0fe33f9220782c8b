//! Where a claim begins to look into its queue.
//!
//! A row that was taken stays in the index until PostgreSQL may remove it, and as long as any transaction in the database is
//! open, it may not: then each look passes over everything that was ever taken. So where looks read much, the next ones
//! begin where one found the first live row.
//!
//! Invariant: this decides when a row is found, never whether. What becomes due in front of the floor (a transaction that
//! committed long after its rows were due, a claim that was rolled back) is found by the next look at all the queue. Such
//! looks take a fiftieth of the time and are at most [`LONGEST`] apart, and where somebody waits, 2 seconds and a fifth.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::Row;
use tokio_postgres::types::FromSqlOwned;

use super::error::StoreError;
use super::fetch_lane::ClaimTerms;
use super::store::column;

/// So many looks must have read much, one after the other: the first to read dead rows that nobody remembers marks them, and
/// the next one passes them over.
const LONG_LOOKS: u32 = 3;
/// Longest time between two looks at all of a queue.
const LONGEST: Duration = Duration::from_secs(10);
/// Shortest one on behalf of somebody who waits: a queue in which nothing happens is hardly looked at.
const SHORTEST_WAIT: Duration = Duration::from_secs(2);
/// Groups of one lane; callers that vary their terms must not make this grow.
const GROUPS: usize = 64;
/// A look at all the queue takes one part in so many of the time.
const SHARE: u32 = 50;
/// The same while somebody waits.
const WAIT_SHARE: u32 = 5;

/// The floors of one queue, for each group of waiters: they see different rows.
pub(crate) struct Floors<G, K> {
    floors: Mutex<HashMap<G, Floor<K>>>,
}

struct Floor<K> {
    /// Microseconds of the epoch, by the database's clock.
    since_us: i64,
    /// Tags or lanes that there are.
    known: Vec<K>,
    /// The last look at all the queue: when it ended, or began if it is under way, and how long one took.
    looked_at: Instant,
    look: Duration,
    /// How many such looks read much, one after the other.
    long_looks: u32,
    whole_again: Instant,
}

/// What a look that read much, or that did not begin at the beginning, says of itself.
struct Seen<K> {
    since_us: i64,
    /// Where it began.
    began_us: i64,
    look: Duration,
    /// `None`: it did not look at all the queue.
    known: Option<Vec<K>>,
}

impl<G: Clone + Eq + Hash, K: Clone + FromSqlOwned> Floors<G, K> {
    pub(crate) fn new() -> Self {
        Self {
            floors: Mutex::new(HashMap::new()),
        }
    }

    /// Where to begin, and the tags or lanes to look at; `None`: everywhere, at all of them, as it must be where `whole`, and where
    /// the call does not look but asks.
    pub(crate) fn terms(&self, group: &G, terms: &ClaimTerms) -> (Option<i64>, Option<Vec<K>>) {
        let Some((since_us, known)) = self.begin(group, terms.whole || !terms.looks) else {
            return (None, None);
        };
        // Set once: a claim is sent once.
        let _ = terms.since_us.set(since_us);
        (Some(since_us), Some(known))
    }

    fn begin(&self, group: &G, whole: bool) -> Option<(i64, Vec<K>)> {
        if whole {
            return None;
        }
        let now = Instant::now();
        match self.lock().get_mut(group) {
            Some(floor) if floor.long_looks >= LONG_LOOKS && now < floor.whole_again => {
                Some((floor.since_us, floor.known.clone()))
            }
            Some(floor) => {
                // This one looks at everything; those beside it need not.
                floor.looked_at = now;
                floor.whole_again = now + LONGEST;
                None
            }
            None => None,
        }
    }

    /// Takes what a look says in its row without an item; one that says nothing has looked at all the queue, and read little.
    /// `waiting`: it did not serve everybody; then another look may find more, in front of the floor, after what is returned.
    pub(crate) fn looked(
        &self,
        group: &G,
        terms: &ClaimTerms,
        row: Option<&Row>,
        waiting: bool,
    ) -> Result<Option<Duration>, StoreError> {
        let times: Option<(i64, i64)> = match row {
            Some(row) => column::<Option<i64>>(row, "since_us")?.zip(column(row, "look_us")?),
            None => None,
        };
        let Some((row, (since_us, look_us))) = row.zip(times) else {
            self.lock().remove(group);
            return Ok(None);
        };
        let seen = Seen {
            since_us,
            look: Duration::from_micros(look_us.max(0).unsigned_abs()),
            known: column(row, "known")?,
            began_us: terms.since_us.get().copied().unwrap_or(i64::MIN),
        };
        Ok(self.note(group, seen, waiting, Instant::now()))
    }

    fn note(&self, group: &G, seen: Seen<K>, waiting: bool, now: Instant) -> Option<Duration> {
        let mut floors = self.lock();
        if let Some(known) = seen.known {
            let floor = Floor {
                since_us: seen.since_us,
                known,
                looked_at: now,
                look: seen.look,
                long_looks: floors.get(group).map_or(0, |floor| floor.long_looks).saturating_add(1),
                whole_again: now + (seen.look * SHARE).min(LONGEST),
            };
            if floors.len() >= GROUPS {
                floors.clear();
            }
            floors.insert(group.clone(), floor);
            return None;
        }
        let Some(floor) = floors.get_mut(group) else {
            // Another look has found little to read in the meantime.
            return waiting.then_some(Duration::ZERO);
        };
        // A look at everything may have found rows in front of where this one began: they are not passed over again.
        if seen.began_us <= floor.since_us {
            floor.since_us = floor.since_us.max(seen.since_us);
        }
        if !waiting {
            return None;
        }
        let soon = floor.looked_at + (floor.look * WAIT_SHARE).clamp(SHORTEST_WAIT, LONGEST);
        floor.whole_again = floor.whole_again.min(soon);
        Some(floor.whole_again.saturating_duration_since(now))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<G, Floor<K>>> {
        self.floors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says so when it fails")]

    use super::*;

    fn whole(since_us: i64, look_ms: u64) -> Seen<i64> {
        Seen {
            since_us,
            began_us: i64::MIN,
            look: Duration::from_millis(look_ms),
            known: Some(vec![0, 7]),
        }
    }

    #[test]
    fn long_looks_set_the_floor_until_the_next_whole_one() {
        let floors = Floors::<u8, i64>::new();
        assert_eq!(floors.begin(&1, false), None);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        for _ in 0..LONG_LOOKS {
            assert_eq!(floors.begin(&1, false), None, "it may be an accident");
            assert_eq!(floors.note(&1, whole(1000, 20), true, long_ago), None);
        }
        assert_eq!(
            floors.begin(&1, false),
            None,
            "a second for twenty milliseconds has passed"
        );
        assert_eq!(
            floors.begin(&1, false),
            Some((1000, vec![0, 7])),
            "one whole look at a time"
        );
        assert_eq!(floors.begin(&2, false), None, "others see other rows");
        assert_eq!(floors.begin(&1, true), None, "who may not wait sees everything");
    }

    #[test]
    fn a_floor_rises_only_and_whoever_waits_is_served_sooner() {
        let floors = Floors::<u8, i64>::new();
        let now = Instant::now();
        for _ in 0..LONG_LOOKS {
            floors.note(&1, whole(1000, 100), false, now);
        }
        let part = |since_us| Seen {
            known: None,
            ..whole(since_us, 0)
        };
        for (since_us, then) in [(900, 1000), (2000, 2000), (1500, 2000)] {
            assert_eq!(floors.note(&1, part(since_us), false, now), None);
            assert_eq!(floors.begin(&1, false).unwrap().0, then);
        }
        assert_eq!(
            floors.note(&1, part(0), true, now),
            Some(Duration::from_secs(2)),
            "and not after fifty times as long as it took"
        );
        // A look at everything has found something old, and more of it may be left.
        floors.note(&1, whole(500, 100), false, now);
        let beside = Seen {
            began_us: 2000,
            ..part(3000)
        };
        floors.note(&1, beside, false, now);
        assert_eq!(floors.begin(&1, false).unwrap().0, 500);
        let later = now + Duration::from_secs(3);
        assert_eq!(floors.note(&1, part(0), true, later), Some(Duration::ZERO));
    }
}
