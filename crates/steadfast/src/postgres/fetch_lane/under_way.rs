//! A look that was started, and must be answered.
//!
//! Invariant: whatever becomes of a look, its waiters are looked for again: one that is dropped unanswered (whatever
//! carried it has panicked) counts as failed.

use std::sync::Arc;

use super::{Claimer, FetchLane};
use crate::postgres::error::StoreError;
use crate::wake::Look;

pub(super) struct UnderWay<C: Claimer> {
    lane: Arc<FetchLane<C>>,
    pub(super) look: Look<C::Group>,
    answered: bool,
}

impl<C: Claimer> UnderWay<C> {
    pub(super) fn new(lane: &Arc<FetchLane<C>>, look: Look<C::Group>) -> Self {
        Self {
            lane: Arc::clone(lane),
            look,
            answered: false,
        }
    }

    /// [`Wake::looked`](crate::wake::Wake::looked) or [`Wake::failed`](crate::wake::Wake::failed) was told.
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl<C: Claimer> Drop for UnderWay<C> {
    fn drop(&mut self) {
        if !self.answered {
            let error = StoreError::Connection("a claim was given up half-way".to_owned());
            self.lane.report(&self.look, &self.look.waiters, error);
            self.lane.pump();
        }
    }
}
