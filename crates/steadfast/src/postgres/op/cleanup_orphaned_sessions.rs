//! Removes sessions that nobody holds and no activity needs.
//!
//! Invariant: costs no statement while this process has had nothing to do with sessions since the last sweep.

use std::sync::Arc;

use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// One sweep removes no more than this.
const MAX_SESSIONS: i32 = 10_000;

/// Sweeps once; returns how many sessions went.
pub(crate) async fn sweep(store: &Arc<Store>) -> Result<usize, StoreError> {
    if !store.sessions.should_sweep() {
        return Ok(0);
    }
    let rows = store
        .pipe
        .call_patiently("sf_cleanup_orphaned_sessions", &Params::new().int(MAX_SESSIONS))
        .await?;
    let swept: i64 = rows
        .first()
        .map_or(Ok(0), |row| column(row, "sf_cleanup_orphaned_sessions"))?;
    Ok(usize::try_from(swept).unwrap_or(0))
}
