//! Claims instances with due messages for waiting dispatchers, with what their caches lack of the histories.
//!
//! Invariants: an item is handed over with its attempt recorded; a history that cannot be decoded travels as
//! `history_error`; a message that cannot be decoded goes to the quarantine and stops nobody; queue events for which there
//! is no room (`mailbox.rs`) are held back before the rest is handed over.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use duroxide::providers::{KvEntry, OrchestrationItem, WorkItem};
use duroxide::{Event, EventKind};
use tokio_postgres::Row;
use uuid::Uuid;

use super::abandon_orchestration_item::AbandonedTurn;
use crate::group::{TurnGroup, millis};
use crate::item::{ItemError, decode_history, in_short, stand_in};
use crate::mailbox;
use crate::postgres::error::StoreError;
use crate::postgres::exchange::Targets;
use crate::postgres::fetch_lane::{ClaimTerms, Claimed, Claimer, Mark};
use crate::postgres::lane::Hand;
use crate::postgres::listen::Queue;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};
use crate::token::TurnToken;

/// Most messages and bytes that one turn is handed; the rest waits for the next.
const MAX_MESSAGES: i32 = 1000;
const MAX_BYTES: i64 = 4 << 20;

/// A claimed instance.
pub(crate) struct ClaimedTurn {
    pub(crate) item: OrchestrationItem,
    pub(crate) token: TurnToken,
    pub(crate) attempt_count: u32,
}

/// Claims for waiting dispatchers.
pub(crate) struct TurnClaimer(pub(crate) Weak<Store>);

impl Claimer for TurnClaimer {
    type Group = TurnGroup;
    type Seat = ();
    type Item = ClaimedTurn;
    const QUEUE: Queue = Queue::Turns;

    const FUNCTION: &'static str = "sf_fetch_orchestration_item";
    const LIMIT_AT: usize = 3;

    const DIRECT_FUNCTION: &'static str = "sf_claim_instances";
    const DIRECT_LIMIT_AT: usize = 3;

    fn direct_params(store: &Store, group: &TurnGroup, limit: usize, terms: &ClaimTerms, targets: &Targets) -> Params {
        let instances = match targets {
            Targets::Turns(instances) => instances.clone(),
            Targets::Work(_) => Vec::new(),
        };
        params(store, group, limit, terms, false).texts(instances)
    }

    fn hand(_: &TurnGroup, _: usize, _: &ClaimTerms) -> Option<Hand> {
        None
    }

    fn mark(turn: &ClaimedTurn) -> Mark {
        (turn.token.instance_key, turn.token.claim)
    }

    fn keeps_for(_: &Store, _: &TurnGroup, (): &()) -> bool {
        false
    }

    fn store(&self) -> Option<Arc<Store>> {
        self.0.upgrade()
    }

    fn lease(group: &TurnGroup) -> Duration {
        Duration::from_millis(group.lease_ms.unsigned_abs())
    }

    fn params(store: &Store, group: &TurnGroup, seats: &[()], terms: &ClaimTerms, retry: bool) -> Params {
        let (since_us, known) = store.turn_floors.terms(group, terms);
        params(store, group, seats.len(), terms, retry)
            .big_opt(since_us)
            .maybe_bigs(known)
    }

    async fn decode(
        store: &Arc<Store>,
        group: &TurnGroup,
        seats: &[()],
        terms: &ClaimTerms,
        rows: Vec<Row>,
    ) -> Result<Claimed<ClaimedTurn>, StoreError> {
        decode(store, group, seats.len(), terms, rows).await
    }

    async fn give_back(&self, items: Vec<ClaimedTurn>) {
        let Some(store) = self.0.upgrade() else { return };
        let calls = items.into_iter().map(|turn| {
            store.abandon_turns.submit(AbandonedTurn {
                token: turn.token,
                delay: None,
                ignore_attempt: true,
            })
        });
        for result in futures_util::future::join_all(calls).await {
            if let Err(error) = result {
                tracing::debug!(target: "steadfast", %error, "could not give an instance back; its lease will end");
            }
        }
    }
}

fn params(store: &Store, group: &TurnGroup, limit: usize, terms: &ClaimTerms, retry: bool) -> Params {
    let (owner, forgotten) = store.cache().claim_terms();
    Params::new()
        .uuid(terms.batch_id)
        .flag(retry)
        .big(terms.claim)
        .int(i32::try_from(limit).unwrap_or(i32::MAX))
        .big(group.lease_ms)
        .big_opt(group.versions.map(|v| v.0))
        .big_opt(group.versions.map(|v| v.1))
        .big(owner)
        .bigs(forgotten)
        .int(MAX_MESSAGES)
        // Of which four times bound a single message.
        .big(MAX_BYTES.max(store.payload_limit().handed_out() / 4))
}

async fn decode(
    store: &Arc<Store>,
    group: &TurnGroup,
    seats: usize,
    terms: &ClaimTerms,
    rows: Vec<Row>,
) -> Result<Claimed<ClaimedTurn>, StoreError> {
    let mut claimed = Claimed {
        items: Vec::with_capacity(rows.len()),
        busy: false,
        next_due: None,
    };
    let mut told = None;
    for row in &rows {
        claimed.busy |= column::<Option<bool>>(row, "busy")?.unwrap_or(false);
        let next_due: Option<i64> = column(row, "next_due_ms")?;
        claimed.next_due = next_due
            .map(|ms| Duration::from_millis(ms.max(0).unsigned_abs()))
            .or(claimed.next_due);
        let dropped: Option<i64> = column(row, "dropped")?;
        if dropped.is_some_and(|n| n > 0) {
            tracing::warn!(target: "steadfast", dropped, "dropped queue messages of orchestrations that nobody started");
        }
        if column::<Option<i64>>(row, "instance_key")?.is_none() {
            told = Some(row);
            continue;
        }
        match decode_turn(store, group, terms.claim, row).await {
            Ok(Some(turn)) => claimed.items.push((None, turn)),
            // Its lease ended with what it held; more may wait for the instance.
            Ok(None) => claimed.busy = true,
            Err(error) => {
                tracing::error!(target: "steadfast", %error, "a claimed instance could not be handed over");
                give_back_row(store, group, terms.claim, row)?;
            }
        }
    }
    if terms.looks {
        let waiting = claimed.items.len() < seats;
        claimed.look_again(store.turn_floors.looked(group, terms, told, waiting)?);
    }
    metrics::counter!("steadfast_claimed_items_total", "queue" => Queue::Turns.name())
        .increment(claimed.items.len() as u64);
    Ok(claimed)
}

/// Gives one instance of a claim back, in the background: the others are not held up by it.
fn give_back_row(store: &Arc<Store>, group: &TurnGroup, claim: i64, row: &Row) -> Result<(), StoreError> {
    let message_ids: Vec<i64> = column(row, "message_ids")?;
    let token = token_of(group, claim, column(row, "instance_key")?, &message_ids);
    let store = Arc::clone(store);
    let tasks = store.tasks.clone();
    tasks.spawn(async move {
        // Not at once: what failed in passing may need a moment.
        let call = AbandonedTurn {
            token,
            delay: Some(Duration::from_millis(200)),
            ignore_attempt: true,
        };
        if let Err(error) = store.abandon_turns.submit(call).await {
            tracing::debug!(target: "steadfast", %error, "could not give an instance back; its lease will end");
        }
    });
    Ok(())
}

fn token_of(group: &TurnGroup, claim: i64, instance_key: i64, message_ids: &[i64]) -> TurnToken {
    TurnToken {
        instance_key,
        claim,
        upto: message_ids.last().copied().unwrap_or(0),
        lease: Duration::from_millis(group.lease_ms.unsigned_abs()),
    }
}

/// What a row says of the instance itself.
struct Header {
    instance_key: i64,
    instance: String,
    execution_id: i64,
    revision: i64,
    last_event_id: i64,
}

async fn decode_turn(
    store: &Arc<Store>,
    group: &TurnGroup,
    claim: i64,
    row: &Row,
) -> Result<Option<ClaimedTurn>, StoreError> {
    let header = Header {
        instance_key: column(row, "instance_key")?,
        instance: column(row, "instance_id")?,
        execution_id: column(row, "execution_id")?,
        revision: column(row, "history_revision")?,
        last_event_id: column::<Option<i64>>(row, "last_event_id")?.unwrap_or(0),
    };
    let mut attempt_count: i32 = column(row, "attempt_count")?;
    let message_ids: Vec<i64> = column(row, "message_ids")?;
    let payloads: Vec<Option<&[u8]>> = column(row, "messages")?;
    let token = token_of(group, claim, header.instance_key, &message_ids);
    let limit = store.payload_limit();
    let (small, large): (Vec<_>, Vec<_>) = message_ids.iter().zip(payloads).partition(|(_, payload)| {
        payload
            .as_ref()
            .is_some_and(|p| limit.hands_out(p, store.history_limit()))
    });
    let mut messages = decode_messages(store, &header, claim, &small).await?;
    if let Some((id, _)) = large.first() {
        let unnamed = column::<Option<Vec<u8>>>(row, "orchestration_name")?.is_none();
        let start = if unnamed {
            super::pending_instances::get(store, &header.instance).await?
        } else {
            None
        };
        messages.push((
            **id,
            stand_in(&header.instance, start.map(|s| s.summary.orchestration_name)),
        ));
    }
    if messages.is_empty() {
        return Ok(None);
    }
    let history = match history(store, &header, row).await {
        _ if !large.is_empty() => {
            let why = format!("a message cannot be handed out: {}", limit.too_large());
            withheld(store, &header, why, &mut attempt_count).await?
        }
        Ok(events) => Ok(events),
        Err(StoreError::Item(error @ ItemError::HistoryTooLarge { .. })) => {
            withheld(store, &header, error.to_string(), &mut attempt_count).await?
        }
        // Trouble that passes is no fault of the history's.
        Err(error) if error.may_pass() => return Err(error),
        Err(error) => Err(error.to_string()),
    };
    if let Ok(events) = &history {
        messages = hold_back(store, &header, claim, events, messages).await?;
        if messages.is_empty() {
            return Ok(None);
        }
    }
    let messages: Vec<WorkItem> = messages.into_iter().map(|m| m.1).collect();
    let name: Option<Vec<u8>> = column(row, "orchestration_name")?;
    let version: Option<Vec<u8>> = column(row, "orchestration_version")?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let events: &[Event] = history.as_deref().unwrap_or_default();
    let (name, version) = match name {
        Some(name) => (text(name), version.map(text)),
        None => name_from(events, &messages),
    };
    let (history, history_error, kv_snapshot) = match history {
        Ok(events) => (events, None, kv_snapshot(row)?),
        Err(error) => (Vec::new(), Some(error), HashMap::new()),
    };
    Ok(Some(ClaimedTurn {
        item: OrchestrationItem {
            instance: header.instance,
            orchestration_name: name,
            execution_id: header.execution_id.unsigned_abs(),
            version: version.unwrap_or_else(|| "unknown".to_owned()),
            history,
            messages,
            history_error,
            kv_snapshot,
        },
        token,
        attempt_count: u32::try_from(attempt_count).unwrap_or(u32::MAX),
    }))
}

/// What is handed out instead of a history when something is too large: why, unless the instance has ended. Then whatever is
/// still sent to it is to be acknowledged, not to fail it once more.
async fn withheld(
    store: &Arc<Store>,
    header: &Header,
    why: String,
    attempt_count: &mut i32,
) -> Result<Result<Vec<Event>, String>, StoreError> {
    let detail = super::instance_detail::get(store, &header.instance).await?;
    let ended = detail.and_then(|d| in_short(&d.summary));
    if ended.is_some() {
        // Earlier attempts were at what has failed since: they must not fail it again.
        *attempt_count = 1;
    }
    Ok(ended.ok_or(why))
}

/// An instance without a row of its own yet is named by its first event or by the message that starts it.
fn name_from(events: &[Event], messages: &[WorkItem]) -> (String, Option<String>) {
    let started = events.iter().find_map(|e| match &e.kind {
        EventKind::OrchestrationStarted { name, version, .. } => Some((name.clone(), Some(version.clone()))),
        _ => None,
    });
    let start = || {
        messages.iter().find_map(|m| match m {
            WorkItem::StartOrchestration {
                orchestration, version, ..
            }
            | WorkItem::ContinueAsNew {
                orchestration, version, ..
            } => Some((orchestration.clone(), version.clone())),
            _ => None,
        })
    };
    started.or_else(start).unwrap_or_default()
}

fn kv_snapshot(row: &Row) -> Result<HashMap<String, KvEntry>, StoreError> {
    let keys: Option<Vec<Vec<u8>>> = column(row, "kv_keys")?;
    let values: Option<Vec<Vec<u8>>> = column(row, "kv_values")?;
    let times: Option<Vec<Option<i64>>> = column(row, "kv_at_ms")?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let pairs = keys
        .unwrap_or_default()
        .into_iter()
        .zip(values.unwrap_or_default())
        .zip(times.unwrap_or_default());
    Ok(pairs
        .map(|((key, value), at_ms)| {
            let last_updated_at_ms = at_ms.unwrap_or(0).max(0).unsigned_abs();
            (
                text(key),
                KvEntry {
                    value: text(value),
                    last_updated_at_ms,
                },
            )
        })
        .collect())
}

/// The instance's history: from the cache when the store says that it is all there, otherwise from the row.
async fn history(store: &Arc<Store>, header: &Header, row: &Row) -> Result<Vec<Event>, StoreError> {
    let cached: bool = column(row, "cached")?;
    if cached {
        let entry = store.cache().get(header.instance_key).filter(|c| {
            c.execution_id == header.execution_id
                && c.revision == header.revision
                && c.last_event_id() == header.last_event_id
        });
        if let Some(entry) = entry {
            store.history_limit().check(entry.payload_bytes())?;
            metrics::counter!("steadfast_history_cache_total", "outcome" => "hit").increment(1);
            return Ok(Vec::clone(&entry.events));
        }
        // Too large to come along; or the store counted on an entry that is not what it was, because an ack of ours
        // landed without our knowing.
        metrics::counter!("steadfast_history_cache_total", "outcome" => "stale").increment(1);
        store.cache().remove(header.instance_key);
        // Asked first, so that nothing is read in vain.
        let bytes = super::history_size::get(store, &header.instance, header.execution_id).await?;
        store.history_limit().check(bytes)?;
        let events = super::read::read_execution(store, &header.instance, Some(header.execution_id)).await?;
        let shared = Arc::new(events);
        store.cache().put_named(
            &header.instance,
            header.instance_key,
            header.execution_id,
            header.revision,
            Arc::clone(&shared),
            bytes,
        );
        // Without a copy where the cache has not kept it.
        return Ok(Arc::unwrap_or_clone(shared));
    }
    metrics::counter!("steadfast_history_cache_total", "outcome" => "miss").increment(1);
    let payloads: Vec<&[u8]> = column::<Option<Vec<&[u8]>>>(row, "events")?.unwrap_or_default();
    let bytes = payloads.iter().map(|p| p.len()).sum();
    store.history_limit().check(bytes)?;
    let events = decode_history(&payloads).map_err(StoreError::Decode)?;
    let shared = Arc::new(events);
    store.cache().put_named(
        &header.instance,
        header.instance_key,
        header.execution_id,
        header.revision,
        Arc::clone(&shared),
        bytes,
    );
    Ok(Arc::unwrap_or_clone(shared))
}

async fn decode_messages(
    store: &Arc<Store>,
    header: &Header,
    claim: i64,
    stored: &[(&i64, Option<&[u8]>)],
) -> Result<Vec<(i64, WorkItem)>, StoreError> {
    let mut messages = Vec::with_capacity(stored.len());
    let (mut bad, mut errors) = (Vec::new(), Vec::new());
    for (id, payload) in stored {
        match serde_json::from_slice(payload.unwrap_or_default()) {
            Ok(item) => messages.push((**id, item)),
            Err(error) => {
                bad.push(**id);
                errors.push(error.to_string());
            }
        }
    }
    if !bad.is_empty() {
        tracing::error!(target: "steadfast", instance = %header.instance, count = bad.len(), error = %errors[0],
            "messages that cannot be decoded go to the quarantine");
        metrics::counter!("steadfast_quarantined_total", "queue" => Queue::Turns.name()).increment(bad.len() as u64);
        let params = Params::new()
            .uuid(Uuid::new_v4())
            .big(millis(store.pipe.settings().retry_timeout) * 3)
            .big(header.instance_key)
            .big(claim)
            .bigs(bad)
            .texts(errors);
        store.pipe.call("sf_quarantine_messages", &params).await?;
    }
    Ok(messages)
}

/// Takes out of the claim what its turn cannot be handed; answers what is left.
async fn hold_back(
    store: &Arc<Store>,
    header: &Header,
    claim: i64,
    history: &[Event],
    messages: Vec<(i64, WorkItem)>,
) -> Result<Vec<(i64, WorkItem)>, StoreError> {
    let (ids, items): (Vec<i64>, Vec<WorkItem>) = messages.into_iter().unzip();
    let kept = mailbox::kept(history, &items);
    let mut left: Vec<Option<(i64, WorkItem)>> = ids.into_iter().zip(items).map(Some).collect();
    let (mut taken, mut queues) = (Vec::with_capacity(kept.len()), Vec::with_capacity(kept.len()));
    for kept in kept {
        if let Some((id, _)) = left.get_mut(kept.at).and_then(Option::take) {
            taken.push(id);
            queues.push(kept.queue);
        }
    }
    if !taken.is_empty() {
        let params = Params::new()
            .uuid(Uuid::new_v4())
            .big(millis(store.pipe.settings().retry_timeout) * 3)
            .big(header.instance_key)
            .big(claim)
            .bigs(taken)
            .byteas_opt(queues);
        store.pipe.call("sf_hold_messages", &params).await?;
    }
    Ok(left.into_iter().flatten().collect())
}
