//! Keeps how far a named cursor of the change feed has come, and makes old tokens invalid.
//!
//! Invariant: within an epoch a cursor never goes back.

use uuid::Uuid;

use super::Operation;
use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::feed::Token;

/// A cursor's new place.
pub(crate) struct CommitCursor {
    pub(crate) name: String,
    pub(crate) token: Token,
}

impl Operation for CommitCursor {
    const NAME: &'static str = "feed_commit";
    type Answer = ();

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        tx.execute(
            "INSERT INTO sf_feed_cursor (name, epoch, sequence, mark, committed_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (name) DO UPDATE SET epoch = excluded.epoch, sequence = excluded.sequence,
                 mark = excluded.mark, lost = 0, committed_at_ms = excluded.committed_at_ms
             WHERE sf_feed_cursor.epoch <> excluded.epoch OR sf_feed_cursor.sequence < excluded.sequence",
            (
                &self.name,
                self.token.epoch.simple().to_string(),
                i64::try_from(self.token.sequence).unwrap_or(i64::MAX),
                self.token.mark,
                tx.wall_ms,
            ),
        )?;
        Ok(())
    }
}

/// Makes every token and cursor of the past invalid.
pub(crate) struct NewEpoch(pub(crate) Uuid);

impl Operation for NewEpoch {
    const NAME: &'static str = "feed_new_epoch";
    type Answer = Uuid;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Uuid, StoreError> {
        tx.execute("UPDATE sf_feed_head SET epoch = ?1", [self.0.simple().to_string()])?;
        Ok(self.0)
    }
}
