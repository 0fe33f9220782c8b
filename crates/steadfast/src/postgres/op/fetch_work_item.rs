//! Claims due activities for waiting workers, across tags and sessions.
//!
//! Invariants: a session's activities go to the worker that holds the session; an activity that cannot be decoded goes
//! to the quarantine, and its orchestration is told that it failed.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use duroxide::ErrorDetails;
use duroxide::providers::WorkItem;
use tokio_postgres::Row;
use uuid::Uuid;

use super::abandon_work_item::AbandonedWork;
use crate::group::{WorkGroup, millis};
use crate::item::{MessageKind, index_key, to_payload};
use crate::postgres::error::StoreError;
use crate::postgres::exchange::Targets;
use crate::postgres::fetch_lane::{ClaimTerms, Claimed, Claimer, Mark};
use crate::postgres::lane::Hand;
use crate::postgres::listen::Queue;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};
use crate::token::WorkToken;

/// A claimed activity.
pub(crate) struct ClaimedWork {
    pub(crate) item: WorkItem,
    pub(crate) token: WorkToken,
    pub(crate) attempt_count: u32,
    /// This process held the whole history of the instance at the claim.
    pub(crate) history_held: bool,
}

/// Claims for waiting workers; a seat is its session owner.
pub(crate) struct WorkClaimer(pub(crate) Weak<Store>);

impl Claimer for WorkClaimer {
    type Group = WorkGroup;
    type Seat = String;
    type Item = ClaimedWork;
    const QUEUE: Queue = Queue::Work;

    const FUNCTION: &'static str = "sf_fetch_work_item";
    const LIMIT_AT: usize = 3;

    const DIRECT_FUNCTION: &'static str = "sf_handed_work";
    const DIRECT_LIMIT_AT: usize = 1;

    fn direct_params(store: &Store, _: &WorkGroup, limit: usize, terms: &ClaimTerms, targets: &Targets) -> Params {
        let keys = match targets {
            Targets::Work(keys) => keys.clone(),
            Targets::Turns(_) => Vec::new(),
        };
        Params::new()
            .big(terms.claim)
            .int(i32::try_from(limit).unwrap_or(i32::MAX))
            .bigs(keys)
            .big(store.cache().owner())
    }

    fn hand(group: &WorkGroup, limit: usize, terms: &ClaimTerms) -> Option<Hand> {
        Some(Hand {
            batch_id: terms.batch_id,
            claim: terms.claim,
            limit: i32::try_from(limit).unwrap_or(i32::MAX),
            lease_ms: group.lease_ms,
            tags: group.tags.clone(),
        })
    }

    fn mark(work: &ClaimedWork) -> Mark {
        (work.token.work_id, work.token.claim)
    }

    fn keeps_for(store: &Store, group: &WorkGroup, owner: &String) -> bool {
        group.session_lease_ms.is_some() && store.sessions.may_hold(owner)
    }

    fn store(&self) -> Option<Arc<Store>> {
        self.0.upgrade()
    }

    fn lease(group: &WorkGroup) -> Duration {
        Duration::from_millis(group.lease_ms.unsigned_abs())
    }

    fn params(store: &Store, group: &WorkGroup, seats: &[String], terms: &ClaimTerms, retry: bool) -> Params {
        let (since_us, known) = store.work_floors.terms(group, terms);
        params(group, seats, terms, retry)
            .big(store.cache().owner())
            .big_opt(since_us)
            .maybe_byteas(known)
            .big(store.payload_limit().handed_out())
    }

    async fn decode(
        store: &Arc<Store>,
        group: &WorkGroup,
        seats: &[String],
        terms: &ClaimTerms,
        rows: Vec<Row>,
    ) -> Result<Claimed<ClaimedWork>, StoreError> {
        decode(store, group, seats, terms, &rows).await
    }

    async fn give_back(&self, items: Vec<ClaimedWork>) {
        let Some(store) = self.0.upgrade() else { return };
        let calls = items.into_iter().map(|work| {
            store.abandon_work.submit(AbandonedWork {
                token: work.token,
                delay: None,
                ignore_attempt: true,
            })
        });
        for result in futures_util::future::join_all(calls).await {
            if let Err(error) = result {
                tracing::debug!(target: "steadfast", %error, "could not give an activity back; its lease will end");
            }
        }
    }
}

fn params(group: &WorkGroup, seats: &[String], terms: &ClaimTerms, retry: bool) -> Params {
    Params::new()
        .uuid(terms.batch_id)
        .flag(retry)
        .big(terms.claim)
        .int(i32::try_from(seats.len()).unwrap_or(i32::MAX))
        .big(group.lease_ms)
        .maybe_byteas(group.tags.clone())
        .maybe_byteas(
            group
                .session_lease_ms
                .map(|_| seats.iter().map(|s| index_key(s.as_bytes())).collect()),
        )
        .big(group.session_lease_ms.unwrap_or(0))
}

async fn decode(
    store: &Arc<Store>,
    group: &WorkGroup,
    seats: &[String],
    terms: &ClaimTerms,
    rows: &[Row],
) -> Result<Claimed<ClaimedWork>, StoreError> {
    let mut claimed = Claimed {
        items: Vec::with_capacity(rows.len()),
        busy: false,
        next_due: None,
    };
    // Seats of one owner are served in order.
    let mut places: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    for (n, owner) in seats.iter().enumerate().rev() {
        places.entry(index_key(owner.as_bytes())).or_default().push(n);
    }
    let mut told = None;
    for row in rows {
        claimed.busy |= column::<Option<bool>>(row, "busy")?.unwrap_or(false);
        let next_due: Option<i64> = column(row, "next_due_ms")?;
        claimed.next_due = next_due
            .map(|ms| Duration::from_millis(ms.max(0).unsigned_abs()))
            .or(claimed.next_due);
        if column::<Option<i64>>(row, "instance_key")?.is_none() {
            told = Some(row);
            continue;
        }
        let work = match decode_work(store, group, terms.claim, row).await {
            Ok(Some(work)) => work,
            Ok(None) => continue,
            // The others are not held up by one; its lease gives it back.
            Err(error) => {
                tracing::error!(target: "steadfast", %error, "a claimed activity could not be handed over");
                continue;
            }
        };
        let owner: Option<Vec<u8>> = column(row, "owner")?;
        let seat = owner
            .as_ref()
            .and_then(|o| places.get_mut(o.as_slice()).and_then(Vec::pop));
        if column::<Option<bool>>(row, "in_session")?.unwrap_or(false)
            && let (Some(n), Some(lease_ms)) = (seat, group.session_lease_ms)
        {
            store
                .sessions
                .took(&seats[n], Duration::from_millis(lease_ms.unsigned_abs()));
        }
        claimed.items.push((seat, work));
    }
    if terms.looks {
        let waiting = claimed.items.len() < seats.len();
        claimed.look_again(store.work_floors.looked(group, terms, told, waiting)?);
    }
    metrics::counter!("steadfast_claimed_items_total", "queue" => Queue::Work.name())
        .increment(claimed.items.len() as u64);
    Ok(claimed)
}

async fn decode_work(
    store: &Arc<Store>,
    group: &WorkGroup,
    claim: i64,
    row: &Row,
) -> Result<Option<ClaimedWork>, StoreError> {
    let token = WorkToken {
        instance_key: column(row, "instance_key")?,
        work_id: column(row, "work_id")?,
        claim,
        lease: Duration::from_millis(group.lease_ms.unsigned_abs()),
    };
    let attempt_count: i32 = column(row, "attempt_count")?;
    let payload: &[u8] = column(row, "payload")?;
    // Empty where it is too large, even while a server of yesterday hands out more.
    if payload.is_empty() || !store.payload_limit().hands_out(payload, store.history_limit()) {
        return quarantine(store, &token, row, store.payload_limit().too_large()).await;
    }
    match serde_json::from_slice::<WorkItem>(payload) {
        // The runtime panics on anything else in this queue.
        Ok(item @ WorkItem::ActivityExecute { .. }) => Ok(Some(ClaimedWork {
            item,
            token,
            attempt_count: u32::try_from(attempt_count).unwrap_or(u32::MAX),
            history_held: column(row, "cached")?,
        })),
        Ok(_) => quarantine(store, &token, row, "not an activity".to_owned()).await,
        Err(error) => quarantine(store, &token, row, error.to_string()).await,
    }
}

async fn quarantine(
    store: &Arc<Store>,
    token: &WorkToken,
    row: &Row,
    error: String,
) -> Result<Option<ClaimedWork>, StoreError> {
    let instance: String = column(row, "instance_id")?;
    let (execution_id, id): (i64, i64) = (column(row, "execution_id")?, column(row, "activity_id")?);
    tracing::error!(target: "steadfast", instance, activity_id = id, error,
        "an activity that cannot be decoded goes to the quarantine");
    metrics::counter!("steadfast_quarantined_total", "queue" => Queue::Work.name()).increment(1);
    let failed = WorkItem::ActivityFailed {
        instance,
        execution_id: execution_id.unsigned_abs(),
        id: id.unsigned_abs(),
        details: ErrorDetails::Infrastructure {
            operation: "fetch_work_item".to_owned(),
            message: format!("the stored work item cannot be decoded: {error}"),
            retryable: false,
        },
    };
    let params = Params::new()
        .uuid(Uuid::new_v4())
        .big(millis(store.pipe.settings().retry_timeout) * 3)
        .big(token.instance_key)
        .big(token.work_id)
        .big(token.claim)
        .text(error)
        .small(MessageKind::ActivityFailed as i16)
        .bytes(to_payload(&failed)?);
    store.pipe.call("sf_quarantine_work_item", &params).await?;
    store.turns_available(1, false);
    Ok(None)
}
