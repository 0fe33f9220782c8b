//! Commits orchestration turns: histories, activities, messages, key-values and statuses, many turns at once.
//!
//! Invariant: a turn is applied wholly or not at all, once, and only under its lease.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use uuid::Uuid;

use crate::batch::Limits;
use crate::item::{index_key, pack_version, signed};
use crate::postgres::error::StoreError;
use crate::postgres::exchange::{Exchange, Targets, exchange};
use crate::postgres::feed::feed_kinds;
use crate::postgres::fetch_lane::Mark;
use crate::postgres::lane::{Batch, Coded, Entry, Hand, Made, Terms};
use crate::postgres::listen::Queue;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};
use crate::refusal::Refusal;
use crate::refused::{self, Failure};
use crate::turn::EncodedTurn;

/// Acks of turns.
pub(crate) struct AckTurns;

impl Batch for AckTurns {
    type Call = EncodedTurn;
    type Answer = ();
    const LIMITS: Limits = Limits {
        max_calls: 128,
        max_bytes: 8 << 20,
        max_in_flight: 2,
        beside_calls: 2,
    };
    const LEASED: bool = true;

    fn bytes(call: &EncodedTurn) -> usize {
        call.bytes
    }

    async fn send(store: Arc<Store>, entries: Vec<Entry<Self>>) {
        exchange(store, entries).await;
    }
}

impl Coded for AckTurns {
    const FUNCTION: &'static str = "sf_ack_orchestration_item";

    fn params(store: &Store, calls: &[&EncodedTurn], terms: &Terms) -> Params {
        let params = Params::new()
            .uuid(terms.batch_id)
            .big(terms.retain_ms)
            .flag(terms.sweep)
            .flag(terms.wait)
            .big(store.cache().owner());
        let params = turn_params(params, calls);
        let params = event_params(params, calls);
        let params = activity_params(params, calls);
        let params = message_params(store, params, calls);
        let params = cancel_params(params, calls);
        let params = kv_params(params, calls);
        let params = params
            .smalls(feed_kinds(store, calls.iter().flat_map(|c| &c.events)))
            .flag(terms.tell);
        hand_params(params, terms.hand.as_ref())
    }

    fn give_up(store: &Store, call: &EncodedTurn) -> Instant {
        store.give_up_with_lease(call.token.lease)
    }

    fn give_attempt_back(store: Arc<Store>, call: &EncodedTurn) -> BoxFuture<'static, ()> {
        let token = call.token;
        Box::pin(async move { store.return_turn(token).await })
    }

    fn committed(store: &Arc<Store>, calls: &[&EncodedTurn]) -> Made {
        let mut messaged: HashSet<&str> = HashSet::new();
        let (mut work, mut due) = (0, None::<i64>);
        {
            let mut cache = store.cache();
            for call in calls {
                let bytes = call.event_rows.iter().map(|e| e.2.len()).sum();
                cache.append(call.token.instance_key, call.execution_id, &call.events, bytes);
                work += call.activities.len();
                for message in &call.messages {
                    match message.due_ms {
                        None => drop(messaged.insert(&message.instance)),
                        Some(at) => due = Some(due.map_or(at, |d| d.min(at))),
                    }
                }
            }
        }
        store.feed_written(calls.iter().flat_map(|c| &c.events));
        if let Some(at) = due {
            store.turns_due_in(until_epoch_ms(store.pipe.faults().skewed_ms(at)));
        }
        Made {
            turns: messaged.len(),
            work,
            released: true,
            told: false,
        }
    }
}

impl Exchange for AckTurns {
    const FILLS: Queue = Queue::Work;

    fn both(queue: Queue, direct: bool) -> &'static str {
        match queue {
            Queue::Work if direct => "sf_ack_orchestration_item+sf_handed_work",
            Queue::Turns => "sf_ack_orchestration_item+sf_fetch_orchestration_item",
            Queue::Work => "sf_ack_orchestration_item+sf_fetch_work_item",
        }
    }

    fn mark(call: &EncodedTurn) -> Option<Mark> {
        Some((call.token.instance_key, call.token.claim))
    }

    fn fills(call: &EncodedTurn) -> bool {
        !call.activities.is_empty()
    }

    fn targets(calls: &[&EncodedTurn]) -> Option<Targets> {
        // Who takes an activity of a session must take the session, which is more than to claim a row.
        let plain = calls.iter().flat_map(|c| &c.activities).all(|a| a.session.is_none());
        plain.then(|| Targets::Work(calls.iter().map(|c| c.token.instance_key).collect()))
    }
}

/// Adds to the failure of a refused turn what the runtime no longer knows; leaves any other turn as it is.
pub(crate) async fn complete(store: &Arc<Store>, token: &str, failure: Failure<'_>) -> Result<(), StoreError> {
    match store.refused.find(token, failure.events) {
        None => {}
        Some(Some(began)) => failure.complete(began, true),
        Some(None) => {
            let instance = failure
                .events
                .first()
                .map(|e| e.instance_id.clone())
                .unwrap_or_default();
            let execution_id = signed("execution id", failure.execution_id)?;
            let history = super::read::read_execution(store, &instance, Some(execution_id)).await?;
            if let Some(began) = refused::beginning(&history) {
                failure.complete(began, false);
            }
        }
    }
    Ok(())
}

/// Acknowledges a turn. An ack that trouble has brought to nothing spends its token.
pub(crate) async fn ack(store: &Arc<Store>, turn: EncodedTurn) -> Result<(), StoreError> {
    let token = turn.token;
    if store.spent.contains(token) {
        return Err(Refusal::LeaseEnded.into());
    }
    let answer = store.ack_turns.submit(turn).await;
    if answer.as_ref().is_err_and(StoreError::may_pass) {
        store.spent.note(token);
        let back = Arc::clone(store);
        store.tasks.spawn(async move { back.return_turn(token).await });
    }
    answer
}

/// How long until an epoch time by this machine's clock. Only a hint: the database's clock decides, and tells the
/// exact delay with the next look.
pub(crate) fn until_epoch_ms(at_ms: i64) -> Duration {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    Duration::from_millis(u64::try_from(i128::from(at_ms) - now as i128).unwrap_or(0))
}

fn op_of(n: usize) -> i32 {
    // Operations of a batch are numbered from 1, as SQL arrays are; a batch holds 128 at most.
    i32::try_from(n + 1).unwrap_or(i32::MAX)
}

/// Pairs the rows of every turn with the turn's number.
fn numbered<'a, T>(calls: &'a [&EncodedTurn], rows: impl Fn(&'a EncodedTurn) -> &'a [T]) -> Vec<(i32, &'a T)> {
    calls
        .iter()
        .enumerate()
        .flat_map(|(n, c)| rows(c).iter().map(move |row| (op_of(n), row)))
        .collect()
}

fn turn_params(params: Params, calls: &[&EncodedTurn]) -> Params {
    let bytes = |text: &Option<String>| text.as_ref().map(|t| t.as_bytes().to_vec());
    params
        .bigs(calls.iter().map(|c| c.token.instance_key).collect())
        .bigs(calls.iter().map(|c| c.token.claim).collect())
        .bigs(calls.iter().map(|c| c.token.upto).collect())
        .bigs(calls.iter().map(|c| c.execution_id).collect())
        .byteas_opt(calls.iter().map(|c| bytes(&c.metadata.orchestration_name)).collect())
        .byteas_opt(calls.iter().map(|c| bytes(&c.metadata.orchestration_version)).collect())
        .texts_opt(calls.iter().map(|c| c.metadata.parent_instance_id.clone()).collect())
        .texts_opt(calls.iter().map(|c| c.metadata.status.clone()).collect())
        .byteas_opt(calls.iter().map(|c| bytes(&c.metadata.output)).collect())
        .bigs_opt(
            calls
                .iter()
                .map(|c| c.metadata.pinned_duroxide_version.as_ref().map(pack_version))
                .collect(),
        )
        .smalls(calls.iter().map(|c| i16::from(c.custom_status.is_some())).collect())
        .byteas_opt(calls.iter().map(|c| c.custom_status.as_ref().and_then(bytes)).collect())
        .flags(calls.iter().map(|c| c.kv_clear).collect())
}

fn event_params(params: Params, calls: &[&EncodedTurn]) -> Params {
    let rows = numbered(calls, |c| &c.event_rows);
    params
        .ints(rows.iter().map(|r| r.0).collect())
        .bigs(rows.iter().map(|r| r.1.0).collect())
        .smalls(rows.iter().map(|r| r.1.1).collect())
        .byteas(rows.iter().map(|r| r.1.2.clone()).collect())
}

fn activity_params(params: Params, calls: &[&EncodedTurn]) -> Params {
    let rows = numbered(calls, |c| &c.activities);
    params
        .ints(rows.iter().map(|r| r.0).collect())
        .texts_opt(rows.iter().map(|r| foreign(calls, r.0, &r.1.instance)).collect())
        .bigs(rows.iter().map(|r| r.1.execution_id).collect())
        .bigs(rows.iter().map(|r| r.1.activity_id).collect())
        .byteas(rows.iter().map(|r| r.1.tag.clone()).collect())
        .byteas_opt(rows.iter().map(|r| r.1.session.clone()).collect())
        .byteas(rows.iter().map(|r| r.1.payload.clone()).collect())
}

/// The instance of a row when it is not the turn's own. The turn's own id is that of its events.
fn foreign(calls: &[&EncodedTurn], op: i32, instance: &str) -> Option<String> {
    let call = usize::try_from(op - 1).ok().and_then(|n| calls.get(n))?;
    let own = call.events.first().is_some_and(|e| e.instance_id == instance);
    (!own).then(|| instance.to_owned())
}

fn message_params(store: &Store, params: Params, calls: &[&EncodedTurn]) -> Params {
    let rows = numbered(calls, |c| &c.messages);
    let faults = store.pipe.faults();
    params
        .texts(rows.iter().map(|r| r.1.instance.clone()).collect())
        .ints(rows.iter().map(|r| r.0).collect())
        .bigs_opt(rows.iter().map(|r| r.1.due_ms.map(|at| faults.skewed_ms(at))).collect())
        .smalls(rows.iter().map(|r| r.1.kind as i16).collect())
        .byteas(rows.iter().map(|r| r.1.payload.clone()).collect())
}

fn cancel_params(params: Params, calls: &[&EncodedTurn]) -> Params {
    let rows = numbered(calls, |c| &c.cancelled);
    params
        .ints(rows.iter().map(|r| r.0).collect())
        .texts_opt(rows.iter().map(|r| foreign(calls, r.0, &r.1.0)).collect())
        .bigs(rows.iter().map(|r| r.1.1).collect())
        .bigs(rows.iter().map(|r| r.1.2).collect())
}

fn kv_params(params: Params, calls: &[&EncodedTurn]) -> Params {
    let rows = numbered(calls, |c| &c.kv);
    params
        .ints(rows.iter().map(|r| r.0).collect())
        .byteas(rows.iter().map(|r| index_key(r.1.key.as_bytes())).collect())
        .byteas(rows.iter().map(|r| r.1.key.as_bytes().to_vec()).collect())
        .byteas_opt(
            rows.iter()
                .map(|r| r.1.value.as_ref().map(|v| v.as_bytes().to_vec()))
                .collect(),
        )
        .bigs_opt(rows.iter().map(|r| r.1.at_ms).collect())
}

fn hand_params(params: Params, hand: Option<&Hand>) -> Params {
    params
        .uuid(hand.map_or_else(Uuid::nil, |h| h.batch_id))
        .big_opt(hand.map(|h| h.claim))
        .int(hand.map_or(0, |h| h.limit))
        .big(hand.map_or(0, |h| h.lease_ms))
        .maybe_byteas(hand.and_then(|h| h.tags.clone()))
}

/// Codes of a mutating function that was called alone.
pub(crate) fn single_code(rows: &[tokio_postgres::Row], name: &str) -> Result<Vec<i64>, StoreError> {
    let row = rows.first().ok_or_else(|| StoreError::Decode("no row".to_owned()))?;
    column(row, name)
}
