//! Puts messages into the inbox: starts, signals, cancellations.
//!
//! Invariant: an arrival only inserts, once, and creates no instance.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::Limits;
use crate::group::millis;
use crate::item::Message;
use crate::postgres::exchange::{Exchange, Targets, exchange};
use crate::postgres::lane::{Batch, Coded, Entry, Made, Terms};
use crate::postgres::listen::Queue;
use crate::postgres::params::Params;
use crate::postgres::store::Store;

use super::ack_orchestration_item::until_epoch_ms;

/// Arrivals for orchestrations.
pub(crate) struct EnqueueMessages;

/// A message and how long it stays invisible.
pub(crate) struct Enqueued {
    pub(crate) message: Message,
    pub(crate) delay: Option<Duration>,
}

impl Batch for EnqueueMessages {
    type Call = Enqueued;
    type Answer = ();
    const LIMITS: Limits = Limits {
        max_calls: 256,
        max_bytes: 8 << 20,
        max_in_flight: 1,
        beside_calls: usize::MAX,
    };

    fn bytes(call: &Enqueued) -> usize {
        call.message.payload.len()
    }

    async fn send(store: Arc<Store>, entries: Vec<Entry<Self>>) {
        exchange(store, entries).await;
    }
}

impl Coded for EnqueueMessages {
    const FUNCTION: &'static str = "sf_enqueue_for_orchestrator";
    const ARRIVES_IN: Option<Queue> = Some(Queue::Turns);

    fn params(store: &Store, calls: &[&Enqueued], terms: &Terms) -> Params {
        let faults = store.pipe.faults();
        Params::new()
            .uuid(terms.batch_id)
            .big(terms.retain_ms)
            .flag(terms.sweep)
            .texts(calls.iter().map(|c| c.message.instance.clone()).collect())
            .bigs_opt(calls.iter().map(|c| c.delay.map(millis)).collect())
            .bigs_opt(
                calls
                    .iter()
                    .map(|c| c.message.due_ms.map(|at| faults.skewed_ms(at)))
                    .collect(),
            )
            .smalls(calls.iter().map(|c| c.message.kind as i16).collect())
            .byteas(calls.iter().map(|c| c.message.payload.clone()).collect())
    }

    fn give_up(store: &Store, _: &Enqueued) -> Instant {
        store.give_up()
    }

    fn committed(store: &Arc<Store>, calls: &[&Enqueued]) -> Made {
        let mut now = 0;
        for call in calls {
            match (call.delay, call.message.due_ms) {
                (Some(delay), _) if !delay.is_zero() => store.turns_due_in(delay),
                (None, Some(at)) => store.turns_due_in(until_epoch_ms(store.pipe.faults().skewed_ms(at))),
                _ => now += 1,
            }
        }
        Made {
            turns: now,
            ..Made::default()
        }
    }
}

impl Exchange for EnqueueMessages {
    const FILLS: Queue = Queue::Turns;

    fn both(_: Queue, _: bool) -> &'static str {
        "sf_enqueue_for_orchestrator+sf_fetch_orchestration_item"
    }

    fn fills(call: &Enqueued) -> bool {
        match call.delay {
            Some(delay) => delay.is_zero(),
            None => call.message.due_ms.is_none(),
        }
    }

    fn targets(_: &[&Enqueued]) -> Option<Targets> {
        // A start makes an instance, which is more than to claim one.
        None
    }
}
