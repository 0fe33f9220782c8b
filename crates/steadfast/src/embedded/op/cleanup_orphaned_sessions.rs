//! Removes sessions that nobody holds and no activity needs.
//!
//! Invariant: costs nothing while this process has had nothing to do with sessions since the last sweep.

use super::Operation;
use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::embedded::transaction::Tx;

/// One sweep removes no more than this.
const MAX_SESSIONS: i64 = 10_000;

struct Sweep;

impl Operation for Sweep {
    const NAME: &'static str = "cleanup_orphaned_sessions";
    type Answer = usize;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<usize, StoreError> {
        tx.execute(
            "DELETE FROM sf_session WHERE session_key IN (
                 SELECT s.session_key FROM sf_session s WHERE s.locked_until < ?1
                    AND NOT EXISTS (SELECT 1 FROM sf_work w WHERE w.session_key = s.session_key) LIMIT ?2)",
            (tx.now, MAX_SESSIONS),
        )
    }
}

/// Sweeps once; returns how many sessions went.
pub(crate) async fn sweep(store: &Store) -> Result<usize, StoreError> {
    if store.sessions.should_sweep() {
        store.submit(Sweep).await
    } else {
        Ok(0)
    }
}
