//! Sub-orchestrations of an instance.
//!
//! Invariant: a whole tree is one call.

use std::sync::Arc;

use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// Direct children, or (`deep`) the instance and all its descendants, parents first.
pub(crate) async fn list(store: &Arc<Store>, instance: &str, deep: bool) -> Result<Vec<String>, StoreError> {
    if instance.contains('\0') {
        return Ok(Vec::new());
    }
    let params = Params::new().text(instance.to_owned()).flag(deep);
    let rows = store.pipe.call_patiently("sf_list_children", &params).await?;
    rows.iter().map(|row| column(row, "instance_id")).collect()
}
