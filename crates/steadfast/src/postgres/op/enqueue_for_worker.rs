//! Queues activities outside a turn: for tests and tools; the runtime's come with the ack of a turn.
//!
//! Invariant: an activity is queued once.

use std::sync::Arc;
use std::time::Instant;

use crate::batch::Limits;
use crate::item::Activity;
use crate::postgres::lane::{Batch, Coded, Entry, Made, Terms, settle};
use crate::postgres::listen::Queue;
use crate::postgres::params::Params;
use crate::postgres::store::Store;

/// Activities from outside.
pub(crate) struct EnqueueWork;

impl Batch for EnqueueWork {
    type Call = Activity;
    type Answer = ();
    const LIMITS: Limits = Limits {
        max_calls: 256,
        max_bytes: 8 << 20,
        max_in_flight: 1,
        beside_calls: usize::MAX,
    };

    fn bytes(call: &Activity) -> usize {
        call.payload.len()
    }

    async fn send(store: Arc<Store>, entries: Vec<Entry<Self>>) {
        settle(store, entries).await;
    }
}

impl Coded for EnqueueWork {
    const FUNCTION: &'static str = "sf_enqueue_for_worker";
    const ARRIVES_IN: Option<Queue> = Some(Queue::Work);

    fn params(_: &Store, calls: &[&Activity], terms: &Terms) -> Params {
        Params::new()
            .uuid(terms.batch_id)
            .big(terms.retain_ms)
            .flag(terms.sweep)
            .texts(calls.iter().map(|c| c.instance.clone()).collect())
            .bigs(calls.iter().map(|c| c.execution_id).collect())
            .bigs(calls.iter().map(|c| c.activity_id).collect())
            .byteas(calls.iter().map(|c| c.tag.clone()).collect())
            .byteas_opt(calls.iter().map(|c| c.session.clone()).collect())
            .byteas(calls.iter().map(|c| c.payload.clone()).collect())
    }

    fn give_up(store: &Store, _: &Activity) -> Instant {
        store.give_up()
    }

    fn committed(_: &Arc<Store>, calls: &[&Activity]) -> Made {
        Made {
            work: calls.len(),
            ..Made::default()
        }
    }
}
