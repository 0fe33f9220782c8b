//! `steadfast schema`: installs the schema, repairs it, verifies it, or prints the SQL that would install it.
//!
//! Invariant: `print` needs no server, `verify` changes nothing.

use clap::Subcommand;
use serde_json::{Value, json};
use steadfast::{
    catalogue::{Finding, FindingKind},
    embedded::{self, EmbeddedProvider},
    feed::Level,
    postgres::{self, Migrations},
};

use crate::{
    cli::Globals,
    error::CliError,
    output::{Output, count, printable},
    store::{self, Place},
};

/// Install, verify or print the schema
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum Action {
    /// Install the schema, or upgrade it to what this version needs
    Install {
        /// Put back what of Steadfast's own is missing or differs, in one transaction
        #[arg(long)]
        repair: bool,
    },
    /// Compare the schema with what this version installs, object by object; change nothing
    Verify,
    /// Print the SQL that an installation runs, for people who may not run it themselves
    Print,
}

pub(crate) async fn run(globals: &Globals, action: Action, output: &mut Output) -> Result<(), CliError> {
    match action {
        Action::Print => output.lines(sql(globals)?.trim_end()),
        Action::Install { repair: false } => install(globals.place()?, output).await,
        Action::Install { repair: true } => repair(globals.place()?, output).await,
        Action::Verify => verify(globals.place()?, output).await,
    }
}

async fn install(place: Place, output: &mut Output) -> Result<(), CliError> {
    let said = (answer(&place, "installed"), done(&place, "is installed"));
    store::open_with(place, Migrations::Apply, "steadfast", None, Level::default())
        .await?
        .close()
        .await;
    output.say(&said.0, said.1)
}

async fn verify(place: Place, output: &mut Output) -> Result<(), CliError> {
    let findings = match &place {
        Place::Database { url, schema, access } => {
            let builder = Place::builder(url, schema, access).application_name("steadfast");
            builder.verify_schema().await?
        }
        Place::File(path) if !path.exists() => return Err(CliError::NoFile(path.clone())),
        Place::File(path) => EmbeddedProvider::builder(path).verify_schema().await?,
    };
    if findings.is_empty() {
        return output.say(&answer(&place, "current"), done(&place, "is what this version needs"));
    }
    let mut said = answer(&place, "differs");
    said["findings"] = as_json(&findings);
    tell(output, &said, &findings)?;
    Err(refusal(&place, &findings, true))
}

async fn repair(place: Place, output: &mut Output) -> Result<(), CliError> {
    let repair = match &place {
        Place::Database { url, schema, access } => {
            let builder = Place::builder(url, schema, access).application_name("steadfast");
            builder.repair_schema().await?
        }
        Place::File(path) if !path.exists() => return Err(CliError::NoFile(path.clone())),
        Place::File(path) => EmbeddedProvider::builder(path).repair_schema().await?,
    };
    let mut said = answer(&place, if repair.left.is_empty() { "installed" } else { "differs" });
    said["mended"] = as_json(&repair.mended);
    said["left"] = as_json(&repair.left);
    if !output.is_json() {
        for finding in &repair.mended {
            output.line(printable(&format!("mended: {finding}")))?;
        }
    }
    if repair.left.is_empty() {
        return output.say(&said, done(&place, "is installed"));
    }
    tell(output, &said, &repair.left)?;
    Err(refusal(&place, &repair.left, false))
}

/// The JSON document, or a line for each finding.
fn tell(output: &mut Output, said: &Value, findings: &[Finding]) -> Result<(), CliError> {
    if output.is_json() {
        return output.json(said);
    }
    findings
        .iter()
        .try_for_each(|finding| output.line(printable(&finding.to_string())))
}

fn refusal(place: &Place, findings: &[Finding], mendable: bool) -> CliError {
    CliError::NotAsInstalled {
        place: place.describe(),
        findings: count(findings.len() as u64, "finding"),
        mendable: mendable
            && findings
                .iter()
                .all(|finding| !matches!(finding.kind, FindingKind::ForeignOwner { .. })),
    }
}

fn answer(place: &Place, state: &str) -> Value {
    let mut answer = match place {
        Place::Database { schema, .. } => json!({ "schema": schema }),
        Place::File(path) => json!({ "file": path.display().to_string() }),
    };
    answer["state"] = json!(state);
    answer["version"] = json!(env!("CARGO_PKG_VERSION"));
    answer
}

fn done(place: &Place, what: &str) -> String {
    format!("{} {what} ({})", place.describe(), env!("CARGO_PKG_VERSION"))
}

fn as_json(findings: &[Finding]) -> Value {
    let one = |finding: &Finding| {
        let (kind, more) = match &finding.kind {
            FindingKind::Missing => ("missing", Value::Null),
            FindingKind::Differs { what } => ("differs", json!(what)),
            FindingKind::Foreign => ("foreign", Value::Null),
            FindingKind::ForeignOwner { owner } => ("foreign owner", json!(owner)),
            _ => ("other", json!(finding.to_string())),
        };
        json!({
            "object": finding.object, "kind": kind, "detail": more, "stops_opening": finding.stops_opening,
        })
    };
    findings.iter().map(one).collect()
}

/// The SQL of the engine that the options name; a database's where they name none.
fn sql(globals: &Globals) -> Result<String, CliError> {
    match globals.given_place()? {
        Some(Place::File(_)) => Ok(embedded::schema_sql()),
        _ => Ok(postgres::schema_sql(&globals.schema)?),
    }
}
