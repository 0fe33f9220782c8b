//! Extends leases of activities, from now; their sessions count as active.
//!
//! Invariant: a lease that has ended is not revived.

use std::time::Duration;

use super::abandon_work_item::AbandonedWork;
use super::{Operation, ack_work_item, schedule};
use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::group::millis;
use crate::token::WorkToken;

/// A lease to extend.
pub(crate) struct RenewedWork {
    pub(crate) token: WorkToken,
    pub(crate) extend_for: Duration,
}

impl Operation for RenewedWork {
    const NAME: &'static str = "renew_work_item_lock";
    type Answer = ();

    fn lease(&self) -> Option<Duration> {
        Some(self.token.lease.max(Duration::from_secs(1)))
    }

    fn give_attempt_back(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        AbandonedWork::untouched(self.token).take_back(tx)
    }

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let session = ack_work_item::lease(tx, &self.token)?;
        let lease_ms = millis(self.extend_for);
        tx.execute(
            "UPDATE sf_work SET available_at = ?2, leased_at = ?3, lease_ms = ?4
             WHERE work_id = ?1 AND instance_key = ?5",
            (
                self.token.work_id,
                tx.now.saturating_add(lease_ms),
                tx.now,
                lease_ms,
                self.token.instance_key,
            ),
        )?;
        schedule::touch(tx, session.as_deref())
    }
}
