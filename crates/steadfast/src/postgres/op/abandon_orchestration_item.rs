//! Gives claimed instances back.
//!
//! Invariant: only the messages of the claim are delayed or get their attempt back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::Limits;
use crate::group::millis;
use crate::postgres::lane::{Batch, Coded, Entry, Made, Terms, settle};
use crate::postgres::params::Params;
use crate::postgres::store::Store;
use crate::token::TurnToken;

/// Abandoned turns.
pub(crate) struct AbandonTurns;

/// A turn to give back.
pub(crate) struct AbandonedTurn {
    pub(crate) token: TurnToken,
    pub(crate) delay: Option<Duration>,
    pub(crate) ignore_attempt: bool,
}

impl Batch for AbandonTurns {
    type Call = AbandonedTurn;
    type Answer = ();
    const LIMITS: Limits = Limits {
        max_calls: 256,
        max_bytes: usize::MAX,
        max_in_flight: 1,
        beside_calls: usize::MAX,
    };
    const LEASED: bool = true;

    fn bytes(_: &AbandonedTurn) -> usize {
        0
    }

    async fn send(store: Arc<Store>, entries: Vec<Entry<Self>>) {
        settle(store, entries).await;
    }
}

impl Coded for AbandonTurns {
    const FUNCTION: &'static str = "sf_abandon_orchestration_item";

    fn params(_: &Store, calls: &[&AbandonedTurn], terms: &Terms) -> Params {
        Params::new()
            .uuid(terms.batch_id)
            .big(terms.retain_ms)
            .flag(terms.sweep)
            .flag(terms.wait)
            .bigs(calls.iter().map(|c| c.token.instance_key).collect())
            .bigs(calls.iter().map(|c| c.token.claim).collect())
            .bigs(calls.iter().map(|c| c.token.upto).collect())
            .bigs_opt(calls.iter().map(|c| c.delay.map(millis)).collect())
            .flags(calls.iter().map(|c| c.ignore_attempt).collect())
    }

    fn give_up(store: &Store, call: &AbandonedTurn) -> Instant {
        store.give_up_with_lease(call.token.lease)
    }

    fn committed(store: &Arc<Store>, calls: &[&AbandonedTurn]) -> Made {
        let mut now = 0;
        for call in calls {
            match call.delay {
                Some(delay) if !delay.is_zero() => store.turns_due_in(delay),
                _ => now += 1,
            }
        }
        Made {
            turns: now,
            ..Made::default()
        }
    }
}
