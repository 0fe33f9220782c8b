//! `steadfast schema`: installs the schema, verifies it, or prints the SQL that would install it.
//!
//! Invariant: `print` needs no server, `verify` changes nothing.

use clap::Subcommand;
use serde_json::json;
use steadfast::postgres::{Migrations, schema_sql};

use crate::{cli::Globals, error::CliError, output::Output, store};

/// Install, verify or print the schema
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Action {
    /// Install the schema, or upgrade it to what this version needs
    Install,
    /// Check that the schema is what this version needs; change nothing
    Verify,
    /// Print the SQL that an installation runs, for people who may not run it themselves
    Print,
}

pub(crate) async fn run(globals: &Globals, action: Action, output: &mut Output) -> Result<(), CliError> {
    let (migrations, state, done) = match action {
        Action::Print => return output.line(schema_sql(&globals.schema)?.trim_end()),
        Action::Install => (Migrations::Apply, "installed", "is installed"),
        Action::Verify => (Migrations::Verify, "current", "is what this version needs"),
    };
    let store = store::open_with(globals, migrations).await?;
    store.close().await;
    output.say(
        &json!({ "schema": globals.schema, "state": state, "version": env!("CARGO_PKG_VERSION") }),
        format!("schema {:?} {done} ({})", globals.schema, env!("CARGO_PKG_VERSION")),
    )
}
