//! Removes done activities and delivers their completions, many at once.
//!
//! Invariant: removal and delivery are one commit.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use duroxide::providers::WorkItem;
use futures_util::future::BoxFuture;

use crate::batch::Limits;
use crate::item::{ItemError, Message, MessageKind};
use crate::limit::PayloadLimit;
use crate::postgres::error::StoreError;
use crate::postgres::exchange::{Exchange, Targets, exchange};
use crate::postgres::fetch_lane::Mark;
use crate::postgres::lane::{Batch, Coded, Entry, Made, Terms};
use crate::postgres::listen::Queue;
use crate::postgres::params::Params;
use crate::postgres::store::Store;
use crate::refusal::Refusal;
use crate::token::WorkToken;

/// Acks of activities.
pub(crate) struct AckWork;

/// A done activity.
pub(crate) struct AckedWork {
    token: WorkToken,
    completion: Option<Message>,
}

impl AckedWork {
    pub(crate) fn encode(
        token: WorkToken,
        completion: Option<&WorkItem>,
        limit: PayloadLimit,
    ) -> Result<Self, ItemError> {
        let completion = completion
            .map(|item| Message::encode_completion(item, limit))
            .transpose()?;
        match &completion {
            Some(m) if !matches!(m.kind, MessageKind::ActivityCompleted | MessageKind::ActivityFailed) => {
                Err(ItemError::WrongQueue("an activity's completion that is none"))
            }
            _ => Ok(Self { token, completion }),
        }
    }
}

/// Acknowledges an activity. An ack that trouble has brought to nothing spends its token.
pub(crate) async fn ack(store: &Arc<Store>, work: AckedWork) -> Result<(), StoreError> {
    let token = work.token;
    if store.spent.contains(token) {
        return Err(Refusal::LeaseEnded.into());
    }
    let answer = store.ack_work.submit(work).await;
    if answer.as_ref().is_err_and(StoreError::may_pass) {
        store.spent.note(token);
        let back = Arc::clone(store);
        store.tasks.spawn(async move { back.return_work(token).await });
    }
    answer
}

impl Batch for AckWork {
    type Call = AckedWork;
    type Answer = ();
    const LIMITS: Limits = Limits {
        max_calls: 256,
        max_bytes: 8 << 20,
        max_in_flight: 2,
        beside_calls: 2,
    };
    const LEASED: bool = true;

    fn bytes(call: &AckedWork) -> usize {
        call.completion.as_ref().map_or(0, |m| m.payload.len())
    }

    async fn send(store: Arc<Store>, entries: Vec<Entry<Self>>) {
        exchange(store, entries).await;
    }
}

impl Coded for AckWork {
    const FUNCTION: &'static str = "sf_ack_work_item";

    fn params(_: &Store, calls: &[&AckedWork], terms: &Terms) -> Params {
        let completion = |c: &AckedWork| c.completion.clone();
        Params::new()
            .uuid(terms.batch_id)
            .big(terms.retain_ms)
            .flag(terms.sweep)
            .flag(terms.wait)
            .bigs(calls.iter().map(|c| c.token.instance_key).collect())
            .bigs(calls.iter().map(|c| c.token.work_id).collect())
            .bigs(calls.iter().map(|c| c.token.claim).collect())
            .texts_opt(calls.iter().map(|c| completion(c).map(|m| m.instance)).collect())
            .smalls(
                calls
                    .iter()
                    .map(|c| completion(c).map_or(0, |m| m.kind as i16))
                    .collect(),
            )
            .byteas_opt(calls.iter().map(|c| completion(c).map(|m| m.payload)).collect())
    }

    fn give_up(store: &Store, call: &AckedWork) -> Instant {
        store.give_up_with_lease(call.token.lease)
    }

    fn give_attempt_back(store: Arc<Store>, call: &AckedWork) -> BoxFuture<'static, ()> {
        let token = call.token;
        Box::pin(async move { store.return_work(token).await })
    }

    fn committed(_: &Arc<Store>, calls: &[&AckedWork]) -> Made {
        let messaged: HashSet<&str> = calls
            .iter()
            .filter_map(|c| c.completion.as_ref().map(|m| m.instance.as_str()))
            .collect();
        Made {
            turns: messaged.len(),
            ..Made::default()
        }
    }
}

impl Exchange for AckWork {
    const FILLS: Queue = Queue::Turns;

    fn both(queue: Queue, direct: bool) -> &'static str {
        match queue {
            Queue::Turns if direct => "sf_ack_work_item+sf_claim_instances",
            Queue::Turns => "sf_ack_work_item+sf_fetch_orchestration_item",
            Queue::Work => "sf_ack_work_item+sf_fetch_work_item",
        }
    }

    fn mark(call: &AckedWork) -> Option<Mark> {
        Some((call.token.work_id, call.token.claim))
    }

    fn fills(call: &AckedWork) -> bool {
        call.completion.is_some()
    }

    fn targets(calls: &[&AckedWork]) -> Option<Targets> {
        let instances: BTreeSet<&str> = calls
            .iter()
            .filter_map(|c| c.completion.as_ref().map(|m| m.instance.as_str()))
            .collect();
        Some(Targets::Turns(instances.into_iter().map(str::to_owned).collect()))
    }
}
