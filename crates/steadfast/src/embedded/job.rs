//! An operation in the hands of the writer: until when it is repeated, and how its answer is told.
//!
//! Invariant: it is answered once, whatever becomes of it; an operation whose lease trouble has cost gives its attempt back in
//! the very transaction that learns of it.

use std::time::Instant;

use tokio::sync::oneshot;

use super::error::{Class, StoreError};
use super::op::Operation;
use super::transaction::Tx;
use crate::refusal::Refusal;

/// An operation that waits for the writer, with whoever waits for its answer.
pub(crate) trait Job: Send {
    /// Whether anybody wants it (asked before it is begun).
    fn is_wanted(&self) -> bool;
    /// Until when repeating it makes sense, after this.
    fn give_up(&self, error: &StoreError) -> Instant;
    /// It runs under a lease: nothing is claimed while it is repeated.
    fn is_leased(&self) -> bool;
    /// It is to be repeated.
    fn note_trouble(&mut self);
    /// Does it, and keeps the answer. The error is trouble, not an answer.
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError>;
    /// Tells the answer.
    fn answer(self: Box<Self>);
    /// Tells that it came to nothing.
    fn fail(self: Box<Self>, error: StoreError);
}

/// An operation, with its answer.
pub(super) type Settled<O> = (O, Result<<O as Operation>::Answer, StoreError>);

/// An operation whose answer somebody waits for.
pub(super) struct Call<O: Operation> {
    pub(super) operation: O,
    pub(super) outcome: Option<Result<O::Answer, StoreError>>,
    /// `None`: nobody waits, and it is done all the same.
    pub(super) answer: Option<oneshot::Sender<Settled<O>>>,
    pub(super) give_up: Instant,
    /// The same, in trouble.
    pub(super) last: Instant,
    pub(super) met_trouble: bool,
}

impl<O: Operation> Job for Call<O> {
    fn is_wanted(&self) -> bool {
        self.answer.as_ref().is_none_or(|a| !a.is_closed())
    }

    fn give_up(&self, error: &StoreError) -> Instant {
        if error.class() == Class::Trouble || self.is_leased() {
            self.last
        } else {
            self.give_up
        }
    }

    fn is_leased(&self) -> bool {
        self.operation.lease().is_some()
    }

    fn note_trouble(&mut self) {
        self.met_trouble = true;
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        match self.operation.apply(tx) {
            Err(error) if !error.is_answer() => {
                tracing::debug!(target: "steadfast", operation = O::NAME, %error, "an operation failed");
                Err(error)
            }
            outcome => {
                if self.met_trouble && matches!(outcome, Err(StoreError::Refused(Refusal::LeaseEnded))) {
                    self.operation.give_attempt_back(tx)?;
                }
                self.outcome = Some(outcome);
                Ok(())
            }
        }
    }

    fn answer(mut self: Box<Self>) {
        let outcome = self.outcome.take().unwrap_or(Err(StoreError::Closed));
        self.tell(outcome);
    }

    fn fail(self: Box<Self>, error: StoreError) {
        self.tell(Err(error));
    }
}

impl<O: Operation> Call<O> {
    fn tell(self, outcome: Result<O::Answer, StoreError>) {
        if let Some(answer) = self.answer {
            // Nobody there: the caller gave up; what was done is done.
            let _ = answer.send((self.operation, outcome));
        }
    }
}
