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

    /// Gives it back, unless somebody else has it by now.
    pub(crate) fn take_back(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        match self.apply(tx) {
            Err(error) if !error.is_answer() => Err(error),
            _ => Ok(()),
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
        let held: Option<(Option<i64>, Option<i64>)> = tx.one(
            "SELECT claim, upto_at FROM sf_turn WHERE instance_key = ?1",
            [instance_key],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let Some((Some(current), upto_at)) = held else {
            return Err(Refusal::InvalidToken.into());
        };
        if current != claim {
            return Err(Refusal::InvalidToken.into());
        }
        let visible_at = self.delay.map(|d| tx.now.saturating_add(millis(d)));
        tx.execute(
            "UPDATE sf_message SET claim = NULL, visible_at = coalesce(?4, visible_at),
                 attempt_count = max(0, attempt_count - ?5)
             WHERE instance_key = ?1 AND visible_at <= ?3 AND claim = ?2",
            (instance_key, claim, upto_at, visible_at, i64::from(self.ignore_attempt)),
        )?;
        schedule::place(tx, instance_key)
    }
}
