//! The workloads: registered once, run by name, every result checked.
//!
//! Invariant: time is taken around exactly what the scenario names; an instance that ends wrongly fails the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cpu_time::ProcessTime;
use duroxide::provider_stress_tests::parallel_orchestrations::ProviderStressFactory;
use duroxide::providers::Provider;
use duroxide::runtime::registry::ActivityRegistry;
use duroxide::runtime::{Runtime, RuntimeOptions};
use duroxide::{ActivityContext, Client, OrchestrationContext, OrchestrationRegistry, OrchestrationStatus};
use tokio::sync::mpsc;

use crate::observed::Observed;
use crate::protocol::{Measure, Scenario, Task};

/// Longest time that an instance may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A runtime on an open store.
pub struct Stage {
    provider: Arc<dyn Provider>,
    /// None where the workload brings its own.
    runtime: Option<Arc<Runtime>>,
    client: Client,
    completions: tokio::sync::Mutex<mpsc::UnboundedReceiver<Instant>>,
    started: AtomicUsize,
}

impl Stage {
    /// Starts a runtime with so many slots of each kind, none with 0; everything else is duroxide's default.
    pub async fn start(provider: Arc<dyn Provider>, slots: usize) -> Self {
        let (observed, completions) = Observed::new(Arc::clone(&provider));
        let store: Arc<dyn Provider> = Arc::new(observed);
        let options = RuntimeOptions {
            orchestration_concurrency: slots,
            worker_concurrency: slots,
            ..RuntimeOptions::default()
        };
        let runtime = if slots == 0 {
            None
        } else {
            Some(Runtime::start_with_options(Arc::clone(&store), activities(), orchestrations(), options).await)
        };
        Self {
            provider,
            runtime,
            client: Client::new(store),
            completions: tokio::sync::Mutex::new(completions),
            started: AtomicUsize::new(0),
        }
    }

    /// Runs a workload.
    ///
    /// # Errors
    /// When a call fails or an instance does not end as it should.
    pub async fn run(&self, task: &Task) -> Result<Measure> {
        let mut completions = self.completions.lock().await;
        while completions.try_recv().is_ok() {}
        let cpu = ProcessTime::now();
        let mut measure = match task.scenario {
            Scenario::FanOut { payload } => {
                let input = "x".repeat(payload);
                self.many("fan_out", &input, &payload_sum(payload), task.count, 5)
                    .await?
            }
            Scenario::Chain { steps } => {
                let input = steps.to_string();
                self.many("chain", &input, &input, task.count, steps).await?
            }
            Scenario::Tree { children } => {
                let input = children.to_string();
                self.many("tree", &input, &input, task.count, children).await?
            }
            Scenario::Timers => self.timers(task.count).await?,
            Scenario::Signals => self.signals(task.count).await?,
            Scenario::Latency { elsewhere } => self.latency(task.count, elsewhere, &mut completions).await?,
            Scenario::UpstreamParallel | Scenario::UpstreamLarge => self.upstream(task.scenario).await?,
        };
        measure.cpu_seconds = cpu.elapsed().as_secs_f64();
        Ok(measure)
    }

    fn ids(&self, count: usize) -> Vec<String> {
        let first = self.started.fetch_add(count, Ordering::Relaxed);
        (first..first + count).map(|n| format!("i-{n}")).collect()
    }

    async fn start_all(&self, ids: &[String], orchestration: &str, input: &str) -> Result<()> {
        let starts = ids
            .iter()
            .map(|id| self.client.start_orchestration(id, orchestration, input));
        futures_util::future::try_join_all(starts).await?;
        Ok(())
    }

    /// One after the other: a client that waits polls, and many that wait at once would be what is measured.
    async fn expect_all(&self, ids: &[String], wanted: &str) -> Result<()> {
        for id in ids {
            match self.client.wait_for_orchestration(id, PATIENCE).await? {
                OrchestrationStatus::Completed { output, .. } if output == wanted => {}
                other => bail!("{id} ended as {:.200}", format!("{other:?}")),
            }
        }
        Ok(())
    }

    async fn many(&self, name: &str, input: &str, wanted: &str, count: usize, each: usize) -> Result<Measure> {
        let ids = self.ids(count);
        let begun = Instant::now();
        self.start_all(&ids, name, input).await?;
        self.expect_all(&ids, wanted).await?;
        Ok(measured(count, count * each, begun.elapsed()))
    }

    async fn timers(&self, count: usize) -> Result<Measure> {
        let ids = self.ids(count);
        // All are asleep by then: the slowest provider starts some hundreds a second.
        let due = Instant::now() + Duration::from_millis(2000 + 5 * count as u64);
        let starts = ids.iter().map(|id| async move {
            let delay_ms = due.saturating_duration_since(Instant::now()).as_millis();
            self.client.start_orchestration(id, "timer", delay_ms.to_string()).await
        });
        futures_util::future::try_join_all(starts).await?;
        if Instant::now() > due {
            bail!("the starts took longer than the timers");
        }
        self.expect_all(&ids, "rang").await?;
        Ok(measured(count, 0, due.elapsed()))
    }

    async fn signals(&self, count: usize) -> Result<Measure> {
        let ids = self.ids(count);
        self.start_all(&ids, "signal", "").await?;
        for id in &ids {
            // Waiting once its first turn is in its history.
            while self.provider.read(id).await?.len() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let begun = Instant::now();
        let signals = ids.iter().map(|id| self.client.raise_event(id, "go", "now"));
        futures_util::future::try_join_all(signals).await?;
        self.expect_all(&ids, "now").await?;
        Ok(measured(count, 0, begun.elapsed()))
    }

    async fn latency(
        &self,
        count: usize,
        elsewhere: bool,
        completions: &mut mpsc::UnboundedReceiver<Instant>,
    ) -> Result<Measure> {
        let mut latencies_us = Vec::with_capacity(count);
        let begun = Instant::now();
        for id in self.ids(count) {
            // Not in step with anybody's polling.
            let pause = 20 + (latencies_us.len() as u64 * 7) % 31;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let started = Instant::now();
            self.client.start_orchestration(&id, "chain", "3").await?;
            let completed = tokio::time::timeout(PATIENCE, async {
                if elsewhere {
                    self.seen_completed(&id).await
                } else {
                    completions.recv().await.context("the runtime is gone")
                }
            })
            .await??;
            latencies_us.push(u64::try_from(completed.duration_since(started).as_micros())?);
            self.expect_all(&[id], "3").await?;
        }
        Ok(Measure {
            latencies_us,
            ..measured(count, 3 * count, begun.elapsed())
        })
    }

    /// When the status is first seen to be final.
    async fn seen_completed(&self, id: &str) -> Result<Instant> {
        loop {
            match self.client.get_orchestration_status(id).await? {
                OrchestrationStatus::Running { .. } | OrchestrationStatus::NotFound => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                _ => return Ok(Instant::now()),
            }
        }
    }

    async fn upstream(&self, scenario: Scenario) -> Result<Measure> {
        let factory = Same(Arc::clone(&self.provider));
        let failed = |e: Box<dyn std::error::Error>| anyhow::anyhow!("{e}");
        let result = if scenario == Scenario::UpstreamParallel {
            duroxide::provider_stress_tests::parallel_orchestrations::run_parallel_orchestrations_test_with_config(
                &factory,
                duroxide::provider_stress_tests::StressTestConfig {
                    duration_secs: 5,
                    ..Default::default()
                },
            )
            .await
            .map_err(failed)?
        } else {
            duroxide::provider_stress_tests::large_payload::run_large_payload_test(&factory)
                .await
                .map_err(failed)?
        };
        if result.completed == 0 || result.failed > 0 {
            bail!("{} completed, {} failed", result.completed, result.failed);
        }
        Ok(Measure {
            instances: result.completed as u64,
            activities: (result.activity_throughput * result.total_time.as_secs_f64()).round() as u64,
            seconds: result.total_time.as_secs_f64(),
            ..Measure::default()
        })
    }

    /// Stops the runtime.
    pub async fn stop(self) {
        if let Some(runtime) = self.runtime {
            runtime.shutdown(Some(1000)).await;
        }
    }
}

/// Gives the stress tests the store that is open.
struct Same(Arc<dyn Provider>);

#[async_trait::async_trait]
impl ProviderStressFactory for Same {
    async fn create_provider(&self) -> Arc<dyn Provider> {
        Arc::clone(&self.0)
    }
}

fn measured(instances: usize, activities: usize, elapsed: Duration) -> Measure {
    Measure {
        instances: instances as u64,
        activities: activities as u64,
        seconds: elapsed.as_secs_f64(),
        ..Measure::default()
    }
}

/// What five activities make of `payload` bytes each.
fn payload_sum(payload: usize) -> String {
    (5 * payload).to_string()
}

fn activities() -> ActivityRegistry {
    ActivityRegistry::builder()
        .register("echo", |_: ActivityContext, input: String| async move { Ok(input) })
        .build()
}

fn orchestrations() -> OrchestrationRegistry {
    OrchestrationRegistry::builder()
        .register("fan_out", |ctx: OrchestrationContext, input: String| async move {
            let calls: Vec<_> = (0..5).map(|_| ctx.schedule_activity("echo", input.clone())).collect();
            let mut bytes = 0;
            for result in ctx.join(calls).await {
                bytes += result?.len();
            }
            Ok(bytes.to_string())
        })
        .register("chain", |ctx: OrchestrationContext, input: String| async move {
            let steps: usize = input.parse().map_err(|e| format!("{e}"))?;
            let mut done = 0usize;
            for n in 0..steps {
                let echoed = ctx.schedule_activity("echo", n.to_string()).await?;
                done += usize::from(echoed == n.to_string());
            }
            Ok(done.to_string())
        })
        .register("tree", |ctx: OrchestrationContext, input: String| async move {
            let children: usize = input.parse().map_err(|e| format!("{e}"))?;
            let calls: Vec<_> = (0..children)
                .map(|_| ctx.schedule_sub_orchestration("chain", "1"))
                .collect();
            let mut done = 0usize;
            for result in ctx.join(calls).await {
                done += result?.parse::<usize>().map_err(|e| format!("{e}"))?;
            }
            Ok(done.to_string())
        })
        .register("timer", |ctx: OrchestrationContext, input: String| async move {
            let delay_ms: u64 = input.parse().map_err(|e| format!("{e}"))?;
            ctx.schedule_timer(Duration::from_millis(delay_ms)).await;
            Ok("rang".to_owned())
        })
        .register("signal", |ctx: OrchestrationContext, _: String| async move {
            Ok(ctx.schedule_wait("go").await)
        })
        .build()
}
