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

use steadfast::postgres::Access;

use crate::{
    cli::{Cli, Command},
    demo::worker,
    error::CliError,
    output::Output,
    store,
};

/// Opens the store, runs the subcommand with it, closes it however that ended.
macro_rules! with_store {
    ($globals:expr, $access:expr, $run:path, $arguments:expr, $output:expr) => {{
        let store = store::open($globals, $access).await?;
        let result = $run(&store, $arguments, $output).await;
        store.close().await;
        result
    }};
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
        Command::List(arguments) => with_store!(&globals, Access::Read, list::run, arguments, output),
        Command::Show(arguments) => with_store!(&globals, Access::Read, show::run, arguments, output),
        Command::History(arguments) => with_store!(&globals, Access::Read, history::run, arguments, output),
        Command::Queues(arguments) => with_store!(&globals, Access::Read, queues::run, arguments, output),
        Command::Start(arguments) => with_store!(&globals, Access::Work, start::run, arguments, output),
        Command::Signal(arguments) => with_store!(&globals, Access::Work, signal::run, arguments, output),
        Command::Cancel(arguments) => with_store!(&globals, Access::Work, cancel::run, arguments, output),
        Command::Delete(arguments) => with_store!(&globals, Access::Work, delete::run, arguments, output),
        Command::Prune(arguments) => with_store!(&globals, Access::Work, prune::run, arguments, output),
    }
}
