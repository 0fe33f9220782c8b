//! The PostgreSQL server of a run, seen and troubled from outside.
//!
//! Invariant: what is done to it can be undone; only a server of our own is stopped.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use private_postgres::{Cluster, Options};
use tokio_postgres::{Client, NoTls};

/// So few that they can be exhausted.
const MAX_CONNECTIONS: u32 = 70;

/// A server and the schema of the run.
pub(crate) struct Server {
    cluster: Option<Arc<Cluster>>,
    pub(crate) url: String,
    pub(crate) schema: String,
}

impl Server {
    /// The given one, or one of our own.
    pub(crate) fn new(url: Option<&str>, schema: &str) -> Result<Self> {
        let (cluster, url) = match url {
            Some(url) => (None, url.to_owned()),
            None => {
                let mut options = Options::under(std::env::temp_dir());
                options.max_connections = MAX_CONNECTIONS;
                let cluster = Cluster::start(options)?;
                let url = cluster.url();
                (Some(Arc::new(cluster)), url)
            }
        };
        Ok(Self {
            cluster,
            url,
            schema: schema.to_owned(),
        })
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.cluster.is_some()
    }

    /// `pg_ctl stop -m immediate`, or fast.
    pub(crate) async fn stop(&self, immediate: bool) -> Result<()> {
        let cluster = Arc::clone(self.cluster.as_ref().context("not our server")?);
        let stop = move || {
            if immediate {
                cluster.stop_immediate()
            } else {
                cluster.stop_fast()
            }
        };
        Ok(tokio::task::spawn_blocking(stop).await??)
    }

    pub(crate) async fn start(&self) -> Result<()> {
        let cluster = Arc::clone(self.cluster.as_ref().context("not our server")?);
        Ok(tokio::task::spawn_blocking(move || cluster.start_again()).await??)
    }

    /// A connection whose unqualified names are the schema's.
    pub(crate) async fn connect(&self) -> Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
        tokio::spawn(async move {
            // An error here also fails the statement that waits.
            let _ = connection.await;
        });
        client
            .execute(
                "SELECT pg_catalog.set_config('search_path', pg_catalog.quote_ident($1), false)",
                &[&self.schema],
            )
            .await?;
        Ok(client)
    }

    /// Ends about half of the others' connections.
    pub(crate) async fn terminate(&self) -> Result<()> {
        let client = self.connect().await?;
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND random() < 0.5";
        client.batch_execute(sql).await?;
        Ok(())
    }

    /// Takes every connection that is left.
    pub(crate) async fn exhaust(&self) -> Vec<Client> {
        let mut taken = Vec::new();
        while let Ok(client) = self.connect().await {
            taken.push(client);
            if taken.len() >= 200 {
                break;
            }
        }
        taken
    }

    /// Statements and waits for locks end soon, for connections made from now on; or (`false`) no longer.
    pub(crate) async fn hurry(&self, on: bool) -> Result<()> {
        let client = self.connect().await?;
        let database: String = client
            .query_one("SELECT quote_ident(current_database())", &[])
            .await?
            .get(0);
        for setting in ["statement_timeout", "lock_timeout"] {
            let change = if on {
                format!("SET {setting} = '40ms'")
            } else {
                format!("RESET {setting}")
            };
            client
                .batch_execute(&format!("ALTER DATABASE {database} {change}"))
                .await?;
        }
        self.terminate().await
    }

    /// A transaction that holds some instances and does not end until the connection is dropped.
    pub(crate) async fn hold(&self) -> Result<Client> {
        let client = self.connect().await?;
        client
            .batch_execute(
                "BEGIN; SELECT pg_current_xact_id();
                 SELECT FROM sf_instance WHERE status = 'Running' ORDER BY random() LIMIT 3 FOR UPDATE SKIP LOCKED;",
            )
            .await?;
        Ok(client)
    }

    /// Leases that reach further than their length: nobody's clock but the server's may have set them.
    pub(crate) async fn overdue(&self) -> Result<Vec<String>> {
        let client = self.connect().await?;
        let sql = "SELECT 'a turn of ' || i.instance_id FROM sf_turn t JOIN sf_instance i USING (instance_key)
                   WHERE t.claim IS NOT NULL AND t.available_at > clock_timestamp() + t.lease_ms * interval '1 ms'
                   UNION ALL
                   SELECT 'an activity of ' || i.instance_id FROM sf_work w JOIN sf_instance i USING (instance_key)
                   WHERE w.claim <> 0 AND w.available_at > clock_timestamp() + w.lease_ms * interval '1 ms'
                   UNION ALL
                   SELECT 'a session' FROM sf_session WHERE locked_until > clock_timestamp() + interval '5 min'";
        let rows = tokio::time::timeout(Duration::from_secs(5), client.query(sql, &[])).await??;
        Ok(rows.into_iter().map(|row| row.get(0)).collect())
    }

    /// What is queued or leased, and whom it is for.
    pub(crate) async fn queued(&self) -> Result<Vec<(String, String)>> {
        let sql = "SELECT 'an activity', i.instance_id FROM sf_work JOIN sf_instance i USING (instance_key)
                   UNION ALL SELECT 'a message', instance_id FROM sf_inbox
                   UNION ALL SELECT 'a routed message', i.instance_id FROM sf_message JOIN sf_instance i USING (instance_key)
                   UNION ALL SELECT 'a lease', i.instance_id FROM sf_turn t JOIN sf_instance i USING (instance_key)
                   WHERE t.claim IS NOT NULL
                   UNION ALL SELECT 'something set aside', instance_id FROM sf_quarantine";
        let rows = self.connect().await?.query(sql, &[]).await?;
        Ok(rows.into_iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}
