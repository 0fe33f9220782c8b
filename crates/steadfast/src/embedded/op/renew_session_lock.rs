//! Extends the sessions that workers of this process hold and use.
//!
//! Invariant: costs nothing while none of these workers can hold a session.

use std::time::Duration;

use super::Operation;
use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::embedded::transaction::Tx;
use crate::group::millis;
use crate::item::index_key;

struct Renewed {
    owners: Vec<Vec<u8>>,
    extend_for: Duration,
    idle_ms: i64,
}

impl Operation for Renewed {
    const NAME: &'static str = "renew_session_lock";
    type Answer = usize;

    fn lease(&self) -> Option<Duration> {
        Some(self.extend_for.max(Duration::from_secs(1)))
    }

    fn apply(&self, tx: &mut Tx<'_>) -> Result<usize, StoreError> {
        let lease_ms = millis(self.extend_for);
        let mut renewed = 0;
        for owner in &self.owners {
            renewed += tx.execute(
                "UPDATE sf_session SET locked_until = ?2, lease_ms = ?3
                 WHERE owner = ?1 AND locked_until > ?4 AND last_activity_at > ?5",
                (
                    owner,
                    tx.now.saturating_add(lease_ms),
                    lease_ms,
                    tx.now,
                    tx.now.saturating_sub(self.idle_ms),
                ),
            )?;
        }
        Ok(renewed)
    }
}

/// Renews the active sessions of `owners`; returns how many.
pub(crate) async fn renew(
    store: &Store,
    owners: &[&str],
    extend_for: Duration,
    idle_timeout: Duration,
) -> Result<usize, StoreError> {
    let holders = store.sessions.holders(owners);
    if holders.is_empty() {
        return Ok(0);
    }
    let renewed = store
        .submit(Renewed {
            owners: holders.iter().map(|o| index_key(o.as_bytes())).collect(),
            extend_for,
            idle_ms: millis(idle_timeout),
        })
        .await?;
    if renewed > 0 {
        for owner in holders {
            store.sessions.took(owner, extend_for);
        }
    }
    Ok(renewed)
}
