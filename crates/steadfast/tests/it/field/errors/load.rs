//! A load through duroxide's runtime as production runs it, and the judgement: what was acknowledged ends, and completes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use duroxide::providers::Provider;
use duroxide::runtime::registry::{ActivityRegistry, OrchestrationRegistry};
use duroxide::runtime::{OrchestrationStatus, Runtime, RuntimeOptions};
use duroxide::{ActivityContext, Client, OrchestrationContext};
use tokio::task::JoinHandle;

/// How long everything may take to complete after the trouble. Nothing waits this long when all is well.
const PATIENCE: Duration = Duration::from_secs(240);

/// So many clients start an instance, wait a while for its end, and start the next: what is under way is bounded by what
/// the store carries, on a slow machine too.
const STARTERS: usize = 12;
/// How long a client waits for one instance before it starts the next.
const A_WHILE: Duration = Duration::from_secs(5);

/// Workers on a store, and clients that start instances all the time.
pub(crate) struct Load {
    runtime: Arc<Runtime>,
    client: Client,
    provider: Arc<dyn Provider>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    starters: Vec<JoinHandle<()>>,
    verdict: Verdict,
}

/// What became of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) acknowledged: usize,
    /// Instances that did not complete, and what they say.
    pub(crate) failed: Vec<String>,
}

impl Verdict {
    /// Nothing that was acknowledged failed, and there was something.
    pub(crate) fn assert_sound(&self, what: &str) {
        assert!(self.acknowledged > 0, "{what}: nothing was started");
        assert!(
            self.failed.is_empty(),
            "{what}: {} of {} acknowledged starts did not complete; the first: {}",
            self.failed.len(),
            self.acknowledged,
            self.failed[0]
        );
    }
}

fn activities() -> ActivityRegistry {
    ActivityRegistry::builder()
        .register("step", |ctx: ActivityContext, input: String| async move {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(20)) => Ok(input),
                () = ctx.cancelled() => Err("it was cancelled".to_owned()),
            }
        })
        .build()
}

/// What a workflow can ask for: activities, a timer, a child, a session, a status, key-values.
fn orchestrations() -> OrchestrationRegistry {
    OrchestrationRegistry::builder()
        .register("child", |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_activity("step", input).await
        })
        .register("whole", |ctx: OrchestrationContext, input: String| async move {
            ctx.set_custom_status("begun");
            ctx.set_kv_value("k", input.clone());
            let first = ctx.schedule_activity("step", input).await?;
            ctx.schedule_timer(Duration::from_millis(30)).await;
            let second = ctx.schedule_activity_on_session("step", first, "s").await?;
            ctx.schedule_sub_orchestration("child", second).await
        })
        .build()
}

impl Load {
    /// Begins it. Each starter pauses for so long between two starts.
    pub(crate) async fn begin(provider: Arc<dyn Provider>, options: RuntimeOptions, pause: Duration) -> Self {
        Self::begin_with(provider, options, pause, STARTERS).await
    }

    /// The same with so many starters.
    pub(crate) async fn begin_with(
        provider: Arc<dyn Provider>,
        options: RuntimeOptions,
        pause: Duration,
        starters: usize,
    ) -> Self {
        let runtime = Runtime::start_with_options(Arc::clone(&provider), activities(), orchestrations(), options).await;
        let client = Client::new(Arc::clone(&provider));
        let (acknowledged, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(AtomicBool::new(false)));
        let starter = |number: usize| {
            let (client, acknowledged, stop) = (client.clone(), Arc::clone(&acknowledged), Arc::clone(&stop));
            tokio::spawn(async move {
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let instance = format!("i{number}-{n}");
                    if client.start_orchestration(&instance, "whole", &instance).await.is_ok() {
                        acknowledged.lock().unwrap().push(instance.clone());
                        // How it ends is judged later.
                        let _ = client.wait_for_orchestration(&instance, A_WHILE).await;
                    }
                    tokio::time::sleep(pause).await;
                }
            })
        };
        Self {
            starters: (0..starters).map(starter).collect(),
            runtime,
            client,
            provider,
            acknowledged,
            stop,
            verdict: Verdict::default(),
        }
    }

    /// Waits until so many instances have been started, so that trouble meets work of every kind.
    pub(crate) async fn reached(&self, instances: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.acknowledged.lock().unwrap().len() < instances {
            assert!(Instant::now() < deadline, "{instances} instances were not started");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until everything that was acknowledged so far has ended, and judges it.
    pub(crate) async fn judge(&mut self) {
        let instances = std::mem::take(&mut *self.acknowledged.lock().unwrap());
        self.verdict.acknowledged += instances.len();
        let deadline = Instant::now() + PATIENCE;
        for instance in instances {
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = self
                .client
                .wait_for_orchestration(&instance, left.max(Duration::from_millis(100)));
            match ended.await {
                Ok(OrchestrationStatus::Completed { output, .. }) if output == instance => {}
                Ok(other) => self.verdict.failed.push(format!("{instance}: {other:?}")),
                Err(error) => {
                    let history = self.provider.read(&instance).await;
                    self.verdict.failed.push(format!("{instance}: {error}; {history:?}"));
                }
            }
        }
    }

    /// Once the trouble is over: starts no more, and waits until all has ended.
    pub(crate) async fn settle(mut self) -> Verdict {
        self.stop.store(true, Ordering::SeqCst);
        for starter in std::mem::take(&mut self.starters) {
            starter.await.expect("no panic");
        }
        self.judge().await;
        self.runtime.shutdown(Some(5_000)).await;
        self.verdict
    }
}
