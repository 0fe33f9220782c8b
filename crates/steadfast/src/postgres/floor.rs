//! Where a claim begins to look into its queue.
//!
//! A row that was taken stays in the index until PostgreSQL may remove it, and as long as any transaction in the database is
//! open, it may not: then each look passes over everything that was ever taken. So where looks read much, the next ones
//! begin where one found the first live row.
//!
//! Invariant: this decides when a row is found, never whether. What becomes due in front of the floor (a transaction that
//! committed long after its rows were due, a claim that was rolled back) is found by the next look at all the queue. Such
//! looks take a fiftieth of the time, and are at most [`LONGEST`] apart.

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
/// Shortest one: a queue in which nothing happens is hardly looked at.
const SHORTEST: Duration = Duration::from_secs(2);
/// Groups of one lane; callers that vary their terms must not make this grow.
const GROUPS: usize = 64;
/// A look at all the queue takes one part in so many of the time.
const SHARE: u32 = 50;

/// The floors of one queue, for each group of waiters: they see different rows.
pub(crate) struct Floors<G, K> {
    floors: Mutex<HashMap<G, Floor<K>>>,
}

struct Floor<K> {
    /// Microseconds of the epoch, by the database's clock, and the tags or lanes that there are; `None`: not looked for yet.
    part: Option<(i64, Vec<K>)>,
    /// How many such looks read much, one after the other.
    long_looks: u32,
    whole_again: Instant,
}

/// What a look that read much, or that was at a part, says of itself.
struct Seen<K> {
    look: Duration,
    /// Where the next one may begin; `None`: it did not look for that.
    since_us: Option<i64>,
    /// Where it began.
    began_us: i64,
    /// `None`: it did not look at all the queue, or not for what there is.
    known: Option<Vec<K>>,
}

/// Where a look begins, and the tags or lanes that it is at.
type Part<K> = (Option<i64>, Option<Vec<K>>);

impl<G: Clone + Eq + Hash, K: Clone + FromSqlOwned> Floors<G, K> {
    pub(crate) fn new() -> Self {
        Self {
            floors: Mutex::new(HashMap::new()),
        }
    }

    /// Where to begin, and what to look at: as `p_since_us` and `p_known` of the fetches. It is the whole queue where
    /// `whole`, and where the call does not look but asks.
    pub(crate) fn terms(&self, group: &G, terms: &ClaimTerms) -> Part<K> {
        if !terms.looks {
            return (None, None);
        }
        let part = self.begin(group, terms.whole);
        if let (Some(since_us), Some(_)) = &part {
            // Set once: a claim is sent once.
            let _ = terms.since_us.set(*since_us);
        }
        part
    }

    fn begin(&self, group: &G, whole: bool) -> Part<K> {
        let now = Instant::now();
        let mut floors = self.lock();
        let Some(floor) = floors.get_mut(group).filter(|floor| floor.long_looks >= LONG_LOOKS) else {
            return (None, None);
        };
        match &floor.part {
            Some((since_us, known)) if !whole && now < floor.whole_again => (Some(*since_us), Some(known.clone())),
            _ => {
                // This one looks at everything; those beside it need not, unless its answer is long in coming.
                floor.whole_again = now + SHORTEST;
                (Some(0), None)
            }
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
        let look_us = match row {
            Some(row) => column::<Option<i64>>(row, "look_us")?,
            None => None,
        };
        let Some((row, look_us)) = row.zip(look_us) else {
            self.lock().remove(group);
            return Ok(None);
        };
        let seen = Seen {
            look: Duration::from_micros(look_us.max(0).unsigned_abs()),
            since_us: column(row, "since_us")?,
            began_us: terms.since_us.get().copied().unwrap_or(i64::MIN),
            known: column(row, "known")?,
        };
        Ok(self.note(group, seen, waiting, Instant::now()))
    }

    fn note(&self, group: &G, seen: Seen<K>, waiting: bool, now: Instant) -> Option<Duration> {
        let mut floors = self.lock();
        if floors.len() >= GROUPS && !floors.contains_key(group) {
            floors.clear();
        }
        let Some(since_us) = seen.since_us else {
            // There is none yet. The look that sets it comes next.
            let floor = floors.entry(group.clone()).or_insert_with(|| Floor {
                part: None,
                long_looks: 0,
                whole_again: now,
            });
            floor.long_looks = floor.long_looks.saturating_add(1);
            return None;
        };
        if let Some(known) = seen.known {
            let floor = Floor {
                part: Some((since_us, known)),
                long_looks: LONG_LOOKS,
                whole_again: now + (seen.look * SHARE).clamp(SHORTEST, LONGEST),
            };
            floors.insert(group.clone(), floor);
            return None;
        }
        let Some(floor) = floors.get_mut(group) else {
            // Another look has found little to read in the meantime.
            return waiting.then_some(Duration::ZERO);
        };
        // A look at everything may have found rows in front of where this one began: they are not passed over again.
        if let Some((floor_us, _)) = &mut floor.part
            && seen.began_us <= *floor_us
        {
            *floor_us = since_us.max(*floor_us);
        }
        waiting.then(|| floor.whole_again.saturating_duration_since(now))
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
            look: Duration::from_millis(look_ms),
            since_us: Some(since_us),
            began_us: i64::MIN,
            known: Some(vec![0, 7]),
        }
    }

    fn long() -> Seen<i64> {
        Seen {
            since_us: None,
            known: None,
            ..whole(0, 20)
        }
    }

    const PLAIN: Part<i64> = (None, None);
    const WHOLE: Part<i64> = (Some(0), None);

    #[test]
    fn long_looks_set_the_floor_until_the_next_whole_one() {
        let floors = Floors::<u8, i64>::new();
        assert_eq!(floors.begin(&1, false), PLAIN);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        for _ in 0..LONG_LOOKS {
            assert_eq!(floors.begin(&1, false), PLAIN, "it may be an accident");
            assert_eq!(floors.note(&1, long(), true, long_ago), None);
        }
        assert_eq!(floors.begin(&1, false), WHOLE, "this one finds where to begin");
        assert_eq!(floors.begin(&1, false), WHOLE, "and this one does not know yet");
        floors.note(&1, whole(1000, 20), true, Instant::now());
        assert_eq!(floors.begin(&1, false), (Some(1000), Some(vec![0, 7])));
        assert_eq!(floors.begin(&2, false), PLAIN, "others see other rows");
        assert_eq!(floors.begin(&1, true), WHOLE, "who may not wait sees everything");
        floors.note(&1, whole(1000, 20), true, long_ago);
        assert_eq!(floors.begin(&1, false), WHOLE, "two seconds have passed");
        assert_eq!(
            floors.begin(&1, false),
            (Some(1000), Some(vec![0, 7])),
            "one whole look at a time"
        );
    }

    #[test]
    fn a_floor_rises_only() {
        let floors = Floors::<u8, i64>::new();
        let now = Instant::now();
        for _ in 0..LONG_LOOKS {
            floors.note(&1, long(), false, now);
        }
        floors.note(&1, whole(1000, 100), false, now);
        let part = |since_us| Seen {
            known: None,
            ..whole(since_us, 0)
        };
        for (since_us, then) in [(900, 1000), (2000, 2000), (1500, 2000)] {
            assert_eq!(floors.note(&1, part(since_us), false, now), None);
            assert_eq!(floors.begin(&1, false).0, Some(then));
        }
        assert_eq!(
            floors.note(&1, part(0), true, now),
            Some(Duration::from_secs(5)),
            "fifty times as long as it took"
        );
        // A look at everything has found something old, and more of it may be left.
        floors.note(&1, whole(500, 10), false, now);
        let beside = Seen {
            began_us: 2000,
            ..part(3000)
        };
        floors.note(&1, beside, false, now);
        assert_eq!(floors.begin(&1, false).0, Some(500));
        let later = now + Duration::from_secs(3);
        assert_eq!(floors.note(&1, part(0), true, later), Some(Duration::ZERO));
    }
}
