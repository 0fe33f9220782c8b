//! Delivers messages: starts, signals, cancellations.
//!
//! Invariant: a message for an instance that nobody has started makes no instance that anybody can see.

use std::time::Duration;

use super::{Operation, schedule};
use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::group::millis;
use crate::item::Message;

/// A message and how long it stays invisible.
pub(crate) struct Enqueued {
    pub(crate) message: Message,
    pub(crate) delay: Option<Duration>,
}

impl Operation for Enqueued {
    const NAME: &'static str = "enqueue_for_orchestrator";
    type Answer = ();

    fn bytes(&self) -> usize {
        self.message.payload.len()
    }

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let at = schedule::due_at(tx, &self.message, self.delay.map(millis));
        schedule::deliver(tx, &self.message, at)
    }
}
