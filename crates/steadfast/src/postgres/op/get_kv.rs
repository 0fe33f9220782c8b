//! Reads key-values of an instance as its clients see them.
//!
//! Invariant: what the current execution changed covers what earlier ones left.

use std::collections::HashMap;
use std::sync::Arc;

use crate::item::index_key;
use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// All key-values, or the one of `key`.
pub(crate) async fn get(
    store: &Arc<Store>,
    instance: &str,
    key: Option<&str>,
) -> Result<HashMap<String, String>, StoreError> {
    if instance.contains('\0') {
        return Ok(HashMap::new());
    }
    let params = Params::new()
        .text(instance.to_owned())
        .bytes_opt(key.map(|k| index_key(k.as_bytes())));
    let rows = store.pipe.call_patiently("sf_get_kv", &params).await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    rows.iter()
        .map(|row| Ok((text(column(row, "key")?), text(column(row, "value")?))))
        .collect()
}
