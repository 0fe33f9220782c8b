//! Gives claimed activities back, also after their lease ended, as long as nobody has claimed them since.
//!
//! Invariant: the token is spent by it.

use std::time::Duration;

use super::Operation;
use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::group::millis;
use crate::refusal::Refusal;
use crate::token::WorkToken;

/// An activity to give back.
pub(crate) struct AbandonedWork {
    pub(crate) token: WorkToken,
    pub(crate) delay: Option<Duration>,
    pub(crate) ignore_attempt: bool,
}

impl AbandonedWork {
    /// Nobody has seen it.
    pub(crate) fn untouched(token: WorkToken) -> Self {
        Self {
            token,
            delay: None,
            ignore_attempt: true,
        }
    }

    /// Gives it back, unless somebody else has it by now.
    pub(crate) fn take_back(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        match self.apply(tx) {
            Err(error) if !error.is_answer() => Err(error),
            _ => Ok(()),
        }
    }
}

impl Operation for AbandonedWork {
    const NAME: &'static str = "abandon_work_item";
    type Answer = ();

    fn lease(&self) -> Option<Duration> {
        Some(self.token.lease.max(Duration::from_secs(1)))
    }

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let available_at = tx.now.saturating_add(self.delay.map_or(0, millis));
        let changed = tx.execute(
            "UPDATE sf_work SET claim = NULL, leased_at = NULL, lease_ms = NULL, available_at = ?4,
                 attempt_count = max(0, attempt_count - ?5)
             WHERE work_id = ?1 AND claim = ?2 AND instance_key = ?3",
            (
                self.token.work_id,
                self.token.claim,
                self.token.instance_key,
                available_at,
                i64::from(self.ignore_attempt),
            ),
        )?;
        if changed == 0 {
            return Err(Refusal::InvalidToken.into());
        }
        tx.work_at(available_at);
        Ok(())
    }
}
