//! Reads a store page by page, to be carried elsewhere.
//!
//! Invariant: each part is read in the order of an index, so that a page costs what is in it.

use rusqlite::{Connection, Row as SqlRow};

use crate::embedded::error::StoreError;
use crate::embedded::store::Store;
use crate::transfer::{BLOBS, NUMBERS, PAGE_BYTES, PAGE_ROWS, Page, Part, Position, Row, State};

/// Instance, numbers, payloads, then the position (three numbers, bytes).
const POSITION_AT: usize = 1 + NUMBERS + BLOBS;

/// What is read of a part, after ?1 to ?3 and ?4.
fn sql(part: Part) -> Option<&'static str> {
    Some(match part.0 {
        // Rows that only hang messages on an id are no instances.
        1 => {
            "SELECT instance_id, execution_id, replay_version, custom_status_version, created_at_ms, updated_at_ms,
                instance_key, CAST(orchestration_name AS BLOB), CAST(orchestration_version AS BLOB),
                CAST(status AS BLOB), CAST(custom_status AS BLOB), CAST(parent_instance_id AS BLOB),
                instance_key, 0, 0, x''
             FROM sf_instance i WHERE instance_key > ?1 AND (orchestration_name IS NOT NULL
                OR EXISTS (SELECT 1 FROM sf_event e WHERE e.instance_key = i.instance_key))
             ORDER BY instance_key"
        }
        2 => {
            "SELECT i.instance_id, x.execution_id, x.replay_version, x.started_at_ms, x.completed_at_ms, NULL, NULL,
                CAST(x.status AS BLOB), CAST(x.output AS BLOB), NULL, NULL, NULL,
                x.instance_key, x.execution_id, 0, x''
             FROM sf_execution x CROSS JOIN sf_instance i USING (instance_key)
             WHERE (x.instance_key, x.execution_id) > (?1, ?2) ORDER BY x.instance_key, x.execution_id"
        }
        3 => {
            "SELECT i.instance_id, e.execution_id, e.event_id, e.kind, NULL, NULL, NULL, e.payload, NULL, NULL, NULL, NULL,
                e.instance_key, e.execution_id, e.event_id, x''
             FROM sf_event e CROSS JOIN sf_instance i USING (instance_key)
             WHERE (e.instance_key, e.execution_id, e.event_id) > (?1, ?2, ?3)
             ORDER BY e.instance_key, e.execution_id, e.event_id"
        }
        4 => {
            "SELECT i.instance_id, m.visible_at, m.attempt_count, m.kind, NULL, NULL, m.message_id,
                m.payload, NULL, NULL, NULL, NULL, m.instance_key, m.visible_at, m.message_id, x''
             -- Held or not: the target holds what it must.
             FROM (SELECT instance_key, visible_at, message_id, attempt_count, kind, payload FROM sf_message
                   WHERE (instance_key, visible_at, message_id) > (?1, ?2, ?3)
                   UNION ALL
                   SELECT instance_key, visible_at, message_id, attempt_count, kind, payload FROM sf_held
                   WHERE (instance_key, visible_at, message_id) > (?1, ?2, ?3)) m
             CROSS JOIN sf_instance i USING (instance_key)
             ORDER BY m.instance_key, m.visible_at, m.message_id"
        }
        6 => {
            "SELECT i.instance_id, w.execution_id, w.activity_id, w.available_at, w.attempt_count, NULL, w.work_id,
                w.tag, w.session_key, w.payload, NULL, NULL, w.instance_key, w.work_id, 0, x''
             FROM sf_work w CROSS JOIN sf_instance i USING (instance_key)
             WHERE (w.instance_key, w.work_id) > (?1, ?2) ORDER BY w.instance_key, w.work_id"
        }
        7 => {
            "SELECT NULL, last_activity_at, NULL, NULL, NULL, NULL, NULL, session_key, NULL, NULL, NULL, NULL,
                0, 0, 0, session_key
             FROM sf_session WHERE session_key > ?4 ORDER BY session_key"
        }
        8 => {
            "SELECT i.instance_id, v.base_at_ms, v.changed, v.delta_at_ms, NULL, NULL, NULL,
                CAST(v.key AS BLOB), CAST(v.base_value AS BLOB), CAST(v.delta_value AS BLOB), NULL, NULL,
                v.instance_key, 0, 0, CAST(v.key AS BLOB)
             FROM sf_kv v CROSS JOIN sf_instance i USING (instance_key)
             WHERE (v.instance_key, v.key) > (?1, CAST(?4 AS TEXT)) ORDER BY v.instance_key, v.key"
        }
        9 => {
            "SELECT instance_id, execution_id, activity_id, quarantined_at_ms, NULL, NULL, quarantine_id,
                CAST(queue AS BLOB), CAST(error AS BLOB), payload, NULL, NULL, quarantine_id, 0, 0, x''
             FROM sf_quarantine WHERE quarantine_id > ?1 ORDER BY quarantine_id"
        }
        // Messages are routed at once.
        _ => return None,
    })
}

/// A page of a part.
pub(crate) async fn page(store: &Store, part: Part, after: Position, shift_ms: i64) -> Result<Page, StoreError> {
    store
        .ask(move |connection| {
            let mut page = read(connection, part, &after)?;
            page.rows.iter_mut().for_each(|row| row.shift(shift_ms));
            Ok(page)
        })
        .await
}

fn read(connection: &Connection, part: Part, after: &Position) -> Result<Page, StoreError> {
    let mut page = Page {
        rows: Vec::new(),
        next: None,
    };
    let Some(sql) = sql(part) else { return Ok(page) };
    let mut statement = connection.prepare_cached(sql)?;
    for place in 1..=statement.parameter_count() {
        match after.numbers.get(place - 1) {
            Some(number) => statement.raw_bind_parameter(place, number)?,
            None => statement.raw_bind_parameter(place, &after.bytes)?,
        }
    }
    let mut found = statement.raw_query();
    let mut bytes = 0;
    while let Some(row) = found.next()? {
        let read = decode(part, row)?;
        bytes += read.bytes();
        page.rows.push(read);
        if page.rows.len() >= PAGE_ROWS || bytes >= PAGE_BYTES {
            page.next = Some(position(row)?);
            break;
        }
    }
    Ok(page)
}

fn decode(part: Part, row: &SqlRow<'_>) -> Result<Row, StoreError> {
    let mut read = Row {
        kind: part.kind(),
        instance: row.get(0)?,
        numbers: [None; NUMBERS],
        blobs: Default::default(),
    };
    for (n, number) in read.numbers.iter_mut().enumerate() {
        *number = row.get(1 + n)?;
    }
    for (n, blob) in read.blobs.iter_mut().enumerate() {
        *blob = row.get(1 + NUMBERS + n)?;
    }
    Ok(read)
}

fn position(row: &SqlRow<'_>) -> Result<Position, StoreError> {
    Ok(Position {
        numbers: [
            row.get(POSITION_AT)?,
            row.get(POSITION_AT + 1)?,
            row.get(POSITION_AT + 2)?,
        ],
        bytes: row.get(POSITION_AT + 3)?,
    })
}

/// Leases, emptiness and the clock.
pub(crate) async fn state(store: &Store) -> Result<State, StoreError> {
    let now = store.now();
    let shift_ms = store.wall_now().saturating_sub(now);
    store
        .ask(move |connection| {
            let state = connection.query_row(
                "WITH lease(until) AS (
                    SELECT available_at FROM sf_turn WHERE claim > 0 AND available_at > ?1
                    UNION ALL SELECT available_at FROM sf_work WHERE claim IS NOT NULL AND available_at > ?1
                    UNION ALL SELECT locked_until FROM sf_session WHERE owner IS NOT NULL AND locked_until > ?1)
                 SELECT count(*), coalesce(max(until) - ?1, 0),
                    NOT EXISTS (SELECT 1 FROM sf_instance) AND NOT EXISTS (SELECT 1 FROM sf_message)
                    AND NOT EXISTS (SELECT 1 FROM sf_work) AND NOT EXISTS (SELECT 1 FROM sf_session)
                    AND NOT EXISTS (SELECT 1 FROM sf_quarantine)
                 FROM lease",
                [now],
                |row| {
                    Ok(State {
                        leases: row.get(0)?,
                        longest_ms: row.get(1)?,
                        is_empty: row.get(2)?,
                        shift_ms,
                    })
                },
            )?;
            Ok(state)
        })
        .await
}
