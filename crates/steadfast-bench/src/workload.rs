//! The workload: orchestrations that fan out to five activities and gather their results.
//!
//! Invariant: every orchestration's result is checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use duroxide::providers::Provider;
use duroxide::runtime::registry::ActivityRegistry;
use duroxide::runtime::{Runtime, RuntimeOptions};
use duroxide::{ActivityContext, Client, OrchestrationContext, OrchestrationRegistry, OrchestrationStatus};
use futures_util::{StreamExt, TryStreamExt};
use steadfast::embedded::EmbeddedProvider;
use steadfast::feed::Level;
use steadfast::postgres::PostgresProvider;

/// Concurrency of a runtime.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slots {
    pub(crate) orchestrations: usize,
    pub(crate) activities: usize,
}

impl Slots {
    pub(crate) fn both(n: usize) -> Self {
        Self {
            orchestrations: n,
            activities: n,
        }
    }
}

/// Where it runs.
enum Store {
    Schema(PostgresProvider),
    /// In a folder that is removed with it.
    File(EmbeddedProvider, tempfile::TempDir),
}

/// A runtime on a fresh store.
pub(crate) struct Workload {
    store: Store,
    runtime: Arc<Runtime>,
    client: Client,
    turns: Arc<AtomicU64>,
    started: AtomicUsize,
}

static SCHEMAS: AtomicUsize = AtomicUsize::new(0);

impl Workload {
    pub(crate) async fn open(url: &str, slots: Slots) -> Result<Self> {
        Self::open_with(url, slots, Level::default()).await
    }

    /// As [`open`](Self::open), with this much recorded in the change feed.
    pub(crate) async fn open_with(url: &str, slots: Slots, level: Level) -> Result<Self> {
        let schema = format!(
            "bench_{}_{}",
            std::process::id(),
            SCHEMAS.fetch_add(1, Ordering::Relaxed)
        );
        let opened = PostgresProvider::builder(url)
            .schema(schema)
            .feed(level)
            .connect()
            .await?;
        let provider: Arc<dyn Provider> = Arc::new(opened.clone());
        Ok(Self::over(Store::Schema(opened), provider, slots).await)
    }

    /// In a file, on the disk of the machine's temporary files.
    pub(crate) async fn open_embedded(slots: Slots, level: Level) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let opened = EmbeddedProvider::builder(folder.path().join("store.db")).feed(level);
        let opened = opened.open().await?;
        let provider: Arc<dyn Provider> = Arc::new(opened.clone());
        Ok(Self::over(Store::File(opened, folder), provider, slots).await)
    }

    async fn over(store: Store, provider: Arc<dyn Provider>, slots: Slots) -> Self {
        let turns = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&turns);
        let activities = ActivityRegistry::builder()
            .register("double", |_: ActivityContext, input: String| async move {
                let n: u64 = input.parse().map_err(|e| format!("{e}"))?;
                Ok((2 * n).to_string())
            })
            .build();
        let orchestrations = OrchestrationRegistry::builder()
            .register("fan_out", move |ctx: OrchestrationContext, _: String| {
                counted.fetch_add(1, Ordering::Relaxed);
                async move {
                    let calls: Vec<_> = (0..5).map(|n| ctx.schedule_activity("double", n.to_string())).collect();
                    let mut sum = 0u64;
                    for result in ctx.join(calls).await {
                        sum += result?.parse::<u64>().map_err(|e| format!("{e}"))?;
                    }
                    Ok(sum.to_string())
                }
            })
            .build();
        let options = RuntimeOptions {
            orchestration_concurrency: slots.orchestrations,
            worker_concurrency: slots.activities,
            ..RuntimeOptions::default()
        };
        let runtime = Runtime::start_with_options(Arc::clone(&provider), activities, orchestrations, options).await;
        Self {
            store,
            runtime,
            client: Client::new(provider),
            turns,
            started: AtomicUsize::new(0),
        }
    }

    /// Connections are open, statements prepared, the listener listens.
    pub(crate) async fn warm_up(&self) -> Result<()> {
        self.fan_outs(20).await?;
        self.turns.store(0, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(())
    }

    /// Orchestration turns since the warm-up, as the orchestrations themselves counted them.
    pub(crate) fn turns(&self) -> f64 {
        self.turns.load(Ordering::Relaxed) as f64
    }

    /// Runs so many at once and checks each; returns how long it took.
    pub(crate) async fn fan_outs(&self, count: usize) -> Result<Duration> {
        let first = self.started.fetch_add(count, Ordering::Relaxed);
        let ids: Vec<String> = (first..first + count).map(|n| format!("fan-{n}")).collect();
        let begun = Instant::now();
        let starts = ids.iter().map(|id| self.client.start_orchestration(id, "fan_out", ""));
        futures_util::future::try_join_all(starts).await?;
        for id in &ids {
            match self.client.wait_for_orchestration(id, Duration::from_secs(120)).await? {
                OrchestrationStatus::Completed { output, .. } if output == "20" => {}
                other => bail!("{id} ended as {other:?}"),
            }
        }
        Ok(begun.elapsed())
    }

    /// As [`fan_outs`](Self::fan_outs), with so many under way at a time, each waited for by somebody of its own: where a look
    /// at one takes long, looking at one after the other would be what is measured.
    pub(crate) async fn fan_outs_at_once(&self, count: usize, at_once: usize) -> Result<Duration> {
        let begun = Instant::now();
        let all = (0..count).map(|_| self.fan_outs(1));
        let runs = futures_util::stream::iter(all).buffer_unordered(at_once);
        runs.try_collect::<Vec<_>>().await?;
        Ok(begun.elapsed())
    }

    pub(crate) async fn close(self) -> Result<()> {
        self.runtime.shutdown(Some(1000)).await;
        match self.store {
            Store::Schema(provider) => {
                provider.cleanup_schema().await?;
                provider.close().await;
            }
            Store::File(provider, folder) => {
                provider.close().await;
                folder.close()?;
            }
        }
        Ok(())
    }
}
