//! Gives claimed instances back, also after their lease ended, as long as nobody has claimed them since.
//!
//! Invariant: only the messages of the claim are delayed or get their attempt back.

use std::time::Duration;

use super::{Operation, schedule};
use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::group::millis;
use crate::refusal::Refusal;
use crate::token::TurnToken;

/// A turn to give back.
pub(crate) struct AbandonedTurn {
    pub(crate) token: TurnToken,
    pub(crate) delay: Option<Duration>,
    pub(crate) ignore_attempt: bool,
}

impl AbandonedTurn {
    /// Nobody has seen it.
    pub(crate) fn untouched(token: TurnToken) -> Self {
        Self {
            token,
            delay: None,
            ignore_attempt: true,
        }
    }
}

impl Operation for AbandonedTurn {
    const NAME: &'static str = "abandon_orchestration_item";
    type Answer = ();

    fn lease(&self) -> Option<Duration> {
        Some(self.token.lease.max(Duration::from_secs(1)))
    }

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let TurnToken {
            instance_key, claim, ..
        } = self.token;
        if !holds(tx, instance_key, claim)? {
            return Err(Refusal::InvalidToken.into());
        }
        let visible_at = self.delay.map(|d| tx.now.saturating_add(millis(d)));
        for id in schedule::claimed(tx, instance_key, claim)? {
            tx.execute(
                "UPDATE sf_message SET claim = NULL, visible_at = coalesce(?2, visible_at),
                     attempt_count = max(0, attempt_count - ?3) WHERE message_id = ?1",
                (id, visible_at, i64::from(self.ignore_attempt)),
            )?;
        }
        schedule::place(tx, instance_key)
    }
}

/// Whether the instance is still in this claim, whether or not its lease has ended.
pub(crate) fn holds(tx: &Tx<'_>, instance_key: i64, claim: i64) -> Result<bool, StoreError> {
    let current: Option<Option<i64>> = tx.one(
        "SELECT claim FROM sf_turn WHERE instance_key = ?1",
        [instance_key],
        |row| row.get(0),
    )?;
    Ok(current.flatten() == Some(claim))
}
