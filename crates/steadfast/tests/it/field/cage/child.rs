//! The caged processes: this test binary again, under `prlimit`, told by its environment where to work. A worker ends when
//! its standard input does, with its parent at the latest; a probe looks through one file and says what it found.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::{Provider, TagFilter};
use duroxide::runtime::{Runtime, RuntimeOptions, registry::ActivityRegistry};
use duroxide::{ActivityContext, OrchestrationContext};
use steadfast::embedded::EmbeddedProvider;
use steadfast::inspect::{Inspect, InstanceQuery};
use steadfast::postgres::PostgresProvider;

use super::HISTORY_LIMIT;
use crate::field::site::{Site, orchestrations};
use crate::harness::database_url;

/// Memory of the worker for histories that it has seen.
const CACHE: usize = 16 << 20;

const SCHEMA: &str = "STEADFAST_CAGE_SCHEMA";
const FILE: &str = "STEADFAST_CAGE_FILE";
const PROBE: &str = "STEADFAST_CAGE_PROBE";

/// This program once more, in a cage of so many bytes.
fn caged(bytes: usize) -> Command {
    let mut command = Command::new("prlimit");
    command
        .arg(format!("--data={bytes}"))
        .arg(std::env::current_exe().expect("the path of this program"))
        .args([
            "--exact",
            "field::cage::child::entry",
            "--nocapture",
            "--test-threads=1",
        ])
        // glibc gives each thread a heap of its own, raises the size from which it asks the system (up to 32 MiB) with every
        // large block that is freed, and keeps what it has: what is measured then is its habit, not what the worker holds.
        // So large blocks go back to the system when they are freed.
        .env("MALLOC_ARENA_MAX", "2")
        .env("MALLOC_MMAP_THRESHOLD_", "131072")
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    command
}

/// The running worker; killed when dropped.
pub(super) struct Caged(Child);

impl Caged {
    pub(super) fn start(site: &Site, bytes: usize) -> Self {
        let mut command = caged(bytes);
        match site {
            Site::Schema(schema) => command.env(SCHEMA, schema),
            Site::File(folder) => command.env(FILE, folder.path().join("store.db")),
        };
        Self(
            command
                .spawn()
                .expect("start the worker (prlimit is part of util-linux)"),
        )
    }

    /// The most memory that it ever had, in bytes. It must be alive.
    pub(super) fn peak(&mut self) -> usize {
        let ended = self.0.try_wait().expect("ask for it");
        assert!(ended.is_none(), "the worker has ended: {ended:?}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("its status");
        peak_in(&status).expect("its peak")
    }
}

impl Drop for Caged {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn peak_in(status: &str) -> Option<usize> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib = line.trim().strip_suffix(" kB")?;
    Some(kib.trim().parse::<usize>().ok()? * 1024)
}

/// What a caged look through a file came to.
pub(super) struct Probed {
    pub(super) status: ExitStatus,
    /// What it said of the file.
    pub(super) said: String,
    /// Its peak in bytes, as it said itself.
    pub(super) peak: usize,
}

/// Looks through the file at `path` in a cage.
pub(super) fn probe(path: &Path, bytes: usize) -> Probed {
    let output = caged(bytes).env(PROBE, path).stderr(Stdio::piped()).output();
    let output = output.expect("run the probe");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = |mark: &str| text.lines().find_map(|line| line.strip_prefix(mark).map(str::to_owned));
    Probed {
        status: output.status,
        said: line("said: ").unwrap_or(text.clone()),
        peak: line("peak: ").and_then(|n| n.parse().ok()).unwrap_or(0),
    }
}

/// Not a test: what the child runs.
#[test]
fn entry() {
    let place = |name| std::env::var(name).ok();
    let (schema, file, probe) = (place(SCHEMA), place(FILE), place(PROBE));
    if schema.is_none() && file.is_none() && probe.is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    if let Some(path) = probe {
        let said = runtime.block_on(look_through(Path::new(&path)));
        let status = std::fs::read_to_string("/proc/self/status").expect("its status");
        eprintln!(
            "\nsaid: {}\npeak: {}",
            said.replace('\n', " "),
            peak_in(&status).expect("its peak")
        );
        return;
    }
    let worker = runtime.block_on(work(schema, file));
    // Until the parent is gone.
    let _ = std::io::stdin().read(&mut [0]);
    drop(worker);
}

async fn work(schema: Option<String>, file: Option<String>) -> Arc<Runtime> {
    let provider: Arc<dyn Provider> = match schema {
        Some(schema) => {
            let builder = PostgresProvider::builder(&database_url()).schema(schema).pool_size(3);
            let builder = builder.history_limit(HISTORY_LIMIT).history_cache_bytes(CACHE);
            Arc::new(builder.connect().await.expect("open"))
        }
        None => {
            let path = PathBuf::from(file.expect("a path"));
            let builder = EmbeddedProvider::builder(path).readers(1);
            let builder = builder.history_limit(HISTORY_LIMIT).history_cache_bytes(CACHE);
            Arc::new(builder.open().await.expect("open"))
        }
    };
    let length = |input: String| Ok::<_, String>(input.len().to_string());
    let workflows = orchestrations()
        .register("length", move |_: OrchestrationContext, input: String| async move {
            length(input)
        })
        .register("wait", |ctx: OrchestrationContext, _: String| async move {
            ctx.schedule_wait("go").await;
            Ok("went".to_owned())
        })
        .register("call", |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_activity("length", input).await
        });
    let activities = ActivityRegistry::builder()
        .register("length", move |_: ActivityContext, input: String| async move {
            length(input)
        });
    let options = RuntimeOptions {
        orchestration_concurrency: 2,
        worker_concurrency: 2,
        ..RuntimeOptions::default()
    };
    Runtime::start_with_options(provider, activities.build(), workflows.build(), options).await
}

/// Opens a file, reads all that is in it, and takes what is due: every step may fail, and must say so.
async fn look_through(path: &Path) -> String {
    let builder = EmbeddedProvider::builder(path).trouble_timeout(Duration::from_millis(200));
    let store = match builder.retry_timeout(Duration::from_millis(200)).open().await {
        Ok(store) => store,
        Err(error) => return format!("not opened: {:?}: {error}", error.kind()),
    };
    let mut refused = Vec::new();
    let mut note = |what: &str, error: String| refused.push(format!("{what}: {error}"));
    let query = InstanceQuery {
        limit: 100,
        ..InstanceQuery::default()
    };
    let instances = store.instances(query).await.unwrap_or_else(|error| {
        note("instances", error.to_string());
        Vec::new()
    });
    for instance in instances {
        if let Err(error) = store.read(&instance.instance_id).await {
            note("read", error.to_string());
        }
    }
    if let Err(error) = store.queues().await {
        note("queues", error.to_string());
    }
    let (lease, none) = (Duration::from_secs(5), Duration::ZERO);
    for _ in 0..8 {
        match store.fetch_orchestration_item(lease, none, None).await {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => {
                note("fetch", error.to_string());
                break;
            }
        }
    }
    if let Err(error) = store.fetch_work_item(lease, none, None, &TagFilter::Any).await {
        note("work", error.to_string());
    }
    Inspect::close(&store).await;
    if refused.is_empty() {
        "worked".to_owned()
    } else {
        format!("opened, but {}", refused.join("; "))
    }
}
