//! `steadfast feed`: the state of the change feed, and what an operator does to it.
//!
//! Invariant: `status` reads only, and so does a rotation that was not confirmed.

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use steadfast::feed::{FeedStatus, Retention, Token};

use crate::{
    cli::Globals,
    clock,
    error::CliError,
    output::{self, Grid, Output, printable},
    store::open_feed,
};

/// Look after the change feed
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Show where it begins and ends, what is pending, and the named cursors
    Status,
    /// Remove old events
    Trim(TrimArguments),
    /// Make all tokens and cursors of the past invalid: after a restore, before anybody reads
    RotateEpoch {
        /// Do it; otherwise it is only said what would become invalid
        #[arg(long)]
        yes: bool,
    },
}

/// What to keep.
#[derive(Args, Debug)]
pub(crate) struct TrimArguments {
    /// Remove what is older (7d, 12h)
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    older_than: Option<std::time::Duration>,
    /// Keep so many events at most
    #[arg(long, value_name = "N")]
    keep: Option<u64>,
    /// Remove what named cursors have not read when more than so many events follow
    #[arg(long, value_name = "N", default_value_t = Retention::default().max_held_events)]
    hold: u64,
}

#[derive(Serialize)]
struct Status<'a> {
    epoch: String,
    first: u64,
    last: u64,
    pending: u64,
    cursors: Vec<Cursor<'a>>,
}

#[derive(Serialize)]
struct Cursor<'a> {
    name: &'a str,
    sequence: u64,
    lag: u64,
    lost: bool,
    committed_at_ms: u64,
    token: Token,
}

#[derive(Serialize)]
struct Trimmed {
    trimmed: u64,
}

#[derive(Serialize)]
struct Rotated {
    epoch: String,
}

pub(crate) async fn run(globals: &Globals, action: &Action, output: &mut Output) -> Result<(), CliError> {
    let writes = !matches!(action, Action::Status | Action::RotateEpoch { yes: false });
    let feed = open_feed(globals, writes).await?;
    let result = async {
        match action {
            Action::Status => show(&feed.status().await?, output),
            Action::Trim(arguments) => {
                if arguments.older_than.is_none() && arguments.keep.is_none() {
                    return Err(CliError::Usage("say what to remove: --older-than, --keep".to_owned()));
                }
                let retention = Retention {
                    max_age: arguments.older_than,
                    max_events: arguments.keep,
                    max_held_events: arguments.hold,
                };
                let trimmed = feed.trim(retention).await?;
                output.say(
                    &Trimmed { trimmed },
                    format_args!("{} removed", output::count(trimmed, "operation")),
                )
            }
            Action::RotateEpoch { yes: false } => {
                let status = feed.status().await?;
                let (epoch, cursors) = (status.epoch.to_string(), status.cursors.len() as u64);
                output.say(
                    &json!({ "dry_run": true, "epoch": epoch, "cursors": cursors }),
                    format!(
                        "would make all tokens of epoch {epoch} and {} invalid; nothing was done: add --yes",
                        output::count(cursors, "named cursor")
                    ),
                )
            }
            Action::RotateEpoch { yes: true } => {
                let epoch = feed.rotate_epoch().await?.to_string();
                let text = format!("the epoch is {epoch} now; tokens and cursors of before are refused");
                output.say(&Rotated { epoch }, text)
            }
        }
    };
    let result = result.await;
    feed.close().await;
    result
}

fn show(status: &FeedStatus, output: &mut Output) -> Result<(), CliError> {
    if output.is_json() {
        let cursors = status.cursors.iter().map(|c| Cursor {
            name: &c.name,
            sequence: c.token.sequence(),
            lag: c.lag,
            lost: c.lost,
            committed_at_ms: c.committed_at_ms,
            token: c.token,
        });
        return output.json(&Status {
            epoch: status.epoch.to_string(),
            first: status.first,
            last: status.last,
            pending: status.pending,
            cursors: cursors.collect(),
        });
    }
    output.line(format_args!("epoch    {}", status.epoch))?;
    output.line(format_args!("events   {} to {}", status.first, status.last))?;
    output.line(format_args!("pending  {}", output::count(status.pending, "operation")))?;
    if status.cursors.is_empty() {
        return Ok(());
    }
    output.line("")?;
    let mut table = Grid::new(&["CURSOR", "SEQUENCE", "LAG", "STATE", "COMMITTED"]);
    for cursor in &status.cursors {
        table.add_row([
            printable(&cursor.name),
            cursor.token.sequence().to_string(),
            cursor.lag.to_string(),
            if cursor.lost { "lost" } else { "ok" }.to_owned(),
            clock::stamp_and_age(cursor.committed_at_ms, clock::now_ms()),
        ]);
    }
    output.table(&table)
}
