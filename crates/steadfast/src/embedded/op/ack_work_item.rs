//! Removes a done activity and delivers its completion.
//!
//! Invariant: removal and delivery are one commit.

use std::time::Duration;

use duroxide::providers::WorkItem;

use super::abandon_work_item::AbandonedWork;
use super::{Operation, schedule};
use crate::embedded::claim::isolation;
use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::embedded::transaction::Tx;
use crate::item::{ItemError, Message, MessageKind};
use crate::limit::PayloadLimit;
use crate::refusal::Refusal;
use crate::token::WorkToken;

/// A done activity.
pub(crate) struct AckedWork {
    token: WorkToken,
    completion: Option<Message>,
}

impl AckedWork {
    pub(crate) fn encode(
        token: WorkToken,
        completion: Option<&WorkItem>,
        limit: PayloadLimit,
    ) -> Result<Self, ItemError> {
        let completion = completion
            .map(|item| Message::encode_completion(item, limit))
            .transpose()?;
        match &completion {
            Some(m) if !matches!(m.kind, MessageKind::ActivityCompleted | MessageKind::ActivityFailed) => {
                Err(ItemError::WrongQueue("an activity's completion that is none"))
            }
            _ => Ok(Self { token, completion }),
        }
    }
}

impl Operation for AckedWork {
    const NAME: &'static str = "ack_work_item";
    type Answer = ();

    fn bytes(&self) -> usize {
        self.completion.as_ref().map_or(0, |m| m.payload.len())
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.token.lease.max(Duration::from_secs(1)))
    }

    fn give_attempt_back(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        AbandonedWork::untouched(self.token).take_back(tx)
    }

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let done = tx.one(
            "DELETE FROM sf_work WHERE instance_key = ?1 AND work_id = ?2 AND claim = ?3 AND available_at > ?4
             RETURNING session_key",
            (self.token.instance_key, self.token.work_id, self.token.claim, tx.now),
            |row| row.get(0),
        )?;
        let session: Option<Vec<u8>> = match done {
            Some(session) => session,
            // Nothing was deleted: says why.
            None => lease(tx, &self.token)?,
        };
        isolation::forget(tx, self.token.instance_key, self.token.work_id)?;
        schedule::touch(tx, session.as_deref())?;
        match &self.completion {
            Some(message) => schedule::deliver(tx, message, tx.now),
            None => Ok(()),
        }
    }
}

/// Acknowledges an activity. An ack that trouble has brought to nothing spends its token.
pub(crate) async fn ack(store: &Store, work: AckedWork) -> Result<(), StoreError> {
    let token = work.token;
    if store.spent.contains(token) {
        return Err(Refusal::LeaseEnded.into());
    }
    let outcome = store.submit(work).await;
    if outcome.as_ref().is_err_and(StoreError::may_pass) {
        store.spent.note(token);
        store.give_back_work(AbandonedWork::untouched(token));
    }
    outcome
}

/// Refuses a claim that is not current, or whose lease has ended; otherwise answers the activity's session.
pub(crate) fn lease(tx: &Tx<'_>, token: &WorkToken) -> Result<Option<Vec<u8>>, StoreError> {
    type Held = (Option<i64>, i64, Option<Vec<u8>>);
    let held: Option<Held> = tx.one(
        "SELECT claim, available_at, session_key FROM sf_work WHERE work_id = ?1 AND instance_key = ?2",
        (token.work_id, token.instance_key),
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    match held {
        Some((Some(claim), until, session)) if claim == token.claim && until > tx.now => Ok(session),
        Some((Some(claim), ..)) if claim == token.claim => Err(Refusal::LeaseEnded.into()),
        _ => Err(Refusal::InvalidToken.into()),
    }
}
