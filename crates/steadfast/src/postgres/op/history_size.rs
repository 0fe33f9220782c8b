//! Size of a history, asked before it is read.
//!
//! Invariant: none of it is read for it.

use std::sync::Arc;

use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// Bytes of an execution's history, 0 when there is none.
pub(crate) async fn get(store: &Arc<Store>, instance: &str, execution_id: i64) -> Result<usize, StoreError> {
    let params = Params::new().text(instance.to_owned()).big(execution_id);
    let rows = store.pipe.call_patiently("sf_history_size", &params).await?;
    let Some(row) = rows.first() else { return Ok(0) };
    Ok(usize::try_from(column::<i64>(row, "bytes")?).unwrap_or(0))
}
