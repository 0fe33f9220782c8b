//! `steadfast history`: the events of one execution.
//!
//! Invariant: events are shown in their order, all of them; only long values are cut, and only in the table.

use clap::Args;
use duroxide::Event;
use serde::Serialize;
use steadfast::inspect::PENDING;

use crate::{
    clock,
    error::CliError,
    event_text,
    output::{Grid, Output, count},
    store::Store,
};

/// Show the events of an instance, by default those of its newest execution
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The instance's id
    instance: String,
    /// Another execution, as `show` lists them
    #[arg(long, value_name = "N")]
    execution: Option<u64>,
    /// Leave long values whole
    #[arg(long)]
    full: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    instance_id: &'a str,
    execution_id: u64,
    events: &'a [Event],
}

pub(crate) async fn run(store: &Store, arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    let id = arguments.instance.as_str();
    let summary = store.instance(id).await?.summary;
    let (newest, pending) = (summary.execution_id, summary.status == PENDING);
    let execution_id = arguments.execution.unwrap_or(newest);
    let events = store.provider.read_history_with_execution_id(id, execution_id).await?;
    if events.is_empty() {
        let executions = store.provider.executions(id).await?;
        let known = executions.iter().any(|info| info.execution_id == execution_id);
        let may_have_none = pending && execution_id == newest;
        if !known && !may_have_none {
            return Err(CliError::NoExecution(id.to_owned(), execution_id));
        }
    }
    if output.is_json() {
        let events = &events;
        return output.json(&Document {
            instance_id: id,
            execution_id,
            events,
        });
    }
    if events.is_empty() {
        return output.line("no events");
    }
    let mut table = Grid::new(&["EVENT", "TIME", "KIND", "OF", "DETAILS"]);
    for event in &events {
        let (kind, details) = event_text::describe(event, arguments.full);
        table.add_row([
            event.event_id().to_string(),
            clock::exact_stamp(event.timestamp_ms),
            kind,
            event.source_event_id().map_or_else(String::new, |of| of.to_string()),
            details,
        ]);
    }
    table.keep_whole(&[0, 1, 2, 3]);
    output.table(&table)?;
    let first = events.first().map_or(0, |event| event.timestamp_ms);
    let last = events.last().map_or(0, |event| event.timestamp_ms);
    let (number, length) = (
        count(events.len() as u64, "event"),
        clock::span(last.saturating_sub(first)),
    );
    output.line(format!("{number} of execution {execution_id}, over {length}"))
}
