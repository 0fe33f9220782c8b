//! `cargo xtask`: the project's chores; its invariant: whatever it starts has ended, and its folders are gone, when it
//! ends.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program speaks by printing"
)]

mod check;
mod database;
mod field;
mod golden;
mod listing;
mod matrix;
mod schema;
mod signals;
mod test_run;
mod tidy;
mod totals;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Steadfast's chores")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run all tests on a private PostgreSQL server
    Test {
        /// Further arguments for `cargo test`, such as `-p PACKAGE`, a test's name, or `-- --nocapture`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Run a command with DATABASE_URL naming a fresh private server
    Postgres {
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run all tests on PostgreSQL 15, 16 and 18
    TestMatrix {
        /// Only this major version (may be repeated)
        #[arg(long = "version")]
        versions: Vec<u32>,
        /// Further arguments for `cargo test`, such as `-p PACKAGE`, a test's name, or `-- --nocapture`
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Run the long forms of what the field found, and leave dated reports in docs/evidence
    Field {
        /// Which suites: silence, cage, errors, kinds; all where none is named
        suites: Vec<field::Suite>,
    },
    /// Write crates/steadfast/sql/schema.golden.sql anew, from an installed schema
    Schema {
        /// Only compare, and fail where it differs
        #[arg(long)]
        check: bool,
    },
    /// Formatting, lints, documentation, tidy rules, package contents, licences
    Check,
    /// Only the tidy rules
    Tidy,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Test { arguments } => test_run::run(&arguments),
        Task::Postgres { command } => database::run_command(&command),
        Task::TestMatrix { versions, arguments } => matrix::run(&versions, &arguments),
        Task::Field { suites } => field::run(&suites),
        Task::Schema { check } => schema::run(check),
        Task::Check => check::run(),
        Task::Tidy => check::tidy().map(|()| 0),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
