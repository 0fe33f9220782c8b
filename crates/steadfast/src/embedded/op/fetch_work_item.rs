//! Hands claimed activities to their workers: decodes what the writer took, on the caller's own time.
//!
//! Invariant: an activity that cannot be decoded goes to the quarantine, and its orchestration is told that it failed.

use std::time::Duration;

use duroxide::providers::WorkItem;

use super::quarantine::QuarantinedWork;
use crate::embedded::claim::work::RawWork;
use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::token::WorkToken;

/// A claimed activity.
pub(crate) struct ClaimedWork {
    pub(crate) item: WorkItem,
    pub(crate) token: WorkToken,
    pub(crate) attempt_count: u32,
}

/// Decodes a claim; `None` when it was set aside.
pub(crate) async fn decode(
    store: &Store,
    raw: RawWork,
    owner: &str,
    session_lease_ms: Option<i64>,
) -> Result<Option<ClaimedWork>, StoreError> {
    if let (true, Some(lease_ms)) = (raw.in_session, session_lease_ms) {
        store
            .sessions
            .took(owner, Duration::from_millis(lease_ms.unsigned_abs()));
    }
    let error = match serde_json::from_slice::<WorkItem>(&raw.payload) {
        Err(_) if raw.payload.is_empty() => store.payload_limit().too_large(),
        // The runtime panics on anything else in this queue.
        Ok(item @ WorkItem::ActivityExecute { .. }) => {
            return Ok(Some(ClaimedWork {
                item,
                token: raw.token,
                attempt_count: raw.attempt_count,
            }));
        }
        Ok(_) => "not an activity".to_owned(),
        Err(error) => error.to_string(),
    };
    metrics::counter!("steadfast_quarantined_total", "queue" => "worker").increment(1);
    store
        .submit(QuarantinedWork {
            token: raw.token,
            error,
        })
        .await?;
    Ok(None)
}
