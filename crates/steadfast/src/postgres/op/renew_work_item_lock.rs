//! Extends leases of activities, from now.
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
use crate::token::WorkToken;

/// Renewals of leases on activities.
pub(crate) struct RenewWork;

/// A lease to extend.
pub(crate) struct RenewedWork {
    pub(crate) token: WorkToken,
    pub(crate) extend_for: Duration,
}

impl Batch for RenewWork {
    type Call = RenewedWork;
    type Answer = ();
    const LIMITS: Limits = Limits {
        max_calls: 256,
        max_bytes: usize::MAX,
        max_in_flight: 2,
        beside_calls: usize::MAX,
    };
    const LEASED: bool = true;

    fn bytes(_: &RenewedWork) -> usize {
        0
    }

    async fn send(store: Arc<Store>, entries: Vec<Entry<Self>>) {
        settle(store, entries).await;
    }
}

impl Coded for RenewWork {
    const FUNCTION: &'static str = "sf_renew_work_item_lock";

    fn params(_: &Store, calls: &[&RenewedWork], terms: &Terms) -> Params {
        Params::new()
            .flag(terms.wait)
            .bigs(calls.iter().map(|c| c.token.instance_key).collect())
            .bigs(calls.iter().map(|c| c.token.work_id).collect())
            .bigs(calls.iter().map(|c| c.token.claim).collect())
            .bigs(calls.iter().map(|c| millis(c.extend_for)).collect())
    }

    fn give_up(store: &Store, call: &RenewedWork) -> Instant {
        store.give_up_with_lease(call.token.lease)
    }

    fn give_attempt_back(store: Arc<Store>, call: &RenewedWork) -> BoxFuture<'static, ()> {
        let token = call.token;
        Box::pin(async move { store.return_work(token).await })
    }

    fn committed(_: &Arc<Store>, _: &[&RenewedWork]) -> Made {
        Made::default()
    }
}
