//! Queues an activity outside a turn.
//!
//! Invariant: an activity of an instance that does not exist makes no instance that anybody can see.

use super::{Operation, schedule};
use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::item::Activity;

/// An activity to queue.
pub(crate) struct QueuedActivity(pub(crate) Activity);

impl Operation for QueuedActivity {
    const NAME: &'static str = "enqueue_for_worker";
    type Answer = ();

    fn bytes(&self) -> usize {
        self.0.payload.len()
    }

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let key = schedule::key_of(tx, &self.0.instance)?;
        schedule::queue(tx, key, &self.0)
    }
}
