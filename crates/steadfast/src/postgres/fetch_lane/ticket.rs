//! A caller's place among those who wait.
//!
//! Invariant: whatever becomes of the caller, its place is given up, and an item that came too late goes back.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Answer, Claimer, FetchLane};
use crate::wake::WaiterId;

/// A waiter's place. Dropping it gives the place up, and gives back an item that came too late.
pub(super) struct Ticket<'a, C: Claimer> {
    pub(super) lane: &'a Arc<FetchLane<C>>,
    pub(super) group: C::Group,
    pub(super) id: WaiterId,
    pub(super) answered: oneshot::Receiver<Answer<C::Item>>,
}

impl<C: Claimer> Ticket<'_, C> {
    pub(super) fn time_is_up(&mut self) -> Answer<C::Item> {
        let trouble = {
            let mut state = self.lane.lock();
            state.seats.remove(&self.id);
            state.wake.remove(&self.group, self.id);
            state.trouble.as_ref().map(|(error, _)| error.clone())
        };
        // It may have been answered in this very moment.
        match (self.answered.try_recv(), trouble) {
            (Ok(answer), _) => answer,
            (Err(_), Some(error)) => Err(error),
            (Err(_), None) => Ok(None),
        }
    }
}

impl<C: Claimer> Drop for Ticket<'_, C> {
    fn drop(&mut self) {
        {
            let mut state = self.lane.lock();
            state.seats.remove(&self.id);
            state.wake.remove(&self.group, self.id);
        }
        self.answered.close();
        if let Ok(Ok(Some(item))) = self.answered.try_recv() {
            let lane = Arc::clone(self.lane);
            self.lane.tasks.spawn(async move {
                lane.give_back(vec![item]).await;
                lane.pump();
            });
        }
    }
}
