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

/// A runtime on a fresh schema.
pub(crate) struct Workload {
    provider: PostgresProvider,
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
        let provider = PostgresProvider::builder(url)
            .schema(schema)
            .feed(level)
            .connect()
            .await?;
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
        let store: Arc<dyn Provider> = Arc::new(provider.clone());
        let runtime = Runtime::start_with_options(Arc::clone(&store), activities, orchestrations, options).await;
        let client = Client::new(store);
        Ok(Self {
            provider,
            runtime,
            client,
            turns,
            started: AtomicUsize::new(0),
        })
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

    pub(crate) async fn close(self) -> Result<()> {
        self.runtime.shutdown(Some(1000)).await;
        self.provider.cleanup_schema().await?;
        self.provider.close().await;
        Ok(())
    }
}
