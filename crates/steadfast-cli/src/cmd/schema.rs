//! `steadfast schema`: installs the schema, verifies it, or prints the SQL that would install it.
//!
//! Invariant: `print` needs no server, `verify` changes nothing.

use clap::Subcommand;
use serde_json::json;
use steadfast::{
    embedded,
    feed::Level,
    postgres::{self, Access, Migrations},
};

use crate::{
    cli::Globals,
    error::CliError,
    output::Output,
    store::{self, Place},
};

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
        Action::Print => return output.line(sql(globals)?.trim_end()),
        Action::Install => (Migrations::Apply, "installed", "is installed"),
        Action::Verify => (Migrations::Verify, "current", "is what this version needs"),
    };
    let place = globals.place()?;
    let what = match &place {
        Place::Database { schema, .. } => json!({ "schema": schema }),
        Place::File(path) => json!({ "file": path.display().to_string() }),
    };
    let text = format!("{} {done} ({})", place.describe(), env!("CARGO_PKG_VERSION"));
    // Whoever may look may ask.
    let access = match action {
        Action::Verify => Access::Read,
        _ => Access::Work,
    };
    store::open_for(place, migrations, "steadfast", None, Level::default(), access)
        .await?
        .close()
        .await;
    let mut answer = what;
    answer["state"] = json!(state);
    answer["version"] = json!(env!("CARGO_PKG_VERSION"));
    output.say(&answer, text)
}

/// The SQL of the engine that the options name; a database's where they name none.
fn sql(globals: &Globals) -> Result<String, CliError> {
    match globals.given_place()? {
        Some(Place::File(_)) => Ok(embedded::schema_sql()),
        _ => Ok(postgres::schema_sql(&globals.schema)?),
    }
}
