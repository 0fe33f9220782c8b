//! The caged worker: this test binary again, under `prlimit`, told by its environment where to work. It ends when its
//! standard input does, with its parent at the latest.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use duroxide::OrchestrationContext;
use duroxide::providers::Provider;
use duroxide::runtime::{Runtime, registry::ActivityRegistry};
use steadfast::embedded::EmbeddedProvider;
use steadfast::postgres::PostgresProvider;

use crate::field::site::{Site, orchestrations};
use crate::harness::database_url;

const SCHEMA: &str = "STEADFAST_CAGE_SCHEMA";
const FILE: &str = "STEADFAST_CAGE_FILE";

/// The running worker; killed when dropped.
pub(super) struct Caged(Child);

impl Caged {
    pub(super) fn start(site: &Site, bytes: usize) -> Self {
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
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
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
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|text| text.trim().strip_suffix(" kB")).expect("its peak");
        kib.trim().parse::<usize>().expect("a number") * 1024
    }
}

impl Drop for Caged {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test: what the child runs.
#[test]
fn entry() {
    let (schema, file) = (std::env::var(SCHEMA).ok(), std::env::var(FILE).ok());
    if schema.is_none() && file.is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let worker = runtime.block_on(async {
        let provider: Arc<dyn Provider> = match schema {
            Some(schema) => {
                let builder = PostgresProvider::builder(&database_url()).schema(schema).pool_size(3);
                Arc::new(builder.connect().await.expect("open"))
            }
            None => {
                let path = PathBuf::from(file.expect("a path"));
                Arc::new(EmbeddedProvider::open(path).await.expect("open"))
            }
        };
        let workflows = orchestrations()
            .register("length", |_: OrchestrationContext, input: String| async move {
                Ok(input.len().to_string())
            })
            .register("wait", |ctx: OrchestrationContext, _: String| async move {
                ctx.schedule_wait("go").await;
                Ok("went".to_owned())
            });
        Runtime::start_with_store(provider, ActivityRegistry::builder().build(), workflows.build()).await
    });
    // Until the parent is gone.
    let _ = std::io::stdin().read(&mut [0]);
    drop(worker);
}
