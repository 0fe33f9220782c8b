//! Instances that no worker has taken: starts that wait.
//!
//! Invariant: a page is bounded in rows and bytes. Each has the row that its messages hang on, and that row's key.

use rusqlite::{OptionalExtension, Row};

use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::inspect::{InstanceDetail, InstanceQuery, InstanceSummary, PENDING};
use crate::pending::{LISTED_BYTES, PAGE, Queued};

/// The index of starts knows them by their instances, newest last.
const LIST: &str = "
    SELECT i.instance_key, i.instance_id, i.created_at_ms, i.updated_at_ms, substr(m.payload, 1, ?4)
    FROM (SELECT instance_key, min(message_id) AS message_id FROM sf_message
          WHERE kind IN (1, 2) AND kind = 1 AND instance_key < ?1 GROUP BY instance_key) s
    JOIN sf_message m ON m.instance_key = s.instance_key AND m.message_id = s.message_id
    JOIN sf_instance i ON i.instance_key = s.instance_key
    WHERE i.orchestration_name IS NULL AND (?2 IS NULL OR substr(i.instance_id, 1, length(?2)) = ?2)
    ORDER BY s.instance_key DESC LIMIT ?3";

const ONE: &str = "
    SELECT i.instance_key, i.instance_id, i.created_at_ms, i.updated_at_ms, substr(m.payload, 1, ?2),
           (SELECT count(*) FROM sf_message w WHERE w.instance_key = i.instance_key),
           (SELECT t.available_at FROM sf_turn t WHERE t.instance_key = i.instance_key AND t.claim IS NOT NULL)
    FROM sf_instance i JOIN sf_message m USING (instance_key)
    WHERE i.instance_id = ?1 AND i.orchestration_name IS NULL AND m.kind IN (1, 2) AND m.kind = 1
    ORDER BY m.message_id LIMIT 1";

/// The pending instances of a page, newest first.
pub(crate) async fn page(store: &Store, query: &InstanceQuery) -> Result<Vec<InstanceSummary>, StoreError> {
    let mut found = Vec::new();
    if query.status.as_ref().is_some_and(|s| s != PENDING) {
        return Ok(found);
    }
    let wanted = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let mut before = query.before.map_or(i64::MAX, |k| i64::try_from(k).unwrap_or(i64::MAX));
    while found.len() < wanted {
        let prefix = query.prefix.clone();
        let rows: Vec<Queued> = store
            .ask(move |connection| {
                let mut statement = connection.prepare_cached(LIST)?;
                let rows = statement.query_map((before, &prefix, PAGE, LISTED_BYTES), queued)?;
                Ok(rows.collect::<Result<_, _>>()?)
            })
            .await?;
        let last = rows.len() < PAGE as usize;
        for summary in rows.into_iter().map(InstanceSummary::from) {
            before = i64::try_from(summary.key).unwrap_or(i64::MAX);
            if query
                .name
                .as_ref()
                .is_none_or(|name| *name == summary.orchestration_name)
            {
                found.push(summary);
            }
        }
        if last {
            break;
        }
    }
    found.truncate(wanted);
    Ok(found)
}

/// The pending instance with this id, if there is one.
pub(crate) async fn get(store: &Store, instance: &str) -> Result<Option<InstanceDetail>, StoreError> {
    let (id, now) = (instance.to_owned(), store.now());
    let whole = store.payload_limit().handed_out();
    store
        .ask(move |connection| {
            let mut statement = connection.prepare_cached(ONE)?;
            Ok(statement.query_row((&id, whole), |row| detail(row, now)).optional()?)
        })
        .await
}

fn detail(row: &Row<'_>, now: i64) -> rusqlite::Result<InstanceDetail> {
    Ok(InstanceDetail {
        summary: queued(row)?.into(),
        output: None,
        custom_status: None,
        custom_status_version: 0,
        replay_version: None,
        pending_messages: row.get::<_, i64>(5)?.unsigned_abs(),
        lease_left_ms: row.get::<_, Option<i64>>(6)?.map(|until| until - now),
    })
}

fn queued(row: &Row<'_>) -> rusqlite::Result<Queued> {
    Ok(Queued {
        key: row.get::<_, i64>(0)?.unsigned_abs(),
        instance: row.get(1)?,
        sent_at_ms: row.get::<_, i64>(2)?.unsigned_abs(),
        touched_at_ms: row.get::<_, i64>(3)?.unsigned_abs(),
        payload: row.get(4)?,
    })
}
