//! Reads key-values of an instance as its clients see them.
//!
//! Invariant: what the current execution changed covers what earlier ones left.

use std::collections::HashMap;

use crate::embedded::error::StoreError;
use crate::embedded::store::Store;

/// All key-values, or the one of `key`.
pub(crate) async fn get(
    store: &Store,
    instance: &str,
    key: Option<&str>,
) -> Result<HashMap<String, String>, StoreError> {
    let (instance, key) = (instance.to_owned(), key.map(str::to_owned));
    store
        .ask(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT v.key, CASE WHEN v.changed THEN v.delta_value ELSE v.base_value END AS value
                 FROM sf_instance i JOIN sf_kv v USING (instance_key)
                 WHERE i.instance_id = ?1 AND (?2 IS NULL OR v.key = ?2) AND value IS NOT NULL",
            )?;
            let rows = statement.query_map((&instance, &key), |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
}
