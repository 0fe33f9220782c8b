//! Pages through instances.
//!
//! Invariant: a page is bounded; the next one goes on after the last row's key.

use std::sync::Arc;

use super::pending_instances;
use crate::inspect::{InstanceQuery, InstanceSummary};
use crate::postgres::error::StoreError;
use crate::postgres::params::Params;
use crate::postgres::store::{Store, column};

/// One page, newest first. Pending instances are looked for first: one that becomes an instance meanwhile is seen twice
/// rather than not at all, and told once.
pub(crate) async fn page(store: &Arc<Store>, query: &InstanceQuery) -> Result<Vec<InstanceSummary>, StoreError> {
    let unholdable = |text: &Option<String>| text.as_ref().is_some_and(|t| t.contains('\0'));
    if unholdable(&query.status) || unholdable(&query.prefix) {
        return Ok(Vec::new());
    }
    let pending = pending_instances::page(store, query).await?;
    let begun = begun(store, query).await?;
    let mut page: Vec<InstanceSummary> = pending
        .into_iter()
        .filter(|p| !begun.iter().any(|b| b.instance_id == p.instance_id))
        .collect();
    page.extend(begun);
    page.sort_unstable_by_key(|summary| std::cmp::Reverse(summary.key));
    page.truncate(usize::try_from(query.limit).unwrap_or(usize::MAX));
    Ok(page)
}

/// Those of a page that a worker has begun.
async fn begun(store: &Arc<Store>, query: &InstanceQuery) -> Result<Vec<InstanceSummary>, StoreError> {
    let params = Params::new()
        .text_opt(query.status.clone())
        .bytes_opt(query.name.as_ref().map(|n| n.as_bytes().to_vec()))
        .text_opt(query.prefix.clone())
        .big_opt(query.before.map(|k| i64::try_from(k).unwrap_or(i64::MAX)))
        .big(i64::from(query.limit));
    let rows = store.pipe.call_patiently("sf_list_instances", &params).await?;
    rows.iter()
        .map(|row| {
            let text = |bytes: Option<Vec<u8>>| bytes.map(|b| String::from_utf8_lossy(&b).into_owned());
            Ok(InstanceSummary {
                key: column::<i64>(row, "instance_key")?.unsigned_abs(),
                instance_id: column(row, "instance_id")?,
                orchestration_name: text(column(row, "orchestration_name")?).unwrap_or_default(),
                orchestration_version: text(column(row, "orchestration_version")?)
                    .unwrap_or_else(|| "unknown".to_owned()),
                execution_id: column::<i64>(row, "execution_id")?.unsigned_abs(),
                status: column(row, "status")?,
                parent_instance_id: column(row, "parent_instance_id")?,
                created_at_ms: column::<i64>(row, "created_ms")?.unsigned_abs(),
                updated_at_ms: column::<i64>(row, "updated_ms")?.unsigned_abs(),
            })
        })
        .collect()
}

/// Ids of all instances with this status (`None`: any), newest first, page by page.
pub(crate) async fn all_ids(store: &Arc<Store>, status: Option<&str>) -> Result<Vec<String>, StoreError> {
    const PAGE: u32 = 10_000;
    let mut ids = Vec::new();
    let mut query = InstanceQuery {
        status: status.map(str::to_owned),
        limit: PAGE,
        ..InstanceQuery::default()
    };
    loop {
        let page = page(store, &query).await?;
        let last = page.last().map(|s| s.key);
        let full = page.len() as u64 == u64::from(PAGE);
        ids.extend(page.into_iter().map(|s| s.instance_id));
        match last {
            Some(key) if full => query.before = Some(key),
            _ => return Ok(ids),
        }
    }
}
