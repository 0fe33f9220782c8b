//! Who comes back for more after an ack, and what was claimed for them meanwhile.
//!
//! A slot acknowledges what it has and fetches again. A claim that goes along with the ack saves it a round trip and a
//! commit. What came is kept here until the slot is back, microseconds later.
//!
//! Invariants: only callers that may wait are expected back; what nobody has fetched after [`GRACE`] goes back without
//! spending an attempt; a caller that may not wait never finds an item missing because it is kept here.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;

use super::{Claimer, FetchLane, Mark, State};
use crate::wake::{Found, Kept, Look, WaiterId};

/// How long an item waits for a caller who was expected. A slot comes back within microseconds of its ack; one that does
/// not has ended, or has turned to other work.
const GRACE: Duration = Duration::from_millis(20);

/// Callers with an item in hand that are remembered; of more than these, the rest claims by calls of its own.
const REMEMBERED: NonZeroUsize = match NonZeroUsize::new(1024) {
    Some(n) => n,
    None => NonZeroUsize::MIN,
};

struct Held<C: Claimer> {
    group: C::Group,
    /// The seat it is for, where that matters.
    seat: Option<C::Seat>,
    item: C::Item,
    until: Instant,
}

/// What one lane knows of callers that come back.
pub(super) struct Returning<C: Claimer> {
    in_hand: LruCache<Mark, (C::Group, C::Seat)>,
    held: Vec<Held<C>>,
    /// For whom the look that went along with their ack has found nothing, and the generation as of which.
    looked_for: LruCache<(C::Group, C::Seat), u64>,
    /// Somebody watches over `held`.
    watched: bool,
}

impl<C: Claimer> Returning<C> {
    pub(super) fn new() -> Self {
        Self {
            in_hand: LruCache::new(REMEMBERED),
            held: Vec::new(),
            looked_for: LruCache::new(REMEMBERED),
            watched: false,
        }
    }

    /// These are acknowledged now: the group that most of those who will be back belong to, and their seats.
    pub(super) fn leave(&mut self, marks: &[Mark]) -> Option<(C::Group, Vec<C::Seat>)> {
        let mut back = marks.iter().filter_map(|mark| self.in_hand.pop(mark));
        let (group, seat) = back.next()?;
        let mut seats = vec![seat];
        seats.extend(back.filter(|(g, _)| *g == group).map(|(_, s)| s));
        Some((group, seats))
    }

    /// What was claimed for this caller.
    pub(super) fn take(&mut self, group: &C::Group, seat: &C::Seat) -> Option<C::Item> {
        let at = self
            .held
            .iter()
            .position(|h| h.group == *group && h.seat.as_ref().is_none_or(|s| s == seat))?;
        let item = self.held.remove(at).item;
        self.in_hand.push(C::mark(&item), (group.clone(), seat.clone()));
        Some(item)
    }

    /// Takes out what is held and meets the condition.
    pub(super) fn drain(&mut self, gone: impl Fn(Instant) -> bool) -> Vec<C::Item> {
        self.held.extract_if(.., |h| gone(h.until)).map(|h| h.item).collect()
    }
}

impl<C: Claimer> State<C> {
    /// Hands an item to a waiter; returns it when the waiter is gone.
    pub(super) fn hand(&mut self, group: &C::Group, id: WaiterId, item: C::Item) -> Option<C::Item> {
        let Some(seated) = self.seats.remove(&id) else {
            return Some(item);
        };
        self.wake.remove(group, id);
        let mark = C::mark(&item);
        match seated.answer.send(Ok(Some(item))) {
            Ok(()) => {
                if !seated.at_once {
                    self.returning.in_hand.push(mark, (group.clone(), seated.seat));
                }
                None
            }
            Err(Ok(refused)) => refused,
            Err(Err(_)) => None,
        }
    }

    /// A look for those who come back has found less than it was for: who is back before anything is signalled need not
    /// look again for what is kept for him.
    pub(super) fn note_looked_for(&mut self, look: &Look<C::Group>, returning: &[C::Seat], found: Found) {
        if found.items > 0 || found.busy {
            return;
        }
        if let Some(generation) = self.wake.dry(&look.group) {
            for seat in returning {
                let who = (look.group.clone(), seat.clone());
                self.returning.looked_for.push(who, generation);
            }
        }
    }

    /// What is known of that which may be kept for a seat that comes to wait.
    pub(super) fn kept_for(&mut self, group: &C::Group, seat: &C::Seat, keeps: bool) -> Kept {
        let looked_for = self.returning.looked_for.pop(&(group.clone(), seat.clone()));
        match (keeps, looked_for) {
            (false, _) => Kept::Nothing,
            (true, Some(generation)) if self.wake.dry(group) == Some(generation) => Kept::Seen,
            (true, _) => Kept::Unseen,
        }
    }

    /// Finds takers for what a look brought beyond its waiters: callers of the group who came meanwhile, then those who
    /// are about to come back. Returns what is left.
    pub(super) fn keep_for_returning(
        &mut self,
        look: &Look<C::Group>,
        waiters: usize,
        seats: &[C::Seat],
        left: Vec<(Option<usize>, C::Item)>,
    ) -> Vec<C::Item> {
        let mut room = if self.closed { 0 } else { look.returning };
        let mut over = Vec::new();
        for (bound, item) in left {
            let seat = bound.and_then(|n| seats.get(n)).cloned();
            let came = |id: &WaiterId| match (&seat, self.seats.get(id)) {
                (Some(seat), Some(seated)) => seated.seat == *seat,
                (None, seated) => seated.is_some(),
                (Some(_), None) => false,
            };
            let now_there = self.wake.waiting_in(&look.group).into_iter().find(came);
            let item = match now_there {
                Some(id) => self.hand(&look.group, id, item),
                None => Some(item),
            };
            let expected = room > 0 && bound.is_none_or(|n| n >= waiters);
            match item {
                Some(item) if expected => {
                    room -= 1;
                    self.returning.held.push(Held {
                        group: look.group.clone(),
                        seat,
                        item,
                        until: Instant::now() + GRACE,
                    });
                }
                item => over.extend(item),
            }
        }
        over
    }
}

impl<C: Claimer> FetchLane<C> {
    /// Gives back what is kept for callers who do not come.
    pub(super) fn watch_held(self: &Arc<Self>) {
        {
            let mut state = self.lock();
            if state.returning.held.is_empty() || std::mem::replace(&mut state.returning.watched, true) {
                return;
            }
        }
        // Strong: what is kept here must be given back, whoever else is gone.
        let (lane, store) = (Arc::clone(self), self.claimer.store());
        self.tasks.spawn(async move {
            loop {
                tokio::time::sleep(GRACE).await;
                let (gone, done) = {
                    let mut state = lane.lock();
                    let now = Instant::now();
                    let gone = state.returning.drain(|until| until <= now);
                    state.returning.watched = !state.returning.held.is_empty();
                    (gone, !state.returning.watched)
                };
                if !gone.is_empty() {
                    lane.give_back(gone).await;
                    lane.pump();
                }
                if done {
                    drop(store);
                    return;
                }
            }
        });
    }

    /// Gives back all that is kept, for a caller that may not wait.
    pub(super) async fn put_back_held(self: &Arc<Self>) {
        let held = self.lock().returning.drain(|_| true);
        self.give_back(held).await;
    }

    /// [`FetchLane::give_back`] without waiting for it.
    pub(super) fn give_back_later(self: &Arc<Self>, items: Vec<C::Item>) {
        if items.is_empty() {
            return;
        }
        let (lane, store) = (Arc::clone(self), self.claimer.store());
        self.tasks.spawn(async move {
            lane.give_back(items).await;
            drop(store);
        });
    }

    /// Gives items back to the queue, without spending an attempt.
    pub(super) async fn give_back(&self, items: Vec<C::Item>) {
        if items.is_empty() {
            return;
        }
        metrics::counter!("steadfast_given_back_total", "queue" => C::QUEUE.name()).increment(items.len() as u64);
        self.claimer.give_back(items).await;
        self.lock().wake.signal();
    }
}
