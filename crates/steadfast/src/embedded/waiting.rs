//! Those who wait for one queue, as the writer sees them: who they are, and how they are answered.
//!
//! Invariants: a caller that may not wait is answered by the first look that begins after its call; an item whose
//! caller has gone comes back to be returned; nobody is told of an item before its commit.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::claim::Looked;
use super::error::StoreError;
use crate::wake::{Found, Kept, Look, WaiterId, Wake};

/// What a caller that fetches is told.
pub(crate) type Answer<I> = Result<Option<I>, StoreError>;

/// A caller that fetches.
pub(crate) struct Caller<G, S, I> {
    pub(crate) group: G,
    /// What is particular to it.
    pub(crate) seat: S,
    pub(crate) at_once: bool,
    /// There may be items that only it may take.
    pub(crate) keeps: bool,
    pub(crate) answer: oneshot::Sender<Answer<I>>,
}

/// One claim takes no more than this, so that a single transaction is bounded.
const MAX_ITEMS: usize = 128;

/// The callers that wait for one queue.
pub(crate) struct Waiting<G, S, I> {
    pub(crate) wake: Wake<G>,
    callers: HashMap<WaiterId, Caller<G, S, I>>,
}

/// A look and those it is for, in order.
pub(crate) struct Started<G, S> {
    pub(crate) look: Look<G>,
    ids: Vec<WaiterId>,
    pub(crate) seats: Vec<S>,
}

impl<G: Clone + Eq + Hash, S: Clone, I> Waiting<G, S, I> {
    pub(crate) fn new() -> Self {
        Self {
            wake: Wake::new(MAX_ITEMS),
            callers: HashMap::new(),
        }
    }

    pub(crate) fn register(&mut self, caller: Caller<G, S, I>) {
        let kept = if caller.keeps { Kept::Unseen } else { Kept::Nothing };
        let id = self.wake.register(caller.group.clone(), caller.at_once, kept);
        self.callers.insert(id, caller);
    }

    /// Forgets callers that have gone.
    pub(crate) fn purge(&mut self) {
        let wake = &mut self.wake;
        self.callers.retain(|id, caller| {
            let gone = caller.answer.is_closed();
            if gone {
                wake.remove(&caller.group, *id);
            }
            !gone
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.callers.len()
    }

    /// Looks to take now.
    pub(crate) fn looks(&mut self, now: Instant) -> Vec<Started<G, S>> {
        if self.callers.is_empty() {
            return Vec::new();
        }
        let start = |look: Look<G>| {
            let known = |id: &WaiterId| self.callers.get(id).map(|c| (*id, c.seat.clone()));
            let (ids, seats) = look.waiters.iter().filter_map(known).unzip();
            Started { look, ids, seats }
        };
        self.wake.looks(now).into_iter().map(start).collect()
    }

    /// Hands out what a committed look brought; returns items whose callers have gone.
    pub(crate) fn deliver(&mut self, started: &Started<G, S>, looked: Looked<I>) -> Vec<I> {
        let Looked { items, next_due } = looked;
        let found = Found {
            items: items.len(),
            busy: false,
            next_due,
        };
        let bound: Vec<usize> = items.iter().filter_map(|(seat, _)| *seat).collect();
        let unbound = |n: &usize| !bound.contains(n);
        let mut free: Vec<usize> = (0..started.ids.len()).filter(unbound).rev().collect();
        let mut left = Vec::new();
        for (seat, item) in items {
            let mut item = Some(item);
            while let Some(unclaimed) = item.take() {
                let place = seat.or_else(|| free.pop());
                let Some(id) = place.and_then(|n| started.ids.get(n)) else {
                    left.push(unclaimed);
                    break;
                };
                item = self.hand_over(&started.look.group, *id, unclaimed);
                if seat.is_some() {
                    left.extend(item.take());
                }
            }
        }
        for id in &started.ids {
            if self.callers.get(id).is_some_and(|c| c.at_once) {
                self.answer(&started.look.group, *id, Ok(None));
            }
        }
        self.wake.looked(Instant::now(), &started.look, found);
        left
    }

    fn hand_over(&mut self, group: &G, id: WaiterId, item: I) -> Option<I> {
        let Some(caller) = self.callers.remove(&id) else {
            return Some(item);
        };
        self.wake.remove(group, id);
        match caller.answer.send(Ok(Some(item))) {
            Err(Ok(refused)) => refused,
            _ => None,
        }
    }

    fn answer(&mut self, group: &G, id: WaiterId, answer: Answer<I>) {
        if let Some(caller) = self.callers.remove(&id) {
            self.wake.remove(group, id);
            let _ = caller.answer.send(answer);
        }
    }

    /// A look failed: those who may wait go on waiting if it can pass.
    pub(crate) fn failed(&mut self, started: &Started<G, S>, error: &StoreError) {
        let passes = error.may_pass();
        for id in &started.ids {
            if self.callers.get(id).is_some_and(|c| c.at_once || !passes) {
                self.answer(&started.look.group, *id, Err(error.clone()));
            }
        }
        self.wake.failed(Instant::now(), &started.look);
    }

    /// Those who may not wait are told why nothing is claimed.
    pub(crate) fn refuse_hasty(&mut self, error: &StoreError) {
        let wake = &mut self.wake;
        for (id, caller) in self.callers.extract_if(|_, caller| caller.at_once) {
            wake.remove(&caller.group, id);
            let _ = caller.answer.send(Err(error.clone()));
        }
    }

    /// Everybody is told that it is over.
    pub(crate) fn close(&mut self) {
        for (_, caller) in self.callers.drain() {
            let _ = caller.answer.send(Err(StoreError::Closed));
        }
    }

    /// What a commit has made available.
    pub(crate) fn note(&mut self, available: bool, due_in: Option<Duration>) {
        if available {
            self.wake.signal();
        }
        if let Some(delay) = due_in {
            self.wake.due_in(Instant::now(), delay);
        }
    }
}
