//! `steadfast copy`: carries a store to another place, from a file to a database or the other way.
//!
//! Invariant: the source is not changed; the target is empty before, and whole or empty after.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use steadfast::{feed::Level, postgres::Migrations, transfer};

use crate::{
    cli::Globals,
    error::CliError,
    output::{Output, count},
    store::{self, Access, Place},
};

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
    let source = store::open_with(from, Migrations::Verify, "steadfast copy", Some(1), Level::Off).await?;
    let target = match store::open_with(to, Migrations::Apply, "steadfast copy", Some(1), Level::Off).await {
        Ok(target) => target,
        Err(error) => {
            source.close().await;
            return Err(error);
        }
    };
    let copied = transfer::copy(source.provider.as_ref(), target.provider.as_ref()).await;
    source.close().await;
    target.close().await;
    let report = copied?;
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

/// A URL or libpq's `key=value` text is a database; anything else is a file.
fn place(text: &str, schema: &str, access: Access) -> Result<Place, CliError> {
    if text.trim().is_empty() {
        return Err(CliError::Usage("--from and --to need a URL or a path".to_owned()));
    }
    let is_database = ["postgres://", "postgresql://", "host=", "dbname=", "service="]
        .iter()
        .any(|start| text.starts_with(start));
    Ok(if is_database {
        Place::Database {
            url: text.to_owned(),
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
    }
}
