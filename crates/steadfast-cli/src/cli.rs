//! The arguments: global options, and the list of subcommands with what their help says.
//!
//! Invariant: nothing here touches a file or a server.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, parser::ValueSource};

use crate::{
    cmd::{cancel, copy, delete, demo, feed, history, list, prune, queues, schema, show, signal, start, watch},
    demo::worker,
    error::CliError,
    store::{Access, Place, Pooler},
};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  the operation failed or was refused
  2  wrong arguments
  3  the server or the file cannot be reached
  4  the server refused the user or the password, or the role lacks rights
  5  the database, the schema or the file is missing, of another version, not as installed, or not Steadfast's
  6  no such instance or execution
  130  interrupted (Ctrl-C)";

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

impl Cli {
    /// The arguments, the command's name first, and which of them were given only by the environment.
    pub(crate) fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let matches = Self::command().try_get_matches_from(arguments)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        cli.globals.url_from_variable = matches.value_source("database_url") == Some(ValueSource::EnvVariable);
        Ok(cli)
    }
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
    /// What stands between this command and the server
    #[arg(
        long,
        global = true,
        display_order = 900,
        env = "STEADFAST_POOLER",
        value_enum,
        default_value_t = Pooler::None,
        value_name = "MODE"
    )]
    pooler: Pooler,
    /// Trust this role as the owner of the schema, although it is not yours (may be given more than once)
    #[arg(
        long,
        global = true,
        display_order = 900,
        env = "STEADFAST_OWNER",
        value_name = "ROLE"
    )]
    owner: Vec<String>,
    /// Print one JSON document instead of text
    #[arg(long, global = true, display_order = 900)]
    pub(crate) json: bool,
    /// The URL is the variable's, not an option's.
    #[arg(skip)]
    url_from_variable: bool,
}

impl Globals {
    /// How a database is to be used.
    pub(crate) fn access(&self) -> Access {
        Access {
            pooler: self.pooler,
            owners: self.owner.clone(),
        }
    }

    /// Where the store is, or [`CliError::NoStore`].
    pub(crate) fn place(&self) -> Result<Place, CliError> {
        self.given_place()?.ok_or(CliError::NoStore)
    }

    /// Where the store is, where that is given; an empty URL counts as none. libpq's variables count as well.
    pub(crate) fn given_place(&self) -> Result<Option<Place>, CliError> {
        let place = self.named_place(self.url())?;
        let by_variables = || {
            LIBPQ
                .iter()
                .any(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty()))
        };
        Ok(place.or_else(|| {
            by_variables().then(|| Place::Database {
                url: "postgres://".to_owned(),
                schema: self.schema.clone(),
                access: self.access(),
            })
        }))
    }

    /// Where the store is, where an option says so: for what must not touch a store that was not meant.
    pub(crate) fn place_by_option(&self) -> Result<Option<Place>, CliError> {
        self.named_place(self.url().filter(|_| !self.url_from_variable))
    }

    fn url(&self) -> Option<&str> {
        self.database_url.as_deref().filter(|url| !url.trim().is_empty())
    }

    fn named_place(&self, url: Option<&str>) -> Result<Option<Place>, CliError> {
        match (&self.file, url) {
            (Some(_), Some(_)) if !self.url_from_variable => {
                let text = "--file and --database-url exclude each other: a store is in one place";
                Err(CliError::Usage(text.to_owned()))
            }
            (Some(path), _) if path.as_os_str().is_empty() => Err(CliError::Usage("--file is empty".to_owned())),
            (Some(path), _) => Ok(Some(Place::File(path.clone()))),
            (None, Some(url)) => Ok(Some(Place::Database {
                url: database(url)?,
                schema: self.schema.clone(),
                access: self.access(),
            })),
            (None, None) => Ok(None),
        }
    }
}

/// Variables of libpq that say where a database is.
const LIBPQ: [&str; 4] = ["PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE"];

/// A URL of PostgreSQL; another one is refused by its scheme, and never shown: it may hold a password.
pub(crate) fn database(url: &str) -> Result<String, CliError> {
    let scheme = url.trim_start().split_once("://").map(|(scheme, _)| scheme);
    let is_scheme = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    match scheme {
        Some(scheme) if is_scheme(scheme) && !["postgres", "postgresql"].contains(&scheme) => Err(CliError::Usage(
            format!("{scheme}:// is not PostgreSQL: a database is given as postgres://…, a file with --file"),
        )),
        _ => Ok(url.to_owned()),
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
    use super::*;

    fn read(arguments: &[&str]) -> Cli {
        let arguments = ["steadfast"].iter().chain(arguments).map(OsString::from);
        Cli::read(arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_lists_every_exit_code() {
        let help = Cli::command().render_help().to_string();
        assert!(
            (0..=6).chain([130]).all(|code| help.contains(&format!("\n  {code}  "))),
            "{help}"
        );
    }

    #[test]
    fn an_empty_url_is_none() {
        let cli = read(&["queues", "--database-url", ""]);
        assert!(matches!(cli.globals.place_by_option(), Ok(None)));
    }

    #[test]
    fn another_databases_url_is_named_and_not_shown() {
        let error = database("mysql://root:s3cret@host/db").unwrap_err().to_string();
        assert!(error.contains("mysql://") && !error.contains("s3cret"), "{error}");
        for url in ["postgres://h/d", "postgresql:///d", "host=h password=a://b", "dbname=x"] {
            assert_eq!(database(url).unwrap(), url);
        }
    }

    #[test]
    fn a_store_is_in_one_place() {
        let cli = read(&["queues", "--file", "a.db", "--database-url", "postgres://x/y"]);
        assert!(matches!(cli.globals.place(), Err(CliError::Usage(_))));
        let cli = read(&["queues", "--file", "a.db"]);
        assert_eq!(cli.globals.place().ok(), Some(Place::File("a.db".into())));
    }
}
