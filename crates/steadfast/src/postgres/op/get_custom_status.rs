//! Reads custom statuses; clients that wait for a change ask often, so the questions coalesce.
//!
//! Invariant: an answer is as new as the question.

use std::sync::Arc;

use crate::batch::Limits;
use crate::postgres::lane::{Batch, Entry};
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// Questions for custom statuses.
pub(crate) struct CustomStatuses;

/// Whether an instance has a newer status than the caller has seen.
pub(crate) struct CustomStatusAfter {
    pub(crate) instance: String,
    pub(crate) seen: i64,
}

impl Batch for CustomStatuses {
    type Call = CustomStatusAfter;
    type Answer = Option<(Option<String>, u64)>;
    const LIMITS: Limits = Limits {
        max_calls: 128,
        max_bytes: usize::MAX,
        max_in_flight: 2,
        beside_calls: usize::MAX,
    };

    fn bytes(_: &CustomStatusAfter) -> usize {
        0
    }

    async fn send(store: Arc<Store>, entries: Vec<Entry<Self>>) {
        let params = Params::new()
            .texts(entries.iter().map(|e| e.call.instance.clone()).collect())
            .bigs(entries.iter().map(|e| e.call.seen).collect());
        let rows = match store.pipe.call_patiently("sf_get_custom_status", &params).await {
            Ok(rows) => rows,
            Err(error) => {
                for entry in entries {
                    entry.answer(Err(error.clone()));
                }
                return;
            }
        };
        let mut rows = rows.iter().peekable();
        for (n, entry) in entries.into_iter().enumerate() {
            let row = rows.next_if(|row| row.try_get::<_, i64>("op").is_ok_and(|op| op == n as i64 + 1));
            entry.answer(
                row.map(|row| {
                    let status: Option<Vec<u8>> = column(row, "custom_status")?;
                    let version: i64 = column(row, "custom_status_version")?;
                    Ok((
                        status.map(|s| String::from_utf8_lossy(&s).into_owned()),
                        version.unsigned_abs(),
                    ))
                })
                .transpose(),
            );
        }
    }
}
