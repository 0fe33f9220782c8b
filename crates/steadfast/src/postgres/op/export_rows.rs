//! Reads a store page by page, to be carried elsewhere.
//!
//! Invariant: a page is one call and bounded.

use tokio_postgres::Row as SqlRow;

use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};
use crate::transfer::{PAGE_BYTES, PAGE_ROWS, Page, Part, Position, Row, State};

/// A page of a part.
pub(crate) async fn page(store: &Store, part: Part, after: Position) -> Result<Page, StoreError> {
    let [first, second, third] = after.numbers;
    let params = Params::new()
        .slow()
        .small(part.0)
        .big(first)
        .big(second)
        .big(third)
        .bytes(after.bytes)
        .int(PAGE_ROWS as i32)
        .big(PAGE_BYTES as i64);
    let found = store.pipe.call_patiently("sf_export_rows", &params).await?;
    let rows: Vec<Row> = found.iter().map(|row| decode(part, row)).collect::<Result<_, _>>()?;
    let full = rows.len() >= PAGE_ROWS || rows.iter().map(Row::bytes).sum::<usize>() >= PAGE_BYTES;
    let next = found.last().filter(|_| full).map(position).transpose()?;
    Ok(Page { rows, next })
}

fn decode(part: Part, row: &SqlRow) -> Result<Row, StoreError> {
    Ok(Row {
        kind: part.kind(),
        instance: column(row, "instance_id")?,
        numbers: [
            column(row, "n1")?,
            column(row, "n2")?,
            column(row, "n3")?,
            column(row, "n4")?,
            column(row, "n5")?,
            column(row, "n6")?,
        ],
        blobs: [
            column(row, "b1")?,
            column(row, "b2")?,
            column(row, "b3")?,
            column(row, "b4")?,
            column(row, "b5")?,
        ],
    })
}

fn position(row: &SqlRow) -> Result<Position, StoreError> {
    Ok(Position {
        numbers: [column(row, "c1")?, column(row, "c2")?, column(row, "c3")?],
        bytes: column(row, "ckey")?,
    })
}

/// Leases and emptiness; the database's clock is taken as it is.
pub(crate) async fn state(store: &Store) -> Result<State, StoreError> {
    let rows = store
        .pipe
        .call_patiently("sf_transfer_state", &Params::new().slow())
        .await?;
    let row = rows.first().ok_or_else(|| StoreError::Decode("no row".to_owned()))?;
    Ok(State {
        leases: column(row, "leases")?,
        longest_ms: column(row, "longest_ms")?,
        is_empty: column(row, "is_empty")?,
        shift_ms: 0,
    })
}
