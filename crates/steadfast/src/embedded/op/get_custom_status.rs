//! Reads custom statuses.
//!
//! Invariant: an answer is as new as the question.

use rusqlite::OptionalExtension;

use crate::embedded::error::StoreError;
use crate::embedded::store::Store;

/// The status and its version, if that is newer than `seen`.
pub(crate) async fn after(
    store: &Store,
    instance: &str,
    seen: i64,
) -> Result<Option<(Option<String>, u64)>, StoreError> {
    let id = instance.to_owned();
    store
        .ask(move |connection| {
            let found: Option<(Option<String>, i64)> = connection
                .prepare_cached(
                    "SELECT custom_status, custom_status_version FROM sf_instance
                     WHERE instance_id = ?1 AND custom_status_version > ?2",
                )?
                .query_row((&id, seen), |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            Ok(found.map(|(status, version)| (status, version.unsigned_abs())))
        })
        .await
}
