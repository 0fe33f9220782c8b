//! The arguments: global options, and the list of subcommands with what their help says.
//!
//! Invariant: nothing here touches a file or a server.

use clap::{Args, Parser, Subcommand};

use crate::{
    cmd::{cancel, delete, demo, history, list, prune, queues, schema, show, signal, start},
    demo::worker,
    error::CliError,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the operation failed or was refused
  2  wrong arguments
  3  the server cannot be reached
  4  the server refused the user or the password
  5  the schema is missing, of another version, or not Steadfast's
  6  no such instance or execution";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "steadfast",
    version,
    about = "Steadfast, a durable store for duroxide on PostgreSQL: try it, look into it, operate it",
    after_help = EXIT_CODES,
    max_term_width = 120
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every subcommand takes; its help lists them last.
#[derive(Args, Clone, Debug)]
pub(crate) struct Globals {
    /// The database, as libpq writes it: postgres://user@host:5432/name?sslmode=verify-full
    #[arg(
        long,
        global = true,
        display_order = 900,
        env = "DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    database_url: Option<String>,
    /// The schema that holds the store
    #[arg(
        long,
        global = true,
        display_order = 900,
        env = "STEADFAST_SCHEMA",
        default_value = "steadfast",
        value_name = "NAME"
    )]
    pub(crate) schema: String,
    /// Print one JSON document instead of text
    #[arg(long, global = true, display_order = 900)]
    pub(crate) json: bool,
}

impl Globals {
    /// The database's URL, or [`CliError::NoDatabase`].
    pub(crate) fn database_url(&self) -> Result<&str, CliError> {
        self.given_url().ok_or(CliError::NoDatabase)
    }

    /// The database's URL where one is given; an empty variable counts as none.
    pub(crate) fn given_url(&self) -> Option<&str> {
        self.database_url.as_deref().filter(|url| !url.trim().is_empty())
    }
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(demo::Arguments),
    #[command(subcommand)]
    Schema(schema::Action),
    List(list::Arguments),
    Show(show::Arguments),
    History(history::Arguments),
    Queues(queues::Arguments),
    Start(start::Arguments),
    Signal(signal::Arguments),
    Cancel(cancel::Arguments),
    Delete(delete::Arguments),
    Prune(prune::Arguments),
    #[command(hide = true)]
    DemoWorker(worker::Arguments),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_lists_every_exit_code() {
        let help = Cli::command().render_help().to_string();
        assert!((0..=6).all(|code| help.contains(&format!("\n  {code}  "))), "{help}");
    }

    #[test]
    fn an_empty_url_is_none() {
        let cli = Cli::parse_from(["steadfast", "queues", "--database-url", ""]);
        assert!(matches!(cli.globals.database_url(), Err(CliError::NoDatabase)));
    }
}
