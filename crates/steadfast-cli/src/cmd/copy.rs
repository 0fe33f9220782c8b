//! `steadfast copy`: carries a store to another place, from a file to a database or the other way.
//!
//! Invariants: the source is not changed, a file not even opened to write; the target is empty before, and whole or as it was
//! after: where it was missing, nothing is left of it when the copy is refused, fails or is interrupted.

use std::{cell::Cell, path::PathBuf};

use clap::Args;
use serde_json::json;
use steadfast::{
    feed::Level,
    postgres::Migrations,
    transfer::{self, CopyReport},
};

use crate::{
    cli::{self, Globals},
    cmd::Interrupt,
    error::CliError,
    output::{Output, count},
    store::{self, Access, Place, Store},
};

/// What our connections call themselves.
const APPLICATION: &str = "steadfast copy";

/// Carry a store elsewhere, while no worker runs: from a file to a database, or the other way
///
/// Instances, histories, pending work with its attempts and due times, key-values, sessions: everything but leases. The
/// target must be empty (it is made where it is missing), shows nothing until all has arrived, and is read back and
/// compared. Do not let workers go on with the source afterwards: they would do the same work again.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Where the store is: a URL (postgres://…) or the path of a file; a URL's schema is that of --schema
    #[arg(long, value_name = "PLACE")]
    from: String,
    /// Where it is to go, likewise
    #[arg(long, value_name = "PLACE")]
    to: String,
    /// The target's schema, where it is another than --schema
    #[arg(long, value_name = "NAME")]
    to_schema: Option<String>,
    /// Also while somebody has a store open, who must do nothing with it meanwhile
    #[arg(long)]
    force: bool,
}

pub(crate) async fn run(globals: &Globals, arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    let to_schema = arguments.to_schema.as_ref().unwrap_or(&globals.schema);
    let (from, to) = (
        place(&arguments.from, &globals.schema, globals.access())?,
        place(&arguments.to, to_schema, globals.access())?,
    );
    if from == to {
        return Err(CliError::Usage("--from and --to are the same place".to_owned()));
    }
    let (from_text, to_text) = (from.describe(), to.describe());
    let mut interrupt = Interrupt::listen()?;
    let source = open_source(from).await?;
    let makes = Cell::new(false);
    let report = tokio::select! {
        report = carry(&source, &to, arguments.force, &makes) => report,
        interrupted = interrupt.come() => Err(interrupted),
    };
    source.close().await;
    if report.is_err() && makes.get() {
        store::remove(&to).await?;
    }
    let report = report?;
    output.say(
        &json!({ "from": from_text, "to": to_text, "copied": report }),
        format!(
            "copied {from_text} to {to_text}: {}, {}, {}, {}, {}, {}, {}, {} in quarantine; both hold the same (sha256 {})",
            count(report.instances, "instance"),
            count(report.executions, "execution"),
            count(report.events, "event"),
            count(report.messages, "message"),
            plural(report.activities, "activity", "activities"),
            count(report.sessions, "session"),
            count(report.key_values, "key-value"),
            report.quarantined,
            report.checksum.get(..16).unwrap_or_default(),
        ),
    )
}

async fn open_source(from: Place) -> Result<Store, CliError> {
    match from {
        Place::File(path) => store::look_at(path).await,
        database => store::open_with(database, Migrations::Verify, APPLICATION, Some(1), Level::Off).await,
    }
}

/// Everything after the source is open; says whether it is about to make the target.
async fn carry(source: &Store, to: &Place, force: bool, makes: &Cell<bool>) -> Result<CopyReport, CliError> {
    refuse_workers(source, "source", force).await?;
    transfer::require_idle(source.provider.as_ref()).await?;
    let open = |migrations| store::open_with(to.clone(), migrations, APPLICATION, Some(1), Level::Off);
    let target = match open(Migrations::Verify).await {
        Err(error) if error.says_nothing_is_there() => {
            makes.set(true);
            open(Migrations::Apply).await?
        }
        found => found?,
    };
    let copied = async {
        refuse_workers(&target, "target", force).await?;
        Ok(transfer::copy(source.provider.as_ref(), target.provider.as_ref()).await?)
    };
    let copied = copied.await;
    target.close().await;
    copied
}

async fn refuse_workers(store: &Store, side: &str, force: bool) -> Result<(), CliError> {
    let workers = if force {
        Vec::new()
    } else {
        store.provider.workers().await?
    };
    if workers.is_empty() {
        return Ok(());
    }
    Err(CliError::Refused(format!(
        "the {side} is in use by {}: stop its workers first, or use --force",
        workers.join(", ")
    )))
}

/// A URL or libpq's `key=value` text is a database; anything else is a file.
fn place(text: &str, schema: &str, access: Access) -> Result<Place, CliError> {
    if text.trim().is_empty() {
        return Err(CliError::Usage("--from and --to need a URL or a path".to_owned()));
    }
    let words = ["host=", "hostaddr=", "dbname=", "service="];
    let is_database = text.contains("://") || words.iter().any(|start| text.starts_with(start));
    Ok(if is_database {
        Place::Database {
            url: cli::database(text)?,
            schema: schema.to_owned(),
            access,
        }
    } else {
        Place::File(PathBuf::from(text))
    })
}

fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_url_or_a_path() {
        let database = |text: &str| matches!(place(text, "s", Access::default()), Ok(Place::Database { schema, .. }) if schema == "s");
        assert!(database("postgres://a@b/c") && database("postgresql:///c") && database("host=x dbname=y"));
        assert_eq!(
            place("data/store.db", "s", Access::default()).ok(),
            Some(Place::File("data/store.db".into()))
        );
        assert!(matches!(place(" ", "s", Access::default()), Err(CliError::Usage(_))));
        assert!(matches!(
            place("mysql://a/b", "s", Access::default()),
            Err(CliError::Usage(_))
        ));
    }
}
