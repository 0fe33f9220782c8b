//! Pages through instances.
//!
//! Invariant: a page is bounded; the next one goes on after the last row's key.

use super::instance_detail::summary;
use super::pending_instances;
use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::inspect::{InstanceQuery, InstanceSummary};

const QUESTION: &str = "
    SELECT instance_key, instance_id, orchestration_name, orchestration_version, execution_id, status,
           parent_instance_id, created_at_ms, updated_at_ms
    FROM sf_instance
    WHERE orchestration_name IS NOT NULL
      AND (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR orchestration_name = ?2)
      AND (?3 IS NULL OR substr(instance_id, 1, length(?3)) = ?3) AND instance_key < ?4
    ORDER BY instance_key DESC LIMIT ?5";

/// One page, newest first. Pending instances are looked for first: one that becomes an instance meanwhile is seen twice
/// rather than not at all, and told once.
pub(crate) async fn page(store: &Store, query: &InstanceQuery) -> Result<Vec<InstanceSummary>, StoreError> {
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
async fn begun(store: &Store, query: &InstanceQuery) -> Result<Vec<InstanceSummary>, StoreError> {
    let query = query.clone();
    store
        .ask(move |connection| {
            let before = query.before.map_or(i64::MAX, |k| i64::try_from(k).unwrap_or(i64::MAX));
            let mut statement = connection.prepare_cached(QUESTION)?;
            let rows = statement.query_map(
                (&query.status, &query.name, &query.prefix, before, query.limit),
                summary,
            )?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
}

/// Ids of all instances with this status (`None`: any), newest first, page by page.
pub(crate) async fn all_ids(store: &Store, status: Option<&str>) -> Result<Vec<String>, StoreError> {
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
