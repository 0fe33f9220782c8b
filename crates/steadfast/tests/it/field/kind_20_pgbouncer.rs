//! Kind 20: A real PgBouncer stands before the server, in each of its modes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use duroxide::providers::Provider;
use duroxide::runtime::registry::ActivityRegistry;
use duroxide::runtime::{OrchestrationStatus, Runtime, RuntimeOptions};
use duroxide::{ActivityContext, Client, OrchestrationContext, OrchestrationRegistry};
use private_postgres::{Cluster, Options, PgBouncer, PgBouncerOptions, PoolMode};
use steadfast::postgres::{Builder, ListenerState, LongPoll, Migrations, OpenErrorKind, PostgresProvider};

use crate::harness::{database_url, fresh_schema};

const PATIENCE: Duration = Duration::from_secs(60);
const MODES: [PoolMode; 3] = [PoolMode::Session, PoolMode::Transaction, PoolMode::Statement];

fn folder() -> PathBuf {
    std::env::current_exe()
        .expect("this program")
        .ancestors()
        .nth(3)
        .expect("target")
        .join("postgres")
}

/// A PgBouncer before the server of the tests.
fn bouncer(options: &PgBouncerOptions) -> PgBouncer {
    let url = database_url();
    let port = url
        .rsplit_once(':')
        .and_then(|(_, end)| end.split('/').next())
        .expect("a port");
    PgBouncer::start_before(port.parse().expect("a number"), &folder(), options).expect("start pgbouncer")
}

fn builder(url: &str, schema: &str, mode: PoolMode) -> Builder {
    PostgresProvider::builder(url)
        .schema(schema)
        .pool_size(3)
        .transaction_pooler(mode != PoolMode::Session)
}

async fn install(url: &str) -> String {
    let schema = fresh_schema();
    let provider = builder(url, &schema, PoolMode::Session)
        .connect()
        .await
        .expect("install");
    provider.close().await;
    schema
}

/// A worker with orchestrations of two activities.
struct Work {
    provider: PostgresProvider,
    client: Client,
    runtime: Arc<Runtime>,
}

impl Work {
    async fn on(builder: Builder) -> Self {
        let provider = builder
            .migrations(Migrations::Verify)
            .call_timeout(Duration::from_secs(2))
            .connect()
            .await
            .expect("open");
        let activities = ActivityRegistry::builder()
            .register("Echo", |_: ActivityContext, text: String| async move { Ok(text) })
            .build();
        let two = |ctx: OrchestrationContext, text: String| async move {
            let text = ctx.schedule_activity("Echo", text).await?;
            ctx.schedule_activity("Echo", text).await
        };
        let orchestrations = OrchestrationRegistry::builder().register("Two", two).build();
        let options = RuntimeOptions {
            orchestration_concurrency: 4,
            worker_concurrency: 4,
            ..RuntimeOptions::default()
        };
        let store: Arc<dyn Provider> = Arc::new(provider.clone());
        let runtime = Runtime::start_with_options(Arc::clone(&store), activities, orchestrations, options).await;
        Self {
            provider,
            client: Client::new(store),
            runtime,
        }
    }

    async fn begin(&self, name: &str, count: usize) {
        for n in 0..count {
            let id = format!("{name}-{n}");
            self.client
                .start_orchestration(&id, "Two", id.as_str())
                .await
                .expect("start");
        }
    }

    async fn end(&self, name: &str, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        for n in 0..count {
            let id = format!("{name}-{n}");
            let left = deadline.saturating_duration_since(Instant::now());
            match self.client.wait_for_orchestration(&id, left).await {
                Ok(OrchestrationStatus::Completed { output, .. }) => assert_eq!(output, id),
                other => panic!("{id}: {other:?}"),
            }
        }
    }

    async fn close(self) {
        self.runtime.shutdown(Some(1_000)).await;
        self.provider.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_runs_in_every_mode() {
    let schema = install(&database_url()).await;
    for mode in MODES {
        let bouncer = bouncer(&PgBouncerOptions::new(mode));
        let name = format!("{mode:?}");
        let work = Work::on(builder(&bouncer.url(), &schema, mode)).await;
        work.begin(&name, 10).await;
        work.end(&name, 10).await;
        if mode == PoolMode::Session {
            // Notifications pass: no different from the server itself.
            let deadline = Instant::now() + PATIENCE;
            while work.provider.health().listener != ListenerState::Listening {
                assert!(Instant::now() < deadline, "{:?}", work.provider.health());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        } else {
            assert_eq!(work.provider.health().listener, ListenerState::Polling);
        }
        work.close().await;
    }
}

#[tokio::test]
async fn installing_works_or_is_refused_by_name() {
    for mode in MODES {
        let bouncer = bouncer(&PgBouncerOptions::new(mode));
        let schema = fresh_schema();
        match builder(&bouncer.url(), &schema, mode).connect().await {
            Ok(provider) => {
                assert_ne!(mode, PoolMode::Statement);
                provider.close().await;
                let verified = builder(&bouncer.url(), &schema, mode).verify_schema().await;
                assert_eq!(verified.expect("verify"), []);
                let provider = builder(&bouncer.url(), &schema, mode).connect().await.expect("again");
                provider.cleanup_schema().await.expect("remove");
                provider.close().await;
            }
            Err(error) => {
                assert_eq!(mode, PoolMode::Statement, "{error}");
                assert_eq!(error.kind(), OpenErrorKind::Configuration, "{error}");
                assert!(error.to_string().contains("transactions"), "{error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_dies_in_the_middle_loses_nothing() {
    let schema = install(&database_url()).await;
    for mode in MODES {
        let bouncer = bouncer(&PgBouncerOptions::new(mode));
        let work = Work::on(builder(&bouncer.url(), &schema, mode)).await;
        let name = format!("killed {mode:?}");
        work.begin(&name, 20).await;
        bouncer.kill().expect("kill");
        bouncer.start_again().expect("start again");
        work.end(&name, 20).await;
        work.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_behind_the_pooler_loses_nothing() {
    let cluster = Cluster::start(Options::under(folder())).expect("a server");
    let schema = install(&cluster.url()).await;
    for mode in [PoolMode::Session, PoolMode::Transaction] {
        let bouncer = PgBouncer::start(&cluster, &folder(), &PgBouncerOptions::new(mode)).expect("start pgbouncer");
        let work = Work::on(builder(&bouncer.url(), &schema, mode)).await;
        let name = format!("restarted {mode:?}");
        work.begin(&name, 20).await;
        cluster.stop_immediate().expect("stop");
        cluster.start_again().expect("start again");
        work.end(&name, 20).await;
        work.close().await;
    }
}

/// Fewer servers than connections: those that get none wait in the pooler, and must not hold up the others for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewer_servers_than_connections_are_enough() {
    let schema = install(&database_url()).await;
    for (mode, servers) in [
        (PoolMode::Session, 3),
        (PoolMode::Transaction, 1),
        (PoolMode::Statement, 1),
    ] {
        let options = PgBouncerOptions {
            default_pool_size: servers,
            ..PgBouncerOptions::new(mode)
        };
        let bouncer = bouncer(&options);
        let url = format!("{}?connect_timeout=2", bouncer.url());
        let few = builder(&url, &schema, mode).pool_size(10);
        let work = Work::on(few).await;
        let name = format!("few {mode:?}");
        work.begin(&name, 20).await;
        work.end(&name, 20).await;
        work.close().await;
    }
}

/// Behind a pooler nobody hears of another process's work but by looking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_of_another_process_is_found_by_looking() {
    let schema = install(&database_url()).await;
    let bouncer = bouncer(&PgBouncerOptions::new(PoolMode::Transaction));
    let work = Work::on(builder(&bouncer.url(), &schema, PoolMode::Transaction)).await;
    let other = builder(&bouncer.url(), &schema, PoolMode::Transaction)
        .long_poll(LongPoll::disabled())
        .connect()
        .await
        .expect("open");
    let client = Client::new(Arc::new(other.clone()) as Arc<dyn Provider>);
    client
        .start_orchestration("elsewhere-0", "Two", "elsewhere-0")
        .await
        .expect("start");
    work.end("elsewhere", 1).await;
    work.close().await;
    other.close().await;
}
