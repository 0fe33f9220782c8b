//! What every scenario uses: a runtime over a store, and waits that end with the event they wait for.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use duroxide::providers::Provider;
use duroxide::runtime::registry::{
    ActivityRegistry, ActivityRegistryBuilder, OrchestrationRegistry, OrchestrationRegistryBuilder,
};
use duroxide::runtime::{OrchestrationStatus, Runtime, RuntimeOptions};
use duroxide::{AppErrorKind, Client, ErrorDetails, Event, EventKind};

use crate::harness::Store;

/// How long a wait may take before the scenario has failed. Nothing waits this long when all is well.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A runtime that works on a store, and a client of the same provider.
pub(super) struct Stage {
    pub(super) provider: Arc<dyn Provider>,
    pub(super) client: Client,
    runtime: Arc<Runtime>,
}

impl Stage {
    /// With a provider of its own, as in a process of its own.
    pub(super) async fn start(
        store: &Store,
        activities: ActivityRegistryBuilder,
        orchestrations: OrchestrationRegistryBuilder,
    ) -> Self {
        Self::start_with(store, activities, orchestrations, options()).await
    }

    /// As [`start`](Self::start), with options of its own.
    pub(super) async fn start_with(
        store: &Store,
        activities: ActivityRegistryBuilder,
        orchestrations: OrchestrationRegistryBuilder,
        options: RuntimeOptions,
    ) -> Self {
        let provider = store.open().await;
        let runtime = Runtime::start_with_options(
            Arc::clone(&provider),
            activities.build(),
            orchestrations.build(),
            options,
        )
        .await;
        Self {
            client: Client::new(Arc::clone(&provider)),
            provider,
            runtime,
        }
    }

    /// Starts an instance.
    pub(super) async fn begin(&self, instance: &str, orchestration: &str, input: &str) {
        self.client
            .start_orchestration(instance, orchestration, input)
            .await
            .expect("start an instance");
    }

    /// Starts an instance and waits for its output.
    pub(super) async fn run(&self, instance: &str, orchestration: &str, input: &str) -> String {
        self.begin(instance, orchestration, input).await;
        self.output(instance).await
    }

    /// The terminal status of an instance, once it has one.
    pub(super) async fn terminal(&self, instance: &str) -> OrchestrationStatus {
        match self.client.wait_for_orchestration(instance, PATIENCE).await {
            Ok(status) => status,
            Err(error) => panic!(
                "waiting for {instance}: {error}; history: {:#?}",
                self.history(instance).await
            ),
        }
    }

    /// The output of an instance that completes.
    pub(super) async fn output(&self, instance: &str) -> String {
        match self.terminal(instance).await {
            OrchestrationStatus::Completed { output, .. } => output,
            other => panic!("{instance} did not complete: {other:?}"),
        }
    }

    /// The error of an instance that fails.
    pub(super) async fn failure(&self, instance: &str) -> ErrorDetails {
        match self.terminal(instance).await {
            OrchestrationStatus::Failed { details, .. } => details,
            other => panic!("{instance} did not fail: {other:?}"),
        }
    }

    /// The reason for which an instance was cancelled.
    pub(super) async fn cancelled(&self, instance: &str) -> String {
        match self.failure(instance).await {
            ErrorDetails::Application {
                kind: AppErrorKind::Cancelled { reason },
                ..
            } => reason,
            other => panic!("{instance} failed otherwise than by cancellation: {other:?}"),
        }
    }

    /// The history of an instance's latest execution.
    pub(super) async fn history(&self, instance: &str) -> Vec<Event> {
        self.provider.read(instance).await.expect("read a history")
    }

    /// The history of one execution.
    pub(super) async fn execution(&self, instance: &str, execution: u64) -> Vec<Event> {
        self.client
            .read_execution_history(instance, execution)
            .await
            .expect("read an execution's history")
    }

    /// Waits until the latest execution's history holds so many events of a kind.
    pub(super) async fn reached(&self, instance: &str, count: usize, kind: &str) {
        eventually(&format!("{count} x {kind} in the history of {instance}"), async || {
            let found = self
                .history(instance)
                .await
                .iter()
                .filter(|event| kind_of(event) == kind)
                .count();
            (found >= count).then_some(())
        })
        .await;
    }

    /// Stops the runtime and lets what it has begun finish.
    pub(super) async fn stop(self) {
        self.runtime.shutdown(Some(5_000)).await;
    }

    /// Stops the runtime at once; what it was doing is left as it stands.
    pub(super) async fn kill(self) {
        self.runtime.shutdown(Some(0)).await;
    }
}

/// The usual options, with a short idle interval so that polling costs a scenario little time.
pub(super) fn options() -> RuntimeOptions {
    RuntimeOptions {
        dispatcher_min_poll_interval: Duration::from_millis(20),
        ..RuntimeOptions::default()
    }
}

/// No activities yet.
pub(super) fn activities() -> ActivityRegistryBuilder {
    ActivityRegistry::builder()
}

/// No orchestrations yet.
pub(super) fn orchestrations() -> OrchestrationRegistryBuilder {
    OrchestrationRegistry::builder()
}

/// Looks again and again until there is something to see.
pub(super) async fn eventually<T, F, L>(what: &str, mut look: L) -> T
where
    F: Future<Output = Option<T>>,
    L: FnMut() -> F,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The name of an event's kind, as it is stored.
pub(super) fn kind_of(event: &Event) -> String {
    let value = serde_json::to_value(&event.kind).expect("an event is JSON");
    value["type"].as_str().expect("an event has a type").to_owned()
}

/// The names of all kinds of a history, in order.
pub(super) fn kinds(history: &[Event]) -> Vec<String> {
    history.iter().map(kind_of).collect()
}

/// How many events of a kind a history holds.
pub(super) fn count(history: &[Event], kind: &str) -> usize {
    history.iter().filter(|event| kind_of(event) == kind).count()
}

/// Event ids must be 1, 2, 3 and so on, and every completion must name the event that it answers.
pub(super) fn assert_sound(history: &[Event]) {
    for (position, event) in history.iter().enumerate() {
        assert_eq!(
            event.event_id,
            position as u64 + 1,
            "event ids have a gap: {history:#?}"
        );
        let needed = match event.kind {
            EventKind::ActivityCompleted { .. } | EventKind::ActivityFailed { .. } => "ActivityScheduled",
            EventKind::TimerFired { .. } => "TimerCreated",
            EventKind::SubOrchestrationCompleted { .. } | EventKind::SubOrchestrationFailed { .. } => {
                "SubOrchestrationScheduled"
            }
            _ => continue,
        };
        let source = event.source_event_id.expect("a completion names its source");
        assert!(source < event.event_id, "answered before it was asked: {history:#?}");
        assert_eq!(kind_of(&history[source as usize - 1]), needed, "{history:#?}");
    }
}
