//! What a run cost the server: statements, writing transactions, WAL, dead rows, CPU time.
//!
//! Invariant: figures are the server's own or the kernel's; this program's questions are taken before and after, not
//! meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, NoTls};

/// A server under measurement.
pub(crate) struct Server {
    client: Client,
    postmaster: Option<u32>,
}

/// Costs between two moments.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Costs {
    /// Top-level statements, each a round trip; needs `pg_stat_statements`.
    pub(crate) statements: Option<f64>,
    /// Transactions that were given an id: those that wrote.
    pub(crate) writing_transactions: f64,
    pub(crate) wal_bytes: f64,
    /// CPU seconds of all server processes; only where the server runs on this machine.
    pub(crate) server_cpu_seconds: Option<f64>,
}

/// What the server is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) version: String,
    /// name=value of what decides durability and speed.
    pub(crate) settings: Vec<String>,
}

struct Moment {
    statements: Option<f64>,
    xids: f64,
    wal_bytes: f64,
    cpu_seconds: Option<f64>,
}

/// Counters at the beginning of a run.
pub(crate) struct Started(Moment);

/// Settings that decide durability and speed.
const SETTINGS: &[&str] = &[
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "shared_buffers",
    "max_wal_size",
    "max_connections",
];

impl Server {
    pub(crate) async fn open(url: &str) -> Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("cannot connect")?;
        tokio::spawn(connection);
        // Only a measurement is lost where it cannot be made.
        let _ = client
            .batch_execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            .await;
        let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
        let postmaster = u32::try_from(backend).ok().and_then(parent_of);
        Ok(Self { client, postmaster })
    }

    pub(crate) async fn describe(&self) -> Result<Description> {
        let version = self
            .client
            .query_one("SELECT current_setting('server_version')", &[])
            .await?;
        let rows = self
            .client
            .query(
                "SELECT name || '=' || current_setting(name) FROM pg_settings WHERE name = ANY ($1) ORDER BY name",
                &[&SETTINGS],
            )
            .await?;
        Ok(Description {
            version: version.get(0),
            settings: rows.iter().map(|r| r.get(0)).collect(),
        })
    }

    pub(crate) async fn start(&self) -> Result<Started> {
        Ok(Started(self.moment().await?))
    }

    pub(crate) async fn since(&self, started: &Started) -> Result<Costs> {
        let (before, now) = (&started.0, self.moment().await?);
        let between = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| b - a);
        Ok(Costs {
            statements: between(before.statements, now.statements),
            writing_transactions: now.xids - before.xids,
            wal_bytes: now.wal_bytes - before.wal_bytes,
            server_cpu_seconds: between(before.cpu_seconds, now.cpu_seconds),
        })
    }

    async fn moment(&self) -> Result<Moment> {
        let row = self
            .client
            .query_one(
                // The name keeps it out of the count below.
                "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::float8 AS pg_stat_xids, \
                 pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8",
                &[],
            )
            .await?;
        let statements = self
            .client
            .query_one(
                "SELECT coalesce(sum(calls), 0)::float8 FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat%'",
                &[],
            )
            .await
            .ok();
        Ok(Moment {
            statements: statements.map(|r| r.get(0)),
            xids: row.get(0),
            wal_bytes: row.get(1),
            cpu_seconds: self.postmaster.and_then(family_cpu_seconds),
        })
    }

    /// Rows that the tables of a schema have seen die: updates and deletes. After its sessions have ended, when all have
    /// reported.
    pub(crate) async fn dead_rows(&self, schema: &str) -> Result<f64> {
        let row = self
            .client
            .query_one(
                "SELECT coalesce(sum(n_tup_upd + n_tup_del), 0)::float8 FROM pg_stat_user_tables WHERE schemaname = $1",
                &[&schema],
            )
            .await?;
        Ok(row.get(0))
    }

    pub(crate) async fn drop_schema(&self, schema: &str) -> Result<()> {
        let sql = "SELECT format('DROP SCHEMA IF EXISTS %I CASCADE', $1::text)";
        let drop: String = self.client.query_one(sql, &[&schema]).await?.get(0);
        self.client.batch_execute(&drop).await?;
        Ok(())
    }

    /// Median time of a commit that writes one row, one after the other.
    pub(crate) async fn commit_latency(&self) -> Result<Duration> {
        self.client
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS bench_floor (id integer PRIMARY KEY, n bigint); \
                INSERT INTO bench_floor VALUES (1, 0) ON CONFLICT DO NOTHING",
            )
            .await?;
        let write = self
            .client
            .prepare("UPDATE bench_floor SET n = n + 1 WHERE id = 1")
            .await?;
        let mut times = Vec::new();
        for _ in 0..300 {
            let begun = Instant::now();
            self.client.execute(&write, &[]).await?;
            times.push(begun.elapsed());
        }
        self.client.batch_execute("DROP TABLE bench_floor").await?;
        times.sort_unstable();
        Ok(times[times.len() / 2])
    }

    /// So that no run pays for the one before.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        self.client.batch_execute("CHECKPOINT").await?;
        Ok(())
    }
}

/// The fields of `/proc/<pid>/stat` behind the name, which may hold anything.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect())
}

fn parent_of(pid: u32) -> Option<u32> {
    u32::try_from(*stat(pid)?.get(1)?).ok()
}

/// CPU time of a process, of its children that ended, and of those that live.
fn family_cpu_seconds(pid: u32) -> Option<f64> {
    // Linux counts these in hundredths of a second on every architecture that Debian has.
    const TICKS: f64 = 100.0;
    let own = stat(pid)?;
    let mut ticks: u64 = own.get(11..15)?.iter().sum();
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let child = entry.file_name().to_str().and_then(|n| n.parse().ok()).and_then(stat);
        if let Some(fields) = child
            && fields.get(1) == Some(&u64::from(pid))
        {
            ticks += fields.get(11..15)?.iter().sum::<u64>();
        }
    }
    Some(ticks as f64 / TICKS)
}
