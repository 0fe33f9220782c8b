//! Extends the sessions that workers of this process hold and use.
//!
//! Invariant: costs no statement while none of these workers can hold a session.

use std::sync::Arc;
use std::time::Duration;

use crate::group::millis;
use crate::item::index_key;
use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};
use crate::trouble::Patience;

/// Renews the active sessions of `owners`; returns how many.
pub(crate) async fn renew(
    store: &Arc<Store>,
    owners: &[&str],
    extend_for: Duration,
    idle_timeout: Duration,
) -> Result<usize, StoreError> {
    let holders = store.sessions.holders(owners);
    if holders.is_empty() {
        return Ok(0);
    }
    let params = Params::new()
        .byteas(holders.iter().map(|o| index_key(o.as_bytes())).collect())
        .big(millis(extend_for))
        .big(millis(idle_timeout));
    let patience = Patience::Until(store.give_up_with_lease(extend_for).into());
    let rows = store
        .pipe
        .call_until("sf_renew_session_lock", &params, patience)
        .await?
        .rows;
    let renewed: i64 = rows.first().map_or(Ok(0), |row| column(row, "sf_renew_session_lock"))?;
    if renewed > 0 {
        for owner in holders {
            store.sessions.took(owner, extend_for);
        }
    }
    Ok(usize::try_from(renewed).unwrap_or(0))
}
