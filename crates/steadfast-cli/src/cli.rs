//! The arguments: global options, and the list of subcommands with what their help says.
//!
//! Invariant: nothing here touches a file or a server.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{
    cmd::{cancel, copy, delete, demo, feed, history, list, prune, queues, schema, show, signal, start, watch},
    demo::worker,
    error::CliError,
    store::Place,
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the operation failed or was refused
  2  wrong arguments
  3  the server or the file cannot be reached
  4  the server refused the user or the password, or the role lacks rights
  5  the schema or the file is missing, of another version, or not Steadfast's
  6  no such instance or execution";

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "steadfast",
    version,
    about = "Steadfast, a durable store for duroxide on PostgreSQL or in a file: try it, look into it, operate it",
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
    /// The store is in this SQLite file, not in a database; counts more than the variable DATABASE_URL
    #[arg(long, global = true, display_order = 900, value_name = "PATH")]
    file: Option<PathBuf>,
    /// The schema that holds the store in a database
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
    /// Where the store is, or [`CliError::NoStore`].
    pub(crate) fn place(&self) -> Result<Place, CliError> {
        self.given_place()?.ok_or(CliError::NoStore)
    }

    /// Where the store is, where that is given; an empty URL counts as none.
    pub(crate) fn given_place(&self) -> Result<Option<Place>, CliError> {
        let url = self.database_url.as_deref().filter(|url| !url.trim().is_empty());
        // The parser does not tell an option from a variable.
        let from_variable = url == std::env::var("DATABASE_URL").ok().as_deref();
        match (&self.file, url) {
            (Some(_), Some(_)) if !from_variable => {
                let text = "--file and --database-url exclude each other: a store is in one place";
                Err(CliError::Usage(text.to_owned()))
            }
            (Some(path), _) if path.as_os_str().is_empty() => Err(CliError::Usage("--file is empty".to_owned())),
            (Some(path), _) => Ok(Some(Place::File(path.clone()))),
            (None, Some(url)) => Ok(Some(Place::Database {
                url: url.to_owned(),
                schema: self.schema.clone(),
            })),
            (None, None) => Ok(None),
        }
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
    Watch(watch::Arguments),
    #[command(subcommand)]
    Feed(feed::Action),
    Queues(queues::Arguments),
    Start(start::Arguments),
    Signal(signal::Arguments),
    Cancel(cancel::Arguments),
    Delete(delete::Arguments),
    Prune(prune::Arguments),
    Copy(copy::Arguments),
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
        assert!(matches!(cli.globals.place(), Err(CliError::NoStore)));
    }

    #[test]
    fn a_store_is_in_one_place() {
        let cli = Cli::parse_from([
            "steadfast",
            "queues",
            "--file",
            "a.db",
            "--database-url",
            "postgres://x/y",
        ]);
        assert!(matches!(cli.globals.place(), Err(CliError::Usage(_))));
        let cli = Cli::parse_from(["steadfast", "queues", "--file", "a.db"]);
        assert_eq!(cli.globals.place().ok(), Some(Place::File("a.db".into())));
    }
}
