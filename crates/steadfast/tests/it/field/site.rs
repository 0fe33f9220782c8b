//! A store of this engine, workers upon it with settings of their own, and what a client sees of an instance.

use std::sync::Arc;
use std::time::{Duration, Instant};

use duroxide::runtime::registry::{ActivityRegistryBuilder, OrchestrationRegistryBuilder};
use duroxide::runtime::{OrchestrationStatus, Runtime, RuntimeOptions};
use duroxide::{Client, ErrorDetails, OrchestrationRegistry, providers::Provider, runtime::registry::ActivityRegistry};
use steadfast::DEFAULT_PAYLOAD_LIMIT;
use steadfast::embedded::EmbeddedProvider;
use steadfast::feed::Feed;
use steadfast::inspect::Inspect;
use steadfast::postgres::PostgresProvider;

use crate::harness::{Engine, database_url, fresh_schema};

/// How long a wait may take before the test has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the tests `postgres::<name>` and `embedded::<name>`.
macro_rules! on_both_engines {
    ($($(#[$attribute:meta])* $name:ident),* $(,)?) => {
        mod postgres {
            $($(#[$attribute])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::field::site::Site::new(crate::harness::Engine::Postgres)).await;
            })*
        }
        mod embedded {
            $($(#[$attribute])*
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::field::site::Site::new(crate::harness::Engine::Embedded)).await;
            })*
        }
    };
}
pub(super) use on_both_engines;

/// Where a store lives.
pub(super) enum Site {
    Schema(String),
    File(tempfile::TempDir),
}

impl Site {
    pub(super) fn new(engine: Engine) -> Self {
        match engine {
            Engine::Postgres => Self::Schema(fresh_schema()),
            Engine::Embedded => Self::File(tempfile::tempdir().expect("a folder")),
        }
    }

    pub(super) async fn open(&self) -> Arc<dyn Inspect> {
        self.open_with(DEFAULT_PAYLOAD_LIMIT).await
    }

    /// A provider with this payload limit.
    pub(super) async fn open_with(&self, payload_limit: usize) -> Arc<dyn Inspect> {
        match self {
            Self::Schema(schema) => {
                let builder = PostgresProvider::builder(&database_url()).schema(schema).pool_size(3);
                Arc::new(builder.payload_limit(payload_limit).connect().await.expect("open"))
            }
            Self::File(folder) => {
                let builder = EmbeddedProvider::builder(folder.path().join("store.db"));
                Arc::new(builder.payload_limit(payload_limit).open().await.expect("open"))
            }
        }
    }

    /// The change feed, and the provider that it belongs to.
    pub(super) async fn feed(&self) -> (Arc<dyn Inspect>, Feed) {
        match self {
            Self::Schema(schema) => {
                let builder = PostgresProvider::builder(&database_url()).schema(schema).pool_size(3);
                let provider = builder.connect().await.expect("open");
                let feed = provider.feed();
                (Arc::new(provider), feed)
            }
            Self::File(folder) => {
                let provider = EmbeddedProvider::open(folder.path().join("store.db"))
                    .await
                    .expect("open");
                let feed = provider.feed().expect("open the feed");
                (Arc::new(provider), feed)
            }
        }
    }

    /// A worker, as in a process of its own.
    pub(super) async fn work(
        &self,
        payload_limit: usize,
        activities: ActivityRegistryBuilder,
        orchestrations: OrchestrationRegistryBuilder,
    ) -> Worker {
        let options = RuntimeOptions {
            dispatcher_min_poll_interval: Duration::from_millis(20),
            ..RuntimeOptions::default()
        };
        let provider = self.open_with(payload_limit).await;
        Worker::start(provider, activities, orchestrations, options).await
    }
}

/// A runtime, its provider, and a client of that.
pub(super) struct Worker {
    pub(super) provider: Arc<dyn Inspect>,
    pub(super) client: Client,
    runtime: Arc<Runtime>,
}

impl Worker {
    pub(super) async fn start(
        provider: Arc<dyn Inspect>,
        activities: ActivityRegistryBuilder,
        orchestrations: OrchestrationRegistryBuilder,
        options: RuntimeOptions,
    ) -> Self {
        let shared = Arc::clone(&provider) as Arc<dyn Provider>;
        let runtime =
            Runtime::start_with_options(Arc::clone(&shared), activities.build(), orchestrations.build(), options).await;
        Self {
            provider,
            client: Client::new(shared),
            runtime,
        }
    }

    /// Starts an instance and waits for its end.
    pub(super) async fn run(&self, instance: &str, orchestration: &str, input: &str) -> Result<String, ErrorDetails> {
        let started = self.client.start_orchestration(instance, orchestration, input).await;
        started.expect("start an instance");
        self.ended(instance).await
    }

    /// The end of an instance.
    pub(super) async fn ended(&self, instance: &str) -> Result<String, ErrorDetails> {
        match self.client.wait_for_orchestration(instance, PATIENCE).await {
            Ok(OrchestrationStatus::Completed { output, .. }) => Ok(output),
            Ok(OrchestrationStatus::Failed { details, .. }) => Err(details),
            other => panic!("{} has not ended: {other:?}", &instance[..instance.len().min(60)]),
        }
    }

    /// Why an instance failed.
    pub(super) async fn failure(&self, instance: &str) -> String {
        self.ended(instance).await.expect_err("it fails").display_message()
    }

    pub(super) async fn stop(self) {
        self.runtime.shutdown(Some(5_000)).await;
        self.provider.close().await;
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
pub(super) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
