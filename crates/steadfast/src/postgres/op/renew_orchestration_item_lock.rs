//! Extends leases of turns, from now.
//!
//! Invariant: a lease that has ended is not revived. Renewing twice is renewing once, so a repeated call is harmless.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use crate::batch::Limits;
use crate::group::millis;
use crate::postgres::lane::{Batch, Coded, Entry, Made, Terms, settle};
use crate::postgres::params::Params;
use crate::postgres::store::Store;
use crate::token::TurnToken;

/// Renewals of leases on turns.
pub(crate) struct RenewTurns;

/// A lease to extend.
pub(crate) struct RenewedTurn {
    pub(crate) token: TurnToken,
    pub(crate) extend_for: Duration,
}

impl Batch for RenewTurns {
    type Call = RenewedTurn;
    type Answer = ();
    const LIMITS: Limits = Limits {
        max_calls: 256,
        max_bytes: usize::MAX,
        max_in_flight: 2,
        beside_calls: usize::MAX,
    };
    const LEASED: bool = true;

    fn bytes(_: &RenewedTurn) -> usize {
        0
    }

    async fn send(store: Arc<Store>, entries: Vec<Entry<Self>>) {
        settle(store, entries).await;
    }
}

impl Coded for RenewTurns {
    const FUNCTION: &'static str = "sf_renew_orchestration_item_lock";

    fn params(_: &Store, calls: &[&RenewedTurn], terms: &Terms) -> Params {
        Params::new()
            .flag(terms.wait)
            .bigs(calls.iter().map(|c| c.token.instance_key).collect())
            .bigs(calls.iter().map(|c| c.token.claim).collect())
            .bigs(calls.iter().map(|c| millis(c.extend_for)).collect())
    }

    fn give_up(store: &Store, call: &RenewedTurn) -> Instant {
        store.give_up_with_lease(call.token.lease)
    }

    fn give_attempt_back(store: Arc<Store>, call: &RenewedTurn) -> BoxFuture<'static, ()> {
        let token = call.token;
        Box::pin(async move { store.return_turn(token).await })
    }

    fn committed(_: &Arc<Store>, _: &[&RenewedTurn]) -> Made {
        Made::default()
    }
}
