//! The hidden subcommand `demo-worker`: duroxide's runtime with the demo's job, in a process that can be killed.
//!
//! Invariant: it ends when its standard input does, so it never outlives the demo, however that ends.

use std::{
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use clap::Args;
use duroxide::{RuntimeOptions, runtime::Runtime};
use steadfast::{feed::Level, postgres::Migrations};
use tokio::sync::oneshot;

use crate::{
    cli::Globals,
    demo::{
        job::{self, Workshop},
        ledger::Writer,
    },
    error::CliError,
    store,
};

/// Grace for what is under way when the demo says goodbye.
const GRACE_MS: u64 = 500;

/// Run the demo's activities and orchestrations
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The tree to hash
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// The file that every start and end of an activity is appended to
    #[arg(long)]
    pub(crate) ledger: PathBuf,
    /// Where the finished manifest goes
    #[arg(long)]
    pub(crate) manifest: PathBuf,
    /// Extra time per file, in ms
    #[arg(long)]
    pub(crate) pace_ms: u64,
    /// Activities, and turns, at once
    #[arg(long)]
    pub(crate) slots: usize,
    /// Length of a lease, in ms
    #[arg(long)]
    pub(crate) lease_ms: u64,
}

pub(crate) async fn run(globals: &Globals, arguments: &Arguments) -> Result<(), CliError> {
    let goodbye = end_of_stdin()?;
    // So that `steadfast watch` beside the demo has something to show.
    let store = store::open_with(
        globals.place()?,
        Migrations::Verify,
        "steadfast demo worker",
        None,
        Level::History,
    )
    .await?;
    let ledger = Writer::open(&arguments.ledger);
    let workshop = Arc::new(Workshop {
        root: arguments.dir.clone(),
        manifest: arguments.manifest.clone(),
        ledger: ledger.map_err(CliError::while_trying("open the ledger"))?,
        pace: Duration::from_millis(arguments.pace_ms),
    });
    let lease = Duration::from_millis(arguments.lease_ms);
    let options = RuntimeOptions {
        orchestration_concurrency: arguments.slots,
        worker_concurrency: arguments.slots,
        orchestrator_lock_timeout: lease,
        worker_lock_timeout: lease,
        ..RuntimeOptions::default()
    };
    let (activities, orchestrations) = (job::activities(&workshop), job::orchestrations(&workshop));
    let runtime = Runtime::start_with_options(store.for_runtime(), activities, orchestrations, options).await;
    // An error means that the thread is gone, which is as good a reason to end.
    let _ = goodbye.await;
    runtime.shutdown(Some(GRACE_MS)).await;
    store.close().await;
    Ok(())
}

/// Ready when standard input has ended.
fn end_of_stdin() -> Result<oneshot::Receiver<()>, CliError> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let mut buffer = [0; 64];
            while matches!(io::stdin().read(&mut buffer), Ok(count) if count > 0) {}
            // Nobody may be left to hear it.
            let _ = sender.send(());
            // Whatever still hangs then is not worth waiting for.
            thread::sleep(Duration::from_millis(GRACE_MS * 6));
            std::process::exit(0);
        })
        .map_err(CliError::while_trying("start a thread"))?;
    Ok(receiver)
}
