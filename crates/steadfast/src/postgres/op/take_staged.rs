//! Fills an empty store with rows that were carried here: first aside, page by page, then all at once.
//!
//! Invariant: until all rows are there, none of them is seen.

use std::sync::Arc;

use uuid::Uuid;

use super::ack_orchestration_item::single_code;
use crate::group::millis;
use crate::item::index_key;
use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::Store;
use crate::transfer::{BLOBS, Kind, NUMBERS, Row, Taken};

/// Keeps rows aside.
pub(crate) async fn stage(store: &Store, copy_id: Uuid, first_row: i64, mut rows: Vec<Row>) -> Result<(), StoreError> {
    for row in rows.iter_mut().filter(|row| row.kind == Kind::KeyValue) {
        // The column that this engine has an index on.
        row.blobs[3] = row.blobs[0].as_deref().map(index_key);
    }
    let mut params = Params::new()
        .slow()
        .uuid(copy_id)
        .big(first_row)
        .smalls(rows.iter().map(|row| row.kind as i16).collect())
        .texts_opt(rows.iter().map(|row| row.instance.clone()).collect());
    for n in 0..NUMBERS {
        params = params.bigs_opt(rows.iter().map(|row| row.numbers[n]).collect());
    }
    for n in 0..BLOBS {
        params = params.byteas_opt(rows.iter_mut().map(|row| row.blobs[n].take()).collect());
    }
    store.pipe.call_patiently("sf_stage_rows", &params).await?;
    Ok(())
}

/// Takes everything that was kept aside.
pub(crate) async fn take(store: &Arc<Store>, copy_id: Uuid, rows: i64) -> Result<Taken, StoreError> {
    let params = Params::new()
        .slow()
        .uuid(Uuid::new_v4())
        .big(millis(store.pipe.settings().retry_timeout) * 3)
        .uuid(copy_id)
        .big(rows);
    let answer = store.pipe.call_patiently("sf_take_staged", &params).await?;
    match single_code(&answer, "results")?.as_slice() {
        [0] => {
            store.turns_available(1, false);
            store.work_available(1, false);
            Ok(Taken::All)
        }
        [1] => Ok(Taken::NotEmpty),
        [2] => Ok(Taken::Incomplete),
        other => Err(StoreError::Decode(format!("codes {other:?}"))),
    }
}
