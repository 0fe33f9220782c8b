//! Long poll: the async side of [`crate::wake`]. One claim serves all who wait.
//!
//! Invariants: an item that was claimed and whose caller is gone goes back at once, without spending an attempt; a
//! caller that may not wait is answered by the first look that begins after its call; a caller that waits is
//! answered with an item, with an error that cannot pass, or when its time is over.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use tokio_postgres::Row;

use super::error::{Class, StoreError};
use super::exchange::Targets;
use super::lane::Hand;
use super::listen::{Hints, Queue};
use super::params::Params;
use super::store::{Store, later};
use crate::background::{Background, Tasks};
use crate::trouble::{Hold, Patience};
use crate::wake::{Found, Look, Moment, WaiterId, Wake};

mod along;
mod claim;
mod returning;
mod ticket;
mod under_way;

pub(crate) use claim::{ClaimTerms, Claimed};

use returning::Returning;
use ticket::Ticket;
use under_way::UnderWay;

/// Claims items for waiters.
pub(crate) trait Claimer: Send + Sync + Sized + 'static {
    /// What waiters must have in common to be served by one claim.
    type Group: Clone + Eq + Hash + Send + Sync + 'static;
    /// What is particular to a waiter.
    type Seat: Clone + Eq + Hash + Send + Sync + 'static;
    type Item: Send + 'static;
    const QUEUE: Queue;

    /// The stored function that claims.
    const FUNCTION: &'static str;
    /// Which of its parameters, from 0, says how many to claim.
    const LIMIT_AT: usize;

    /// The stored function that claims what a call makes into which it goes, and nothing else.
    const DIRECT_FUNCTION: &'static str;
    /// Which of its parameters, from 0, says how many to claim.
    const DIRECT_LIMIT_AT: usize;

    /// Parameters of such a claim.
    fn direct_params(store: &Store, group: &Self::Group, limit: usize, terms: &ClaimTerms, targets: &Targets)
    -> Params;

    /// What the call itself must claim, so that such a claim finds it.
    fn hand(group: &Self::Group, limit: usize, terms: &ClaimTerms) -> Option<Hand>;

    /// What an ack of the item will name.
    fn mark(item: &Self::Item) -> Mark;

    /// Whether there may be items that only this seat may take.
    fn keeps_for(store: &Store, group: &Self::Group, seat: &Self::Seat) -> bool;

    /// `None` when the provider is gone.
    fn store(&self) -> Option<Arc<Store>>;

    /// Parameters of a claim of up to one item per seat; with `retry` the call only asks what the claim has taken.
    fn params(store: &Store, group: &Self::Group, seats: &[Self::Seat], terms: &ClaimTerms, retry: bool) -> Params;

    /// How long what is claimed stays so.
    fn lease(group: &Self::Group) -> Duration;

    /// Reads what a claim brought. An item may demand a certain seat (its index).
    fn decode(
        store: &Arc<Store>,
        group: &Self::Group,
        seats: &[Self::Seat],
        terms: &ClaimTerms,
        rows: Vec<Row>,
    ) -> impl Future<Output = Result<Claimed<Self::Item>, StoreError>> + Send;

    /// Returns items that nobody took.
    fn give_back(&self, items: Vec<Self::Item>) -> impl Future<Output = ()> + Send;
}

/// An item in the hands of a caller: its row, and the claim.
pub(crate) type Mark = (i64, i64);

type Answer<I> = Result<Option<I>, StoreError>;

struct Seated<C: Claimer> {
    seat: C::Seat,
    at_once: bool,
    answer: oneshot::Sender<Answer<C::Item>>,
}

struct State<C: Claimer> {
    wake: Wake<C::Group>,
    seats: HashMap<WaiterId, Seated<C>>,
    /// Why the last look failed, for those whose time runs out; and what others are told of it.
    trouble: Option<(StoreError, Option<Hold>)>,
    /// Pause between looks while no hints arrive.
    poll_pause: Duration,
    hints_arrive: bool,
    /// What was made here for waiters of this process, and has not been seen in their hands yet.
    kept: usize,
    /// Somebody is about to start the looks that are due.
    gathering: bool,
    /// Who comes back after which ack, and what was claimed for them.
    returning: Returning<C>,
    closed: bool,
}

/// The waiters of one queue.
pub(crate) struct FetchLane<C: Claimer> {
    claimer: C,
    state: Mutex<State<C>>,
    alarm: Notify,
    hints: OnceLock<Hints>,
    tasks: Tasks,
    background: Background,
    /// Upper bound of the polling interval while no hints arrive.
    slowest_poll: Duration,
}

/// One claim takes no more than this, so that a single call's rows and time are bounded.
const MAX_ITEMS: usize = 128;
const FASTEST_POLL: Duration = Duration::from_millis(10);

impl<C: Claimer> FetchLane<C> {
    pub(crate) fn new(claimer: C, tasks: Tasks, background: Background, slowest_poll: Duration) -> Arc<Self> {
        let mut wake = Wake::new(MAX_ITEMS);
        wake.poll_every(Some(FASTEST_POLL));
        let lane = Arc::new(Self {
            claimer,
            state: Mutex::new(State {
                wake,
                seats: HashMap::new(),
                trouble: None,
                poll_pause: FASTEST_POLL,
                hints_arrive: false,
                kept: 0,
                gathering: false,
                returning: Returning::new(),
                closed: false,
            }),
            alarm: Notify::new(),
            hints: OnceLock::new(),
            tasks,
            background,
            slowest_poll: slowest_poll.max(FASTEST_POLL),
        });
        lane.tasks.spawn(ring(Arc::downgrade(&lane)));
        lane
    }

    /// Where to ask for hints from other processes; without it the lane polls.
    pub(crate) fn set_hints(&self, hints: Hints) {
        let _ = self.hints.set(hints);
    }

    /// An item for this seat: at once or not at all without `wait`, otherwise within `wait`.
    pub(crate) async fn fetch(
        self: &Arc<Self>,
        group: C::Group,
        seat: C::Seat,
        wait: Option<Duration>,
    ) -> Answer<C::Item> {
        let at_once = wait.is_none();
        if at_once {
            self.put_back_held().await;
        }
        let keeps = self.keeps_for(&group, std::slice::from_ref(&seat));
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut state = self.lock();
            if state.closed {
                return Err(StoreError::Closed);
            }
            if !at_once && let Some(item) = state.returning.take(&group, &seat) {
                return Ok(Some(item));
            }
            let kept = state.kept_for(&group, &seat, keeps);
            let id = state.wake.register(group.clone(), at_once, kept);
            state.seats.insert(id, Seated { seat, at_once, answer });
            id
        };
        let mut ticket = Ticket {
            lane: self,
            group,
            id,
            answered,
        };
        // Whoever is ready to wait in this runtime comes first, and goes along.
        tokio::task::yield_now().await;
        self.pump();
        // A queue that is known to be dry is not looked into, and what is known ages: nobody told us of others' work
        // since the last waiter left. Registering makes the listener have us look once more.
        self.register_sleepers();
        match wait {
            None => (&mut ticket.answered).await.unwrap_or(Err(StoreError::Closed)),
            Some(wait) => match self.background.timeout(wait, &mut ticket.answered).await {
                Ok(answer) => answer.unwrap_or(Err(StoreError::Closed)),
                Err(_) => ticket.time_is_up(),
            },
        }
    }

    /// `units` may have become available here. Returns whether there are more than wait for them in this process.
    pub(crate) fn signal(self: &Arc<Self>, units: usize) -> bool {
        let surplus = {
            let mut state = self.lock();
            state.wake.signal();
            state.keep(units)
        };
        self.pump();
        surplus
    }

    /// Leases have ended here. Whatever was passed over for them, by this process or another, is seen by a look that
    /// begins now.
    pub(crate) fn released(self: &Arc<Self>) {
        self.lock().wake.signal();
        self.pump();
    }

    /// Something becomes available in `delay`.
    pub(crate) fn due_in(self: &Arc<Self>, delay: Duration) {
        self.lock().wake.due_in(Instant::now(), delay);
        self.alarm.notify_one();
    }

    /// To be asked [`FetchLane::quiet_since`] later.
    pub(crate) fn moment(&self) -> Moment {
        self.lock().wake.moment()
    }

    /// Whether nobody has looked or signalled since then.
    pub(crate) fn quiet_since(&self, moment: &Moment) -> bool {
        self.lock().wake.quiet_since(moment)
    }

    /// Whether hints from other processes arrive; while they do not, the queue is polled.
    pub(crate) fn hints_arrive(self: &Arc<Self>, arrive: bool) {
        {
            let mut state = self.lock();
            state.hints_arrive = arrive;
            state.poll_pause = FASTEST_POLL;
            state.wake.poll_every((!arrive).then_some(FASTEST_POLL));
            if arrive {
                state.wake.signal();
            }
        }
        self.pump();
    }

    /// How many sleep until they are told.
    pub(crate) fn sleeping(&self) -> usize {
        self.lock().wake.sleeping()
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().wake.waiting()
    }

    /// Answers everybody that it is over, and takes no more.
    pub(crate) fn close(self: &Arc<Self>) {
        let mut state = self.lock();
        state.closed = true;
        for (_, seated) in state.seats.drain() {
            let _ = seated.answer.send(Err(StoreError::Closed));
        }
        let held = state.returning.drain(|_| true);
        // Nobody here takes any more what was made here for them.
        if std::mem::take(&mut state.kept) > 0
            && let Some(hints) = self.hints.get()
        {
            hints.offer(C::QUEUE, Duration::ZERO);
        }
        drop(state);
        self.give_back_later(held);
        self.alarm.notify_one();
    }

    /// Whether there may be items that only one of these seats may take.
    fn keeps_for(&self, group: &C::Group, seats: &[C::Seat]) -> bool {
        let store = self.claimer.store();
        store.is_some_and(|store| seats.iter().any(|seat| C::keeps_for(&store, group, seat)))
    }

    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the looks that are due now, after whoever is ready to wait has come to wait: it goes along.
    fn pump(self: &Arc<Self>) {
        {
            let mut state = self.lock();
            if state.gathering {
                return;
            }
            state.gathering = true;
        }
        let lane = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::task::yield_now().await;
            let looks = {
                let mut state = lane.lock();
                state.gathering = false;
                state.start_looks()
            };
            lane.spawn_looks(looks);
            lane.alarm.notify_one();
        });
    }

    fn spawn_looks(self: &Arc<Self>, looks: Vec<Look<C::Group>>) {
        for look in looks {
            let (lane, look) = (Arc::clone(self), UnderWay::new(self, look));
            self.tasks.spawn(async move { lane.look(look).await });
        }
    }

    async fn look(self: Arc<Self>, mut under_way: UnderWay<C>) {
        let look = &mut under_way.look;
        let (ids, seats) = self.seats_of(look);
        let result = match (self.claimer.store(), seats.is_empty()) {
            (_, true) => Ok(Claimed::again()),
            (None, _) => Err(StoreError::Closed),
            // What was claimed now could not be acknowledged.
            (Some(store), _) if store.pipe.gate().is_closed() => Err(StoreError::lasting(&store.pipe.gate().lasting())),
            (Some(store), _) => {
                let mut terms = ClaimTerms::new(true);
                terms.whole = self.any_at_once(&ids);
                let params = C::params(&store, &look.group, &seats, &terms, false);
                let answer = store.pipe.call(C::FUNCTION, &params).await;
                Self::taken(&store, &look.group, &seats, &terms, answer).await
            }
        };
        self.finish(under_way, &ids, &seats, result).await;
    }

    /// Those whom a look is for and who still wait; the others are taken out of it.
    fn seats_of(&self, look: &mut Look<C::Group>) -> (Vec<WaiterId>, Vec<C::Seat>) {
        let state = self.lock();
        let seat = |id: &WaiterId| state.seats.get(id).map(|s| (*id, s.seat.clone()));
        let (ids, seats): (Vec<WaiterId>, Vec<C::Seat>) = look.waiters.iter().filter_map(seat).unzip();
        look.waiters.clone_from(&ids);
        (ids, seats)
    }

    fn any_at_once(&self, ids: &[WaiterId]) -> bool {
        let state = self.lock();
        ids.iter().any(|id| state.seats.get(id).is_some_and(|s| s.at_once))
    }

    /// What a claim has taken, whatever became of its answer.
    async fn taken(
        store: &Arc<Store>,
        group: &C::Group,
        seats: &[C::Seat],
        terms: &ClaimTerms,
        answer: Result<Vec<Row>, StoreError>,
    ) -> Result<Claimed<C::Item>, StoreError> {
        let mut terms = terms.clone();
        let (rows, repeated) = match answer {
            // It may have claimed for us: ask for exactly that, as long as the leases can last.
            Err(error) if error.is_in_doubt() => {
                terms.looks = false;
                let params = C::params(store, group, seats, &terms, true);
                let patience = Patience::Until(later(C::lease(group)).into());
                (store.pipe.call_until(C::FUNCTION, &params, patience).await?.rows, true)
            }
            other => (other?, false),
        };
        let mut claimed = C::decode(store, group, seats, &terms, rows).await?;
        // A repeated call only asks what the first one claimed: where that never ran, nobody has looked.
        claimed.busy |= repeated;
        Ok(claimed)
    }

    /// Hands out what a look found, and goes on to the next.
    async fn finish(
        self: &Arc<Self>,
        under_way: UnderWay<C>,
        ids: &[WaiterId],
        seats: &[C::Seat],
        result: Result<Claimed<C::Item>, StoreError>,
    ) {
        let left = match result {
            Ok(claimed) => self.deliver(&under_way.look, ids, seats, claimed),
            Err(error) => {
                self.report(&under_way.look, ids, error);
                Vec::new()
            }
        };
        under_way.answered();
        self.give_back(left).await;
        self.pump();
        self.register_sleepers();
    }

    /// Hands items to their waiters; returns those whose waiters are gone.
    fn deliver(
        self: &Arc<Self>,
        look: &Look<C::Group>,
        ids: &[WaiterId],
        seats: &[C::Seat],
        claimed: Claimed<C::Item>,
    ) -> Vec<C::Item> {
        let Claimed { items, busy, next_due } = claimed;
        let found = Found {
            items: items.len(),
            busy,
            next_due,
        };
        let mut left = Vec::new();
        let mut state = self.lock();
        let bound: Vec<usize> = items.iter().filter_map(|(seat, _)| *seat).collect();
        let mut free: Vec<WaiterId> = ids
            .iter()
            .enumerate()
            .filter(|(n, _)| !bound.contains(n))
            .map(|(_, id)| *id)
            .rev()
            .collect();
        for (seat, item) in items {
            let mut item = Some(item);
            while let Some(unclaimed) = item.take() {
                let id = match seat {
                    Some(n) => ids.get(n).copied(),
                    None => free.pop(),
                };
                let Some(id) = id else {
                    left.push((seat, unclaimed));
                    break;
                };
                item = state.hand(&look.group, id, unclaimed);
                if seat.is_some() {
                    left.extend(item.take().map(|item| (seat, item)));
                }
            }
        }
        let left = state.keep_for_returning(look, ids.len(), seats, left);
        for id in ids {
            if state.seats.get(id).is_some_and(|s| s.at_once)
                && let Some(seated) = state.seats.remove(id)
            {
                state.wake.remove(&look.group, *id);
                let _ = seated.answer.send(Ok(None));
            }
        }
        let trouble = state.trouble.take();
        if !state.hints_arrive {
            state.poll_pause = if found.items > 0 {
                FASTEST_POLL
            } else {
                (state.poll_pause * 2).min(self.slowest_poll)
            };
            let pause = state.poll_pause;
            state.wake.poll_every(Some(pause));
        }
        state.kept = state.kept.saturating_sub(found.items);
        if found.items < ids.len()
            && std::mem::take(&mut state.kept) > 0
            && let Some(hints) = self.hints.get()
        {
            hints.offer(C::QUEUE, Duration::ZERO);
        }
        state.wake.looked(Instant::now(), look, found);
        state.note_looked_for(look, seats.get(ids.len()..).unwrap_or_default(), found);
        drop(state);
        drop(trouble);
        self.watch_held();
        left
    }

    fn report(&self, look: &Look<C::Group>, ids: &[WaiterId], error: StoreError) {
        let passes = error.may_pass();
        let mut hold = None;
        if error.class() != Class::Trouble {
            tracing::warn!(target: "steadfast", queue = C::QUEUE.name(), %error, "a fetch failed");
        } else if !matches!(error, StoreError::Lasting { .. })
            && let Some(store) = self.claimer.store()
        {
            // Said once, by the gate.
            hold = Some(store.pipe.gate().hold(C::FUNCTION, error.to_string(), false));
        }
        let mut state = self.lock();
        for id in ids {
            if state.seats.get(id).is_some_and(|s| s.at_once || !passes)
                && let Some(seated) = state.seats.remove(id)
            {
                state.wake.remove(&look.group, *id);
                let _ = seated.answer.send(Err(error.clone()));
            }
        }
        state.wake.failed(Instant::now(), look);
        let before = state.trouble.replace((error, hold));
        drop(state);
        drop(before);
    }

    /// Those who sleep want to hear of work that other processes make.
    fn register_sleepers(&self) {
        if let Some(hints) = self.hints.get()
            && self.sleeping() > 0
        {
            hints.want(C::QUEUE);
        }
    }
}

/// Wakes the lane when its next look is due; ends with the lane.
async fn ring<C: Claimer>(lane: Weak<FetchLane<C>>) {
    loop {
        let Some(strong) = lane.upgrade() else { return };
        let next = {
            let state = strong.lock();
            if state.closed {
                return;
            }
            state.wake.next_look()
        };
        // The alarm is borrowed from the lane, so the lane is held while it rings: a lane is closed before it goes.
        let early = strong.alarm.notified();
        match next {
            Some(at) => {
                tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {
                        let looks = strong.lock().start_looks();
                        strong.spawn_looks(looks);
                    }
                    () = early => {}
                }
            }
            None => early.await,
        }
    }
}

impl<C: Claimer> State<C> {
    /// `units` were made here. Returns whether there are more than wait for them in this process: others are told at
    /// once then, otherwise when it turns out that nobody here may take them (another tag, session or replay version).
    fn keep(&mut self, units: usize) -> bool {
        let surplus = units > self.wake.waiting();
        self.kept = if surplus { 0 } else { self.kept + units };
        surplus
    }

    fn start_looks(&mut self) -> Vec<Look<C::Group>> {
        if self.closed {
            return Vec::new();
        }
        self.wake.looks(Instant::now())
    }
}
