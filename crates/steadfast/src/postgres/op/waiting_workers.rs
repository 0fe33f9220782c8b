//! Who waits for work of this schema, also while there is none.
//!
//! Invariant: reads only. Processes that poll (behind a transaction-mode pooler) cannot be seen so.

use std::sync::Arc;

use crate::postgres::error::StoreError;
use crate::postgres::hint::Channel;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// One text for each, such as `server process 12 (steadfast, 10.0.0.7)`.
pub(crate) async fn get(store: &Arc<Store>) -> Result<Vec<String>, StoreError> {
    let params = Params::new().int(Channel::of(store.pipe.quoted_schema()).lock_class);
    let rows = store.pipe.call_patiently("sf_waiting_workers", &params).await?;
    rows.iter()
        .map(|row| {
            let pid: i32 = column(row, "pid")?;
            let known: [Option<String>; 2] = [column(row, "application")?, column(row, "address")?];
            let known: Vec<String> = known.into_iter().flatten().filter(|text| !text.is_empty()).collect();
            Ok(match known.is_empty() {
                true => format!("server process {pid}"),
                false => format!("server process {pid} ({})", known.join(", ")),
            })
        })
        .collect()
}
