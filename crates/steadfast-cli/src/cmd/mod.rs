//! The subcommands, one file each.
//!
//! Invariant: a subcommand closes what it opens before it returns: at most one store, or (`copy`) two.

pub(crate) mod cancel;
pub(crate) mod copy;
pub(crate) mod delete;
pub(crate) mod demo;
pub(crate) mod feed;
pub(crate) mod history;
pub(crate) mod list;
pub(crate) mod prune;
pub(crate) mod queues;
pub(crate) mod schema;
pub(crate) mod show;
pub(crate) mod signal;
pub(crate) mod start;
pub(crate) mod watch;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    cli::{Cli, Command},
    demo::worker,
    error::CliError,
    output::Output,
    store,
};

/// Opens the store (by the first word), runs the subcommand with it, closes it however that ended.
macro_rules! with_store {
    ($open:ident, $globals:expr, $run:path, $arguments:expr, $output:expr) => {{
        let store = store::$open($globals).await?;
        let result = $run(&store, $arguments, $output).await;
        store.close().await;
        result
    }};
}

/// Ends with Ctrl-C, or when the process is told to terminate. Listens from the moment that it is made, so that nothing
/// that was begun is left behind.
pub(crate) struct Interrupt([Signal; 2]);

impl Interrupt {
    pub(crate) fn listen() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(CliError::while_trying("listen for Ctrl-C"));
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
        ]))
    }

    pub(crate) async fn come(&mut self) -> CliError {
        let [interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        CliError::Interrupted
    }
}

/// Runs the subcommand.
pub(crate) async fn run(cli: Cli, output: &mut Output) -> Result<(), CliError> {
    let Cli { globals, command } = cli;
    match &command {
        Command::Demo(arguments) => demo::run(&globals, arguments, output).await,
        Command::DemoWorker(arguments) => worker::run(&globals, arguments).await,
        Command::Copy(arguments) => copy::run(&globals, arguments, output).await,
        Command::Schema(action) => schema::run(&globals, *action, output).await,
        Command::Watch(arguments) => watch::run(&globals, arguments, output).await,
        Command::Feed(action) => feed::run(&globals, action, output).await,
        Command::List(arguments) => with_store!(open_to_read, &globals, list::run, arguments, output),
        Command::Show(arguments) => with_store!(open_to_read, &globals, show::run, arguments, output),
        Command::History(arguments) => with_store!(open_to_read, &globals, history::run, arguments, output),
        Command::Queues(arguments) => with_store!(open_to_read, &globals, queues::run, arguments, output),
        Command::Start(arguments) => with_store!(open, &globals, start::run, arguments, output),
        Command::Signal(arguments) => with_store!(open, &globals, signal::run, arguments, output),
        Command::Cancel(arguments) => with_store!(open, &globals, cancel::run, arguments, output),
        Command::Delete(arguments) => with_store!(open, &globals, delete::run, arguments, output),
        Command::Prune(arguments) => with_store!(open, &globals, prune::run, arguments, output),
    }
}
