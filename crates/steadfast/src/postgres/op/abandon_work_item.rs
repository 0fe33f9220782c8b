//! Gives claimed activities back.
//!
//! Invariant: an abandon counts until its claim is superseded, also after the lease has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::Limits;
use crate::group::millis;
use crate::postgres::lane::{Batch, Coded, Entry, Made, Terms, settle};
use crate::postgres::params::Params;
use crate::postgres::store::Store;
use crate::token::WorkToken;

/// Abandoned activities.
pub(crate) struct AbandonWork;

/// An activity to give back.
pub(crate) struct AbandonedWork {
    pub(crate) token: WorkToken,
    pub(crate) delay: Option<Duration>,
    pub(crate) ignore_attempt: bool,
}

impl Batch for AbandonWork {
    type Call = AbandonedWork;
    type Answer = ();
    const LIMITS: Limits = Limits {
        max_calls: 256,
        max_bytes: usize::MAX,
        max_in_flight: 1,
        beside_calls: usize::MAX,
    };
    const LEASED: bool = true;

    fn bytes(_: &AbandonedWork) -> usize {
        0
    }

    async fn send(store: Arc<Store>, entries: Vec<Entry<Self>>) {
        settle(store, entries).await;
    }
}

impl Coded for AbandonWork {
    const FUNCTION: &'static str = "sf_abandon_work_item";

    fn params(_: &Store, calls: &[&AbandonedWork], terms: &Terms) -> Params {
        Params::new()
            .uuid(terms.batch_id)
            .big(terms.retain_ms)
            .flag(terms.sweep)
            .flag(terms.wait)
            .bigs(calls.iter().map(|c| c.token.instance_key).collect())
            .bigs(calls.iter().map(|c| c.token.work_id).collect())
            .bigs(calls.iter().map(|c| c.token.claim).collect())
            .bigs_opt(calls.iter().map(|c| c.delay.map(millis)).collect())
            .flags(calls.iter().map(|c| c.ignore_attempt).collect())
    }

    fn give_up(store: &Store, call: &AbandonedWork) -> Instant {
        store.give_up_with_lease(call.token.lease)
    }

    fn committed(store: &Arc<Store>, calls: &[&AbandonedWork]) -> Made {
        let mut now = 0;
        for call in calls {
            match call.delay {
                Some(delay) if !delay.is_zero() => store.work_due_in(delay),
                _ => now += 1,
            }
        }
        Made {
            work: now,
            ..Made::default()
        }
    }
}
