//! A claim that goes along with a call which fills the queue: one round trip and one commit for both.
//!
//! Invariant: whatever becomes of the call, the look that went along is finished, so that its waiters are served.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio_postgres::Row;

use super::{ClaimTerms, Claimed, Claimer, FetchLane};
use crate::postgres::error::StoreError;
use crate::postgres::exchange::Passenger;
use crate::postgres::params::Params;
use crate::postgres::store::Store;
use crate::wake::{Look, WaiterId};

impl<C: Claimer> FetchLane<C> {
    /// A look that goes along with a call which fills this queue; `None` when nobody waits for one.
    pub(crate) fn along(self: &Arc<Self>) -> Option<Box<dyn Passenger>> {
        let store = self.claimer.store()?;
        let look = {
            let mut state = self.lock();
            if state.closed {
                return None;
            }
            state.wake.look_along(Instant::now())?
        };
        let (ids, seats) = self.seats_of(&look);
        Some(Box::new(Along {
            lane: Arc::clone(self),
            store,
            look,
            ids,
            seats,
            terms: ClaimTerms::new(),
        }))
    }
}

/// A look that goes along with a call.
struct Along<C: Claimer> {
    lane: Arc<FetchLane<C>>,
    store: Arc<Store>,
    look: Look<C::Group>,
    ids: Vec<WaiterId>,
    seats: Vec<C::Seat>,
    terms: ClaimTerms,
}

impl<C: Claimer> Passenger for Along<C> {
    fn function(&self) -> &'static str {
        C::FUNCTION
    }

    fn limit_at(&self) -> usize {
        C::LIMIT_AT
    }

    fn params(&self) -> Params {
        C::params(&self.store, &self.look.group, &self.seats, &self.terms, false)
    }

    fn made(&mut self, units: usize) -> bool {
        let mut state = self.lane.lock();
        state.wake.signal_along(&mut self.look);
        state.keep(units)
    }

    fn arrive(self: Box<Self>, answer: Result<Vec<Row>, StoreError>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let Self {
                lane,
                store,
                look,
                ids,
                seats,
                terms,
            } = *self;
            let result = match answer {
                // Nothing was claimed, for a reason that may be the other half's: look again, alone.
                Err(error) if !error.is_in_doubt() => Ok(Claimed::again()),
                answer => FetchLane::<C>::taken(&store, &look.group, &seats, &terms, answer).await,
            };
            lane.finish(look, &ids, result).await;
        })
    }
}
