//! A gate inside the database: calls that write to a table stop there until it opens.
//!
//! It stands where a slow disk or a slow network would hold up a transaction that has its locks and its batch id.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(20);

/// Open when built. It is an advisory lock, taken shared by a trigger.
pub(crate) struct Gate {
    keeper: Client,
    schema: String,
}

impl Gate {
    /// In front of every row that is inserted into or updated in `table`.
    pub(crate) async fn before(scene: &Scene, table: &str) -> Self {
        let keeper = scene.sql().await;
        let sql = format!(
            "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_advisory_xact_lock_shared(4711, hashtext(TG_TABLE_SCHEMA));
                 RETURN NEW;
             END $$;
             CREATE TRIGGER gate BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION gate();"
        );
        keeper.batch_execute(&sql).await.expect("build a gate");
        Self {
            keeper,
            schema: scene.schema.clone(),
        }
    }

    pub(crate) async fn close(&self) {
        let sql = "SELECT pg_advisory_lock(4711, hashtext($1))";
        self.keeper.execute(sql, &[&self.schema]).await.expect("close the gate");
    }

    pub(crate) async fn open(&self) {
        let sql = "SELECT pg_advisory_unlock(4711, hashtext($1))";
        self.keeper.execute(sql, &[&self.schema]).await.expect("open the gate");
    }

    /// The backends that wait: at the gate, or for one that waits there.
    pub(crate) async fn waiting(&self) -> Vec<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND strpos(query, $1) > 0";
        let rows = self.keeper.query(sql, &[&self.schema]).await.expect("see who waits");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Returns when so many wait: their ids.
    pub(crate) async fn queue(&self, length: usize) -> Vec<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let waiting = self.waiting().await;
            if waiting.len() >= length {
                return waiting;
            }
            assert!(Instant::now() < deadline, "only {} of {length} came", waiting.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
