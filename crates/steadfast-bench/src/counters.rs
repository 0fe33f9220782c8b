//! The server's own counters: `pg_stat_statements` and WAL.
//!
//! Invariant: this program's own questions do not count.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use comfy_table::{Table, presets};
use tokio_postgres::{Client, NoTls};

/// Reads counters on a connection of its own.
pub(crate) struct Counters {
    client: Client,
}

/// Counter values at a moment, or differences.
#[derive(Debug, Clone, Default)]
pub(crate) struct Values {
    pub(crate) calls: f64,
    pub(crate) writing_commits: f64,
    pub(crate) wal_bytes: f64,
    functions: BTreeMap<String, (f64, f64)>,
}

impl Counters {
    pub(crate) async fn open(url: &str) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("cannot connect")?;
        tokio::spawn(connection);
        client
            .batch_execute("SET application_name = 'counters'; CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            .await
            .context("pg_stat_statements is needed: cargo xtask postgres loads it")?;
        Ok(Self { client })
    }

    pub(crate) async fn reset(&self) -> Result<()> {
        self.client.batch_execute("SELECT pg_stat_statements_reset()").await?;
        Ok(())
    }

    pub(crate) async fn read(&self) -> Result<Values> {
        let mut values = Values::default();
        // Top-level statements of the provider: calls of its functions, and what its listener sends.
        let rows = self
            .client
            .query(
                "SELECT query, calls::float8, wal_records::float8, total_exec_time::float8 FROM pg_stat_statements \
                 WHERE toplevel AND query !~ 'pg_stat_statements|pg_current_wal|application_name' \
                   AND query !~* '^(begin|commit|rollback|set |deallocate)'",
                &[],
            )
            .await?;
        for row in rows {
            let (query, calls, wal, time): (String, f64, f64, f64) = (row.get(0), row.get(1), row.get(2), row.get(3));
            // An ack and a claim may share a statement.
            let functions: Vec<&str> = query
                .split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .filter(|word| word.starts_with("sf_"))
                .collect();
            let name = match functions.as_slice() {
                [] => query.chars().take(60).collect(),
                names => names.join("+"),
            };
            let entry = values.functions.entry(name).or_default();
            entry.0 += calls;
            entry.1 += time;
            values.calls += calls;
            if wal > 0.0 {
                values.writing_commits += calls;
            }
        }
        let row = self
            .client
            .query_one("SELECT (pg_current_wal_insert_lsn() - '0/0')::float8", &[])
            .await?;
        values.wal_bytes = row.get(0);
        Ok(values)
    }
}

impl Values {
    /// Statement counters start at zero with a reset; WAL does not.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            wal_bytes: self.wal_bytes - before.wal_bytes,
            ..self.clone()
        }
    }

    pub(crate) fn by_function(&self) -> Table {
        let mut table = Table::new();
        table
            .load_preset(presets::UTF8_FULL_CONDENSED)
            .set_header(["function", "calls", "ms", "ms per call"]);
        for (name, (calls, ms)) in &self.functions {
            table.add_row([
                name.clone(),
                format!("{calls:.0}"),
                format!("{ms:.1}"),
                format!("{:.3}", ms / calls),
            ]);
        }
        table
    }
}
