//! A claim that goes along with a call which fills the queue: one round trip and one commit for both.
//!
//! Invariant: whatever becomes of the call, the look that went along is finished, so that its waiters are served.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio_postgres::Row;

use super::{ClaimTerms, Claimed, Claimer, FetchLane, Mark, UnderWay};
use crate::postgres::error::StoreError;
use crate::postgres::exchange::{Passenger, Targets};
use crate::postgres::lane::Hand;
use crate::postgres::listen::Queue;
use crate::postgres::params::Params;
use crate::postgres::store::Store;
use crate::wake::{Look, WaiterId};

impl<C: Claimer> FetchLane<C> {
    /// A look that goes along with a call which fills this queue; `None` when nobody waits for one. With `targets`, and
    /// into a queue that is dry, it claims just those; any other look goes along only if it may.
    pub(crate) fn along(self: &Arc<Self>, targets: Option<Targets>, may_look: bool) -> Option<Box<dyn Passenger>> {
        if targets.is_none() && !may_look {
            return None;
        }
        let store = self.claimer.store().filter(|s| !s.pipe.gate().is_closed())?;
        let look = {
            let mut state = self.lock();
            if state.closed {
                return None;
            }
            state.wake.look_along(Instant::now(), !may_look)?
        };
        let targets = targets.filter(|_| look.direct);
        Some(self.passenger(store, look, Vec::new(), targets))
    }

    /// A look that goes along with acks of these items, for the callers who come back for more when they are
    /// acknowledged; `None` when nobody is known to come back, or the queue is known to hold nothing.
    pub(crate) fn along_returning(self: &Arc<Self>, marks: &[Mark]) -> Option<Box<dyn Passenger>> {
        let store = self.claimer.store().filter(|s| !s.pipe.gate().is_closed())?;
        let (look, returning) = {
            let mut state = self.lock();
            if state.closed {
                return None;
            }
            let (group, seats) = state.returning.leave(marks)?;
            let kept = seats.iter().any(|seat| C::keeps_for(&store, &group, seat));
            let look = state.wake.look_returning(Instant::now(), &group, seats.len(), kept)?;
            (look, seats)
        };
        Some(self.passenger(store, look, returning, None))
    }

    fn passenger(
        self: &Arc<Self>,
        store: Arc<Store>,
        look: Look<C::Group>,
        mut returning: Vec<C::Seat>,
        targets: Option<Targets>,
    ) -> Box<dyn Passenger> {
        let mut under_way = UnderWay::new(self, look);
        let (ids, mut seats) = self.seats_of(&mut under_way.look);
        returning.truncate(under_way.look.returning);
        seats.append(&mut returning);
        let mut terms = ClaimTerms::new(targets.is_none());
        terms.whole = self.any_at_once(&ids);
        Box::new(Along {
            lane: Arc::clone(self),
            store,
            under_way,
            ids,
            seats,
            terms,
            targets,
            made: 0,
        })
    }
}

/// A look that goes along with a call.
struct Along<C: Claimer> {
    lane: Arc<FetchLane<C>>,
    store: Arc<Store>,
    under_way: UnderWay<C>,
    ids: Vec<WaiterId>,
    seats: Vec<C::Seat>,
    terms: ClaimTerms,
    /// Of a claim of just these.
    targets: Option<Targets>,
    /// What the call has put there.
    made: usize,
}

impl<C: Claimer> Passenger for Along<C> {
    fn queue(&self) -> Queue {
        C::QUEUE
    }

    fn function(&self) -> &'static str {
        if self.direct() { C::DIRECT_FUNCTION } else { C::FUNCTION }
    }

    fn direct(&self) -> bool {
        self.targets.is_some()
    }

    fn hand(&self) -> Option<Hand> {
        self.targets.as_ref()?;
        C::hand(&self.under_way.look.group, self.seats.len(), &self.terms)
    }

    fn limit_at(&self) -> usize {
        if self.direct() { C::DIRECT_LIMIT_AT } else { C::LIMIT_AT }
    }

    fn params(&self) -> Params {
        let group = &self.under_way.look.group;
        match &self.targets {
            Some(targets) => C::direct_params(&self.store, group, self.seats.len(), &self.terms, targets),
            None => C::params(&self.store, group, &self.seats, &self.terms, false),
        }
    }

    fn made(&mut self, units: usize) -> bool {
        self.made = units;
        let mut state = self.lane.lock();
        state.wake.signal_along(&mut self.under_way.look);
        state.keep(units)
    }

    fn arrive(self: Box<Self>, answer: Result<Vec<Row>, StoreError>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let Self {
                lane,
                store,
                under_way,
                ids,
                seats,
                terms,
                targets,
                made,
            } = *self;
            let result = match answer {
                // Nothing was claimed, for a reason that may be the other half's: look again, alone.
                Err(error) if !error.is_in_doubt() => Ok(Claimed::again()),
                answer => FetchLane::<C>::taken(&store, &under_way.look.group, &seats, &terms, answer).await,
            };
            // Activities that the call queued and could not hand over (another tag) are for an ordinary look.
            let handed = result.as_ref().map_or(0, |claimed| claimed.items.len());
            let left = matches!(targets, Some(Targets::Work(_))) && handed < made.min(seats.len());
            lane.finish(under_way, &ids, &seats, result).await;
            if left {
                lane.released();
            }
        })
    }
}
