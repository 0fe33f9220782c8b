//! Extends leases of instances, from now.
//!
//! Invariant: a lease that has ended is not revived.

use std::time::Duration;

use super::abandon_orchestration_item::AbandonedTurn;
use super::{Operation, ack_orchestration_item};
use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::group::millis;
use crate::token::TurnToken;

/// A lease to extend.
pub(crate) struct RenewedTurn {
    pub(crate) token: TurnToken,
    pub(crate) extend_for: Duration,
}

impl Operation for RenewedTurn {
    const NAME: &'static str = "renew_orchestration_item_lock";
    type Answer = ();

    fn lease(&self) -> Option<Duration> {
        Some(self.token.lease.max(Duration::from_secs(1)))
    }

    fn give_attempt_back(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        AbandonedTurn::untouched(self.token).take_back(tx)
    }

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        ack_orchestration_item::lease(tx, self.token.instance_key, self.token.claim)?;
        let lease_ms = millis(self.extend_for);
        tx.execute(
            "UPDATE sf_turn SET available_at = ?2, leased_at = ?3, lease_ms = ?4 WHERE instance_key = ?1",
            (
                self.token.instance_key,
                tx.now.saturating_add(lease_ms),
                tx.now,
                lease_ms,
            ),
        )?;
        Ok(())
    }
}
