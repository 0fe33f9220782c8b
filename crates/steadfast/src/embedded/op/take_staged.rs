//! Fills an empty store with rows that were carried here: first aside, then all at once.
//!
//! Invariant: until all rows are there, none of them is seen: they wait in a table of their own, which the last step
//! removes, and the next copy empties if a copy has failed.

use uuid::Uuid;

use super::Operation;
use super::schedule::place;
use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::transfer::{Row, Taken};

const STAGE: &str = "CREATE TABLE IF NOT EXISTS sf_copied (
    row_no INTEGER PRIMARY KEY, copy_id TEXT NOT NULL, kind INTEGER NOT NULL, instance_id TEXT,
    n1 INTEGER, n2 INTEGER, n3 INTEGER, n4 INTEGER, n5 INTEGER, n6 INTEGER,
    b1 BLOB, b2 BLOB, b3 BLOB, b4 BLOB, b5 BLOB)";

/// Rows to be kept aside.
pub(crate) struct Staged {
    pub(crate) copy_id: Uuid,
    pub(crate) first_row: i64,
    pub(crate) rows: Vec<Row>,
}

impl Operation for Staged {
    const NAME: &'static str = "stage_rows";
    type Answer = ();

    fn bytes(&self) -> usize {
        self.rows.iter().map(Row::bytes).sum()
    }

    fn apply(&self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        tx.execute(STAGE, [])?;
        let copy_id = self.copy_id.to_string();
        if self.first_row == 0 {
            tx.execute("DELETE FROM sf_copied WHERE copy_id <> ?1", [&copy_id])?;
        }
        let mut statement = tx.statement(
            "INSERT OR REPLACE INTO sf_copied VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )?;
        for (row, row_no) in self.rows.iter().zip(self.first_row..) {
            let ([n1, n2, n3, n4, n5, n6], [b1, b2, b3, b4, b5]) = (row.numbers, &row.blobs);
            let (kind, instance) = (row.kind as i16, &row.instance);
            statement.execute(rusqlite::params![
                row_no, copy_id, kind, instance, n1, n2, n3, n4, n5, n6, b1, b2, b3, b4, b5
            ])?;
        }
        Ok(())
    }
}

/// Everything that was kept aside.
pub(crate) struct TakeStaged {
    pub(crate) copy_id: Uuid,
    pub(crate) rows: i64,
}

/// What each kind becomes. ?1: the id before the first new one, where there are new ones.
const TAKE: &[(&str, &str)] = &[
    (
        "instance",
        "INSERT INTO sf_instance (instance_key, instance_id, execution_id, replay_version, custom_status_version,
            created_at_ms, updated_at_ms, orchestration_name, orchestration_version, status, custom_status,
            parent_instance_id)
         SELECT ?1 + row_number() OVER (ORDER BY n6), instance_id, n1, n2, n3, n4, n5, CAST(b1 AS TEXT),
            CAST(b2 AS TEXT), CAST(b3 AS TEXT), CAST(b4 AS TEXT), CAST(b5 AS TEXT)
         FROM sf_copied WHERE kind = 1",
    ),
    (
        // What has no instance yet hangs on a row all the same.
        "place to hang things on",
        "INSERT INTO sf_instance (instance_key, instance_id, created_at_ms, updated_at_ms)
         SELECT ?1 + row_number() OVER (ORDER BY instance_id), instance_id, wall_ms, wall_ms
         FROM (SELECT DISTINCT instance_id FROM sf_copied WHERE kind IN (2, 3, 4, 6, 8)
               EXCEPT SELECT instance_id FROM sf_instance), sf_state",
    ),
    (
        "execution",
        "INSERT INTO sf_execution (instance_key, execution_id, replay_version, started_at_ms, completed_at_ms, status, output)
         SELECT instance_key, n1, n2, n3, n4, CAST(b1 AS TEXT), CAST(b2 AS TEXT)
         FROM sf_copied c CROSS JOIN sf_instance USING (instance_id) WHERE kind = 2 AND ?1 IS NOT NULL ORDER BY row_no",
    ),
    (
        "event",
        "INSERT INTO sf_event (instance_key, execution_id, event_id, kind, payload)
         SELECT instance_key, n1, n2, n3, b1
         FROM sf_copied c CROSS JOIN sf_instance USING (instance_id) WHERE c.kind = 3 AND ?1 IS NOT NULL ORDER BY row_no",
    ),
    (
        "message",
        "INSERT INTO sf_message (message_id, instance_key, visible_at, attempt_count, kind, payload)
         SELECT ?1 + row_number() OVER (ORDER BY n6), instance_key, n1, n2, n3, b1
         FROM sf_copied c CROSS JOIN sf_instance USING (instance_id) WHERE c.kind = 4",
    ),
    (
        "activity",
        "INSERT INTO sf_work (work_id, instance_key, execution_id, activity_id, available_at, attempt_count, tag,
            session_key, payload)
         SELECT ?1 + row_number() OVER (ORDER BY n6), instance_key, n1, n2, n3, n4, b1, b2, b3
         FROM sf_copied c CROSS JOIN sf_instance USING (instance_id) WHERE c.kind = 6",
    ),
    (
        "session",
        "INSERT INTO sf_session (session_key, last_activity_at)
         SELECT b1, n1 FROM sf_copied WHERE kind = 7 AND ?1 IS NOT NULL",
    ),
    (
        "key-value",
        "INSERT INTO sf_kv (instance_key, key, base_value, base_at_ms, changed, delta_value, delta_at_ms)
         SELECT instance_key, CAST(b1 AS TEXT), CAST(b2 AS TEXT), n1, n2, CAST(b3 AS TEXT), n3
         FROM sf_copied c CROSS JOIN sf_instance USING (instance_id) WHERE kind = 8 AND ?1 IS NOT NULL",
    ),
    (
        "quarantined",
        "INSERT INTO sf_quarantine (quarantine_id, instance_id, execution_id, activity_id, quarantined_at_ms, queue, error,
            payload)
         SELECT ?1 + row_number() OVER (ORDER BY n6), instance_id, n1, n2, n3, CAST(b1 AS TEXT), CAST(b2 AS TEXT), b3
         FROM sf_copied WHERE kind = 9",
    ),
];

impl Operation for TakeStaged {
    const NAME: &'static str = "take_staged";
    type Answer = Taken;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<Taken, StoreError> {
        let empty = tx.one(
            "SELECT NOT EXISTS (SELECT 1 FROM sf_instance) AND NOT EXISTS (SELECT 1 FROM sf_message)
                AND NOT EXISTS (SELECT 1 FROM sf_work) AND NOT EXISTS (SELECT 1 FROM sf_session)
                AND NOT EXISTS (SELECT 1 FROM sf_quarantine)",
            [],
            |row| row.get::<_, bool>(0),
        )?;
        if empty != Some(true) {
            return Ok(Taken::NotEmpty);
        }
        tx.execute(STAGE, [])?;
        let here: Option<i64> = tx.one(
            "SELECT count(*) FROM sf_copied WHERE copy_id = ?1",
            [self.copy_id.to_string()],
            |row| row.get(0),
        )?;
        if here != Some(self.rows) {
            return Ok(Taken::Incomplete);
        }
        for (what, sql) in TAKE {
            let taken = tx.execute(sql, [tx.last_id()])?;
            tracing::debug!(target: "steadfast", what, taken, "rows were taken over");
            tx.skip_ids(taken);
        }
        let messaged: Vec<i64> = tx.all("SELECT DISTINCT instance_key FROM sf_message", [], |row| row.get(0))?;
        for key in messaged {
            place(tx, key)?;
        }
        tx.work_at(tx.now);
        tx.execute("DROP TABLE sf_copied", [])?;
        Ok(Taken::All)
    }
}
