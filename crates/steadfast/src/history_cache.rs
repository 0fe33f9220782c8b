//! Histories that this process has seen, so that a fetch or read carries only what is new.
//!
//! Invariants: an entry is used only when the store names the same incarnation, execution, last event and revision;
//! memory is bounded; keys that the store believes to be here and are not any more are told to it (`forgotten`).

use std::num::NonZeroUsize;
use std::sync::Arc;

use duroxide::Event;
use lru::LruCache;

/// A history as it was when it was last seen.
#[derive(Debug, Clone)]
pub(crate) struct CachedHistory {
    pub(crate) execution_id: i64,
    pub(crate) revision: i64,
    pub(crate) events: Arc<Vec<Event>>,
    bytes: usize,
}

impl CachedHistory {
    /// Size of the events as they are stored.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.bytes.saturating_sub(self.events.len() * EVENT_OVERHEAD_BYTES)
    }

    /// Highest event id, 0 when there is none.
    pub(crate) fn last_event_id(&self) -> i64 {
        self.events.last().map_or(0, |e| e.event_id as i64)
    }
}

/// Least recently used histories go first.
#[derive(Debug)]
pub(crate) struct HistoryCache {
    entries: LruCache<i64, CachedHistory>,
    bytes: usize,
    max_bytes: usize,
    owner: i64,
    forgotten: Vec<i64>,
    /// Whether the store counts on entries without asking, so that it must be told of those that are gone.
    counted_on: bool,
    /// Keys by instance id, for reads, which know no keys. An id that has been re-created is answered with another
    /// key by the store, and learnt anew.
    keys: LruCache<String, i64>,
}

/// More than this many unreported evictions, and taking a new owner id is cheaper.
const MAX_FORGOTTEN: usize = 512;
/// What an event costs in memory beside its text, roughly; counted so that many small events are bounded too.
const EVENT_OVERHEAD_BYTES: usize = 256;

impl HistoryCache {
    /// A cache of at most `max_bytes`; 0 keeps nothing.
    pub(crate) fn new(max_bytes: usize) -> Self {
        const MAX_ENTRIES: NonZeroUsize = match NonZeroUsize::new(100_000) {
            Some(n) => n,
            None => NonZeroUsize::MIN,
        };
        Self {
            entries: LruCache::new(MAX_ENTRIES),
            bytes: 0,
            max_bytes,
            owner: random_id(),
            forgotten: Vec::new(),
            counted_on: true,
            keys: LruCache::new(MAX_ENTRIES),
        }
    }

    /// A cache for a store that looks into it before it leaves anything out: nobody must be told what is gone.
    #[cfg(feature = "embedded")]
    pub(crate) fn looked_into(max_bytes: usize) -> Self {
        Self {
            counted_on: false,
            ..Self::new(max_bytes)
        }
    }

    fn forget(&mut self, instance_key: i64) {
        if self.counted_on && !self.forgotten.contains(&instance_key) {
            self.forgotten.push(instance_key);
        }
    }

    /// Under which name the store knows this cache, and which of its entries it must no longer count on.
    pub(crate) fn claim_terms(&mut self) -> (i64, Vec<i64>) {
        if self.forgotten.len() > MAX_FORGOTTEN {
            self.forgotten.clear();
            self.entries.clear();
            self.bytes = 0;
            self.owner = random_id();
        }
        (self.owner, self.forgotten.clone())
    }

    /// The name under which an ack should leave the history to this cache.
    pub(crate) fn owner(&self) -> i64 {
        self.owner
    }

    pub(crate) fn get(&mut self, instance_key: i64) -> Option<CachedHistory> {
        self.entries.get(&instance_key).cloned()
    }

    /// Keeps a whole history. `payload_bytes` is its serialized size.
    pub(crate) fn put(
        &mut self,
        instance_key: i64,
        execution_id: i64,
        revision: i64,
        events: Arc<Vec<Event>>,
        payload_bytes: usize,
    ) {
        // An answer that was long under way must not take the cache back behind a newer one.
        let last = events.last().map_or(0, |e| e.event_id as i64);
        let newer = |old: &CachedHistory| {
            old.revision > revision
                || (old.revision == revision && (old.execution_id, old.last_event_id()) > (execution_id, last))
        };
        if self.entries.peek(&instance_key).is_some_and(newer) {
            return;
        }
        self.forgotten.retain(|k| *k != instance_key);
        let bytes = payload_bytes + events.len() * EVENT_OVERHEAD_BYTES;
        if bytes > self.max_bytes {
            self.remove(instance_key);
            return;
        }
        self.bytes += bytes;
        let entry = CachedHistory {
            execution_id,
            revision,
            events,
            bytes,
        };
        if let Some((key, old)) = self.entries.push(instance_key, entry) {
            self.bytes -= old.bytes;
            if key != instance_key {
                self.forget(key);
            }
        }
        while self.bytes > self.max_bytes {
            let Some((key, old)) = self.entries.pop_lru() else {
                break;
            };
            self.bytes -= old.bytes;
            self.forget(key);
        }
    }

    /// [`HistoryCache::put`], and remembers whose it is.
    pub(crate) fn put_named(
        &mut self,
        instance: &str,
        instance_key: i64,
        execution_id: i64,
        revision: i64,
        events: Arc<Vec<Event>>,
        payload_bytes: usize,
    ) {
        self.keys.put(instance.to_owned(), instance_key);
        self.put(instance_key, execution_id, revision, events, payload_bytes);
    }

    /// The key under which this instance was last seen.
    pub(crate) fn key_of(&mut self, instance: &str) -> Option<i64> {
        self.keys.get(instance).copied()
    }

    /// A read brought events that follow those in the cache, unless another read has been faster.
    pub(crate) fn extend_seen(
        &mut self,
        instance_key: i64,
        execution_id: i64,
        revision: i64,
        events: &[Event],
        payload_bytes: usize,
    ) {
        let follows = self.entries.peek(&instance_key).is_some_and(|e| {
            let first = events.first().map_or(0, |f| f.event_id as i64);
            e.execution_id == execution_id && e.revision == revision && e.last_event_id() < first
        });
        if follows {
            self.append(instance_key, execution_id, events, payload_bytes);
        }
    }

    /// An ack appended `events` to `execution_id`; the store now counts on this cache for the instance.
    pub(crate) fn append(&mut self, instance_key: i64, execution_id: i64, events: &[Event], payload_bytes: usize) {
        let Some(entry) = self.entries.pop(&instance_key) else {
            self.forget(instance_key);
            return;
        };
        self.bytes -= entry.bytes;
        let known_bytes = entry.payload_bytes();
        let same = entry.execution_id == execution_id;
        let known = if same { entry.last_event_id() } else { 0 };
        // A read may have brought some of them already; a gap before them means that this entry is not whole.
        let new: Vec<Event> = events.iter().filter(|e| e.event_id as i64 > known).cloned().collect();
        if new.first().is_some_and(|first| first.event_id as i64 != known + 1) {
            self.forget(instance_key);
            return;
        }
        let (all, bytes) = if same {
            let mut all = entry.events;
            Arc::make_mut(&mut all).extend(new);
            (all, known_bytes + payload_bytes)
        } else {
            (Arc::new(new), payload_bytes)
        };
        self.put(instance_key, execution_id, entry.revision, all, bytes);
    }

    /// Forgets a history that the store may still count on.
    pub(crate) fn remove(&mut self, instance_key: i64) {
        if let Some(old) = self.entries.pop(&instance_key) {
            self.bytes -= old.bytes;
        }
        self.forget(instance_key);
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A random number of 63 bits: no two caches share one.
pub(crate) fn random_id() -> i64 {
    (uuid::Uuid::new_v4().as_u64_pair().0 >> 1).max(1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use duroxide::EventKind;

    fn events(ids: std::ops::Range<u64>) -> Vec<Event> {
        ids.map(|n| Event::with_event_id(n, "i", 1, None, EventKind::KeyValuesCleared))
            .collect()
    }

    #[test]
    fn appends_extend_and_a_new_execution_replaces() {
        let mut cache = HistoryCache::new(1 << 20);
        cache.put(7, 1, 0, Arc::new(events(1..4)), 100);
        cache.append(7, 1, &events(4..6), 50);
        assert_eq!(cache.get(7).unwrap().last_event_id(), 5);
        cache.append(7, 2, &events(1..2), 10);
        let entry = cache.get(7).unwrap();
        assert_eq!((entry.execution_id, entry.last_event_id()), (2, 1));
    }

    #[test]
    fn a_late_answer_does_not_take_the_cache_back() {
        let mut cache = HistoryCache::new(1 << 20);
        cache.put(7, 1, 0, Arc::new(events(1..4)), 100);
        cache.put(7, 1, 0, Arc::new(events(1..3)), 50);
        assert_eq!(cache.get(7).unwrap().last_event_id(), 3);
        cache.append(7, 1, &events(4..6), 50);
        let ids: Vec<u64> = cache.get(7).unwrap().events.iter().map(|e| e.event_id).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn an_entry_with_a_gap_is_given_up() {
        let mut cache = HistoryCache::new(1 << 20);
        cache.put(7, 1, 0, Arc::new(events(1..3)), 100);
        cache.append(7, 1, &events(4..6), 50);
        assert!(cache.get(7).is_none());
        assert!(cache.claim_terms().1.contains(&7));
    }

    #[test]
    fn memory_is_bounded_and_evictions_are_told() {
        let mut cache = HistoryCache::new(10_000);
        for key in 0..100 {
            cache.put(key, 1, 0, Arc::new(events(1..3)), 1_000);
        }
        assert!(cache.bytes() <= 10_000);
        let (_, forgotten) = cache.claim_terms();
        assert!(forgotten.contains(&0) && !forgotten.contains(&99));
        cache.put(0, 1, 0, Arc::new(events(1..2)), 10);
        assert!(!cache.claim_terms().1.contains(&0));
    }

    #[test]
    fn too_many_evictions_change_the_owner() {
        let mut cache = HistoryCache::new(10_000);
        let owner = cache.owner();
        for key in 0..(MAX_FORGOTTEN as i64 + 2) {
            cache.append(key, 1, &events(1..2), 10);
        }
        let (changed, forgotten) = cache.claim_terms();
        assert_ne!(owner, changed);
        assert!(forgotten.is_empty());
    }
}
