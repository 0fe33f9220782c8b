//! Hands claimed instances to their dispatchers: decodes what the writer took, on the caller's own time.
//!
//! Invariants: a history that cannot be decoded travels as `history_error`; a message that cannot be decoded goes to the
//! quarantine and stops nobody; queue events for which there is no room (`mailbox.rs`) are held back before the rest is
//! handed over.

use std::collections::HashMap;
use std::sync::Arc;

use duroxide::providers::{KvEntry, OrchestrationItem, WorkItem};
use duroxide::{Event, EventKind};

use super::hold_messages::HeldMessages;
use super::quarantine::QuarantinedMessages;
use crate::embedded::claim::RawTurn;
use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::item::{decode_history, in_short, stand_in};
use crate::mailbox;
use crate::token::TurnToken;

/// A claimed instance.
pub(crate) struct ClaimedTurn {
    pub(crate) item: OrchestrationItem,
    pub(crate) token: TurnToken,
    pub(crate) attempt_count: u32,
}

/// Decodes a claim; `None` when nothing of it can be handed over.
pub(crate) async fn decode(store: &Store, mut raw: RawTurn) -> Result<Option<ClaimedTurn>, StoreError> {
    let large = raw
        .messages
        .iter()
        .find(|(_, payload)| payload.is_none())
        .map(|(id, _)| *id);
    let mut messages = decode_messages(store, &mut raw).await?;
    if let Some(id) = large {
        let start = match raw.name {
            Some(_) => None,
            None => super::pending_instances::get(store, &raw.instance).await?,
        };
        messages.push((id, stand_in(&raw.instance, start.map(|s| s.summary.orchestration_name))));
    }
    if messages.is_empty() {
        return Ok(None);
    }
    if large.is_some() {
        raw.events = Err(format!(
            "a message cannot be handed out: {}",
            store.payload_limit().too_large()
        ));
    }
    let history = match std::mem::replace(&mut raw.events, Ok(Vec::new())) {
        Ok(events) => history(store, &mut raw, events),
        Err(why) => {
            let history = withheld(store, &raw.instance, why).await?;
            if history.is_ok() {
                // Earlier attempts were at what has failed since: they must not fail it again.
                raw.attempt_count = 1;
            }
            history
        }
    };
    if let Ok(events) = &history {
        messages = hold_back(store, raw.token, events, messages).await?;
        if messages.is_empty() {
            return Ok(None);
        }
    }
    let messages: Vec<WorkItem> = messages.into_iter().map(|m| m.1).collect();
    let events: &[Event] = history.as_deref().unwrap_or_default();
    let (name, version) = match raw.name {
        Some(name) => (name, raw.version),
        None => name_from(events, &messages),
    };
    let (history, history_error, kv_snapshot) = match history {
        Ok(events) => (events, None, kv_snapshot(raw.kv)),
        Err(error) => (Vec::new(), Some(error), HashMap::new()),
    };
    Ok(Some(ClaimedTurn {
        item: OrchestrationItem {
            instance: raw.instance,
            orchestration_name: name,
            execution_id: raw.execution_id.unsigned_abs(),
            version: version.unwrap_or_else(|| "unknown".to_owned()),
            history,
            messages,
            history_error,
            kv_snapshot,
        },
        token: raw.token,
        attempt_count: raw.attempt_count,
    }))
}

fn kv_snapshot(kv: Vec<(String, String, Option<i64>)>) -> HashMap<String, KvEntry> {
    let entry = |(key, value, at_ms): (String, String, Option<i64>)| {
        let last_updated_at_ms = at_ms.unwrap_or(0).max(0).unsigned_abs();
        (
            key,
            KvEntry {
                value,
                last_updated_at_ms,
            },
        )
    };
    kv.into_iter().map(entry).collect()
}

/// An instance without a name yet is named by its first event or by the message that starts it.
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

/// What is handed out instead of a history when something is too large: why, unless the instance has ended. Then whatever is
/// still sent to it is to be acknowledged, not to fail it once more.
async fn withheld(store: &Store, instance: &str, why: String) -> Result<Result<Vec<Event>, String>, StoreError> {
    let detail = super::instance_detail::get(store, instance).await?;
    Ok(detail.and_then(|d| in_short(&d.summary)).ok_or(why))
}

fn history(store: &Store, raw: &mut RawTurn, events: Vec<Vec<u8>>) -> Result<Vec<Event>, String> {
    let fresh = decode_history(&events)?;
    let bytes = events.iter().map(Vec::len).sum();
    // As decoded it is all there once more.
    drop(events);
    let key = raw.token.instance_key;
    match raw.cached.take() {
        Some(cached) => {
            let mut all = Arc::unwrap_or_clone(cached);
            if !fresh.is_empty() {
                store
                    .cache()
                    .extend_seen(key, raw.execution_id, raw.revision, &fresh, bytes);
                all.extend(fresh);
            }
            Ok(all)
        }
        None => {
            let shared = Arc::new(fresh);
            store.cache().put_named(
                &raw.instance,
                key,
                raw.execution_id,
                raw.revision,
                Arc::clone(&shared),
                bytes,
            );
            // Without a copy where the cache has not kept it.
            Ok(Arc::unwrap_or_clone(shared))
        }
    }
}

async fn decode_messages(store: &Store, raw: &mut RawTurn) -> Result<Vec<(i64, WorkItem)>, StoreError> {
    let mut messages = Vec::with_capacity(raw.messages.len());
    let mut bad = Vec::new();
    for (id, payload) in std::mem::take(&mut raw.messages) {
        let Some(payload) = payload else { continue };
        match serde_json::from_slice(&payload) {
            Ok(item) => messages.push((id, item)),
            Err(error) => bad.push((id, error.to_string())),
        }
    }
    if let Some((_, error)) = bad.first() {
        tracing::error!(target: "steadfast", instance = %raw.instance, count = bad.len(), error,
            "messages that cannot be decoded go to the quarantine");
        metrics::counter!("steadfast_quarantined_total", "queue" => "orchestrator").increment(bad.len() as u64);
        let quarantined = QuarantinedMessages {
            token: raw.token,
            instance: raw.instance.clone(),
            messages: bad,
        };
        store.submit(quarantined).await?;
    }
    Ok(messages)
}

/// Takes out of the claim what its turn cannot be handed; answers what is left.
async fn hold_back(
    store: &Store,
    token: TurnToken,
    history: &[Event],
    messages: Vec<(i64, WorkItem)>,
) -> Result<Vec<(i64, WorkItem)>, StoreError> {
    let (ids, items): (Vec<i64>, Vec<WorkItem>) = messages.into_iter().unzip();
    let kept = mailbox::kept(history, &items);
    let mut left: Vec<Option<(i64, WorkItem)>> = ids.into_iter().zip(items).map(Some).collect();
    let mut held = Vec::with_capacity(kept.len());
    for kept in kept {
        if let Some((id, _)) = left.get_mut(kept.at).and_then(Option::take) {
            held.push((id, kept.queue));
        }
    }
    if !held.is_empty() {
        store.submit(HeldMessages { token, messages: held }).await?;
    }
    Ok(left.into_iter().flatten().collect())
}
