//! `steadfast list`: a page of instances, newest first.
//!
//! Invariant: a page is bounded, and says how to ask for the next one.

use clap::{Args, ValueEnum};
use serde::Serialize;
use steadfast::inspect::{InstanceQuery, InstanceSummary, PENDING};

use crate::{
    clock,
    error::CliError,
    output::{Grid, Output, or_dash, printable},
    store::Store,
};

/// List instances, the newest first
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Only those in this state
    #[arg(long, ignore_case = true)]
    status: Option<Status>,
    /// Only those of this orchestration
    #[arg(long, value_name = "ORCHESTRATION")]
    name: Option<String>,
    /// Only those whose id begins so
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Only those older than the instance with this key: the next page
    #[arg(long, value_name = "KEY")]
    before: Option<u64>,
}

/// The states that duroxide gives to an instance, and that of one which no worker has taken.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Status {
    Pending,
    Running,
    Completed,
    Failed,
    #[value(name = "continued-as-new", alias = "continuedasnew")]
    ContinuedAsNew,
}

impl Status {
    fn stored(self) -> &'static str {
        match self {
            Self::Pending => PENDING,
            Self::Running => "Running",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
            Self::ContinuedAsNew => "ContinuedAsNew",
        }
    }
}

/// An instance, as programs see it.
#[derive(Serialize)]
pub(crate) struct Row<'a> {
    key: u64,
    instance_id: &'a str,
    orchestration_name: &'a str,
    orchestration_version: &'a str,
    execution_id: u64,
    status: &'a str,
    parent_instance_id: Option<&'a str>,
    created_at_ms: u64,
    updated_at_ms: u64,
}

impl<'a> From<&'a InstanceSummary> for Row<'a> {
    fn from(summary: &'a InstanceSummary) -> Self {
        Self {
            key: summary.key,
            instance_id: &summary.instance_id,
            orchestration_name: &summary.orchestration_name,
            orchestration_version: &summary.orchestration_version,
            execution_id: summary.execution_id,
            status: &summary.status,
            parent_instance_id: summary.parent_instance_id.as_deref(),
            created_at_ms: summary.created_at_ms,
            updated_at_ms: summary.updated_at_ms,
        }
    }
}

#[derive(Serialize)]
struct Page<'a> {
    instances: Vec<Row<'a>>,
    /// What `--before` must be for the next page; `null` on the last one.
    next_before: Option<u64>,
}

pub(crate) async fn run(store: &Store, arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    // One more than is shown tells whether there is another page.
    let query = InstanceQuery {
        status: arguments.status.map(|status| status.stored().to_owned()),
        name: arguments.name.clone(),
        prefix: arguments.prefix.clone(),
        before: arguments.before,
        limit: arguments.limit.saturating_add(1),
    };
    let mut rows = store.provider.instances(query).await?;
    let limit = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_before = rows.last().filter(|_| more).map(|row| row.key);
    if output.is_json() {
        let instances = rows.iter().map(Row::from).collect();
        return output.json(&Page { instances, next_before });
    }
    if rows.is_empty() {
        return output.line("no instances");
    }
    print(&rows, output)?;
    match next_before {
        Some(key) => output.line(format!("there are more: --before {key}")),
        None => Ok(()),
    }
}

fn print(rows: &[InstanceSummary], output: &mut Output) -> Result<(), CliError> {
    let now = clock::now_ms();
    // A column that says nothing takes the room of those that do.
    let parents = rows.iter().any(|row| row.parent_instance_id.is_some());
    let mut headings = vec!["INSTANCE", "ORCHESTRATION", "STATUS", "EXECUTION", "CREATED", "UPDATED"];
    if parents {
        headings.insert(4, "PARENT");
    }
    let mut table = Grid::new(&headings);
    for row in rows {
        let mut cells = vec![
            printable(&row.instance_id),
            orchestration(row),
            printable(&row.status),
            row.execution_id.to_string(),
            clock::stamp(row.created_at_ms),
            clock::age(row.updated_at_ms, now),
        ];
        if parents {
            cells.insert(4, or_dash(row.parent_instance_id.as_deref()));
        }
        table.add_row(cells);
    }
    table.keep_whole(&[2]);
    output.table(&table)
}

/// `Name 1.0.0`.
pub(crate) fn orchestration(summary: &InstanceSummary) -> String {
    let text = format!("{} {}", summary.orchestration_name, summary.orchestration_version);
    printable(text.trim_end())
}
