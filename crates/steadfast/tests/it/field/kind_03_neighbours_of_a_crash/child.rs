//! A worker in a process of its own: this test binary again, with the runtime and a store of either engine.
//!
//! Some of its activities and turns abort the process. It is started again as a supervisor would, and ends with its parent.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::Provider;
use duroxide::runtime::registry::{ActivityRegistry, OrchestrationRegistry};
use duroxide::runtime::{Runtime, RuntimeOptions};
use duroxide::{ActivityContext, OrchestrationContext};
use steadfast::embedded::EmbeddedProvider;
use steadfast::postgres::PostgresProvider;

use crate::harness::{database_url, fresh_schema};

const ROLE: &str = "STEADFAST_FIELD_CHILD";

/// Leases are short, so that a crash is noticed within the test, and as long as duroxide needs to renew them in time (it
/// does so every second at most).
const LEASE: Duration = Duration::from_secs(2);

/// A store that several processes open.
pub(in crate::field) enum Place {
    Postgres(String),
    Embedded(tempfile::TempDir),
}

impl Place {
    pub(in crate::field) fn both() -> [Self; 2] {
        let folder = tempfile::tempdir().expect("a folder for the file");
        [Self::Postgres(fresh_schema()), Self::Embedded(folder)]
    }

    fn name(&self) -> String {
        match self {
            Self::Postgres(schema) => format!("schema {schema}"),
            Self::Embedded(folder) => format!("file {}", folder.path().join("store.db").display()),
        }
    }

    pub(in crate::field) async fn open(&self) -> Arc<dyn Provider> {
        open(&self.name()).await
    }
}

async fn open(place: &str) -> Arc<dyn Provider> {
    match place.split_once(' ') {
        Some(("schema", schema)) => {
            let builder = PostgresProvider::builder(&database_url()).schema(schema.to_owned());
            Arc::new(builder.pool_size(3).connect().await.expect("open the schema"))
        }
        Some(("file", file)) => Arc::new(EmbeddedProvider::open(file).await.expect("open the file")),
        _ => panic!("no place: {place}"),
    }
}

/// A worker process; killed when dropped.
pub(in crate::field) struct Worker(Child);

impl Worker {
    pub(in crate::field) fn start(place: &Place) -> Self {
        let child = Command::new(std::env::current_exe().expect("the path of this program"))
            .args([
                "--exact",
                "field::kind_03_neighbours_of_a_crash::child::entry",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(ROLE, place.name())
            .env("STEADFAST_FIELD_PARENT", std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start a worker");
        Self(child)
    }

    /// Whether it has ended by itself.
    pub(in crate::field) fn ended(&mut self) -> bool {
        self.0.try_wait().expect("look after the worker").is_some()
    }

    /// Ends it as the kernel does.
    pub(in crate::field) fn kill(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The worker's life; in the parent it is a test that passes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry() {
    let Ok(place) = std::env::var(ROLE) else { return };
    let provider = open(&place).await;
    let _runtime = Runtime::start_with_options(
        provider,
        activities(),
        orchestrations(),
        // Attempts are the default.
        RuntimeOptions {
            orchestration_concurrency: 4,
            worker_concurrency: 4,
            orchestrator_lock_timeout: LEASE,
            worker_lock_timeout: LEASE,
            ..RuntimeOptions::default()
        },
    )
    .await;
    let parent = PathBuf::from(format!(
        "/proc/{}",
        std::env::var("STEADFAST_FIELD_PARENT").expect("a parent")
    ));
    while parent.exists() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    std::process::exit(1);
}

pub(in crate::field) fn activities() -> ActivityRegistry {
    ActivityRegistry::builder()
        .register("sleep", |_: ActivityContext, ms: String| async move {
            let ms = ms.parse().map_err(|e| format!("{e}"))?;
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(ms.to_string())
        })
        .register("abort", |_: ActivityContext, ms: String| async move {
            let ms = ms.parse().map_err(|e| format!("{e}"))?;
            tokio::time::sleep(Duration::from_millis(ms)).await;
            std::process::abort()
        })
        .build()
}

pub(in crate::field) fn orchestrations() -> OrchestrationRegistry {
    OrchestrationRegistry::builder()
        .register("call", |ctx: OrchestrationContext, input: String| async move {
            let (name, input) = input.split_once(' ').unwrap_or((&input, ""));
            ctx.schedule_activity(name, input).await
        })
        .register("abort-in-turn", |_: OrchestrationContext, _: String| async move {
            std::process::abort()
        })
        .register("chain", |ctx: OrchestrationContext, _: String| async move {
            for _ in 0..3 {
                ctx.schedule_timer(Duration::from_millis(300)).await;
            }
            Ok("chained".to_owned())
        })
        .register("count", count)
        // Waits for an event of queue B, then counts.
        .register("b-then-count", |ctx: OrchestrationContext, input: String| async move {
            match input.strip_prefix("b, then ") {
                Some(range) => match ctx.dequeue_event("B").await.as_str() {
                    "b" => ctx.continue_as_new(range).await,
                    other => Err(format!("saw {other} instead of b")),
                },
                None => count(ctx, input).await,
            }
        })
        .build()
}

/// Reads one event of queue A an execution, each of which must be the next number of the range.
async fn count(ctx: OrchestrationContext, range: String) -> Result<String, String> {
    let (next, end) = range.split_once(' ').ok_or("no range")?;
    let seen = ctx.dequeue_event("A").await;
    if seen != next {
        return Err(format!("saw {seen} instead of {next}"));
    }
    let next = next.parse::<usize>().map_err(|e| format!("{e}"))? + 1;
    if next.to_string() == end {
        return Ok(format!("saw {next}"));
    }
    ctx.continue_as_new(format!("{next} {end}")).await
}
