//! `steadfast queues`: how much waits, how much is leased, how late the oldest is.
//!
//! Invariant: read-only; what the store lacks is said before its queues are counted, because that may fail for it.

use clap::Args;
use serde::Serialize;
use steadfast::inspect::QueueReport;

use crate::{
    clock,
    error::CliError,
    output::{self, Grid, Output, printable},
    store::Store,
};

/// Show the depths of the queues
#[derive(Args, Debug)]
pub(crate) struct Arguments {}

#[derive(Serialize)]
struct Row<'a> {
    queue: &'a str,
    ready: u64,
    delayed: u64,
    leased: u64,
    leases: u64,
    oldest_due_ms: Option<u64>,
    next_due_ms: Option<u64>,
}

impl<'a> From<&'a QueueReport> for Row<'a> {
    fn from(report: &'a QueueReport) -> Self {
        Self {
            queue: &report.queue,
            ready: report.ready,
            delayed: report.delayed,
            leased: report.leased,
            leases: report.leases,
            oldest_due_ms: report.oldest_due_ms,
            next_due_ms: report.next_due_ms,
        }
    }
}

pub(crate) async fn run(store: &Store, _arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    // Whatever keeps workers from their work may keep the report from being made.
    let missing = store.provider.missing().await?;
    if output.is_json() {
        missing.iter().for_each(|line| output::warn(line));
    } else {
        for line in &missing {
            output.line(printable(line))?;
        }
    }
    let reports = store.provider.queues().await?;
    if output.is_json() {
        return output.json(&reports.iter().map(Row::from).collect::<Vec<_>>());
    }
    let mut table = Grid::new(&[
        "QUEUE",
        "READY",
        "DELAYED",
        "LEASED",
        "LEASES",
        "OLDEST READY",
        "NEXT DELAYED",
    ]);
    for report in &reports {
        let time = |ms: Option<u64>, text: fn(u64) -> String| ms.map_or_else(|| "-".to_owned(), text);
        table.add_row([
            printable(&report.queue),
            report.ready.to_string(),
            report.delayed.to_string(),
            report.leased.to_string(),
            report.leases.to_string(),
            time(report.oldest_due_ms, |ms| format!("{} ago", clock::span(ms))),
            time(report.next_due_ms, |ms| format!("in {}", clock::span(ms))),
        ]);
    }
    output.table(&table)
}
