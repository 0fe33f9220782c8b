//! `steadfast prune`: removes old executions of instances that continue as new.
//!
//! Invariant: the current execution, and any that runs, stays (the store sees to it).

use clap::Args;
use duroxide::{InstanceFilter, PruneOptions};
use serde_json::json;

use crate::{
    clock,
    error::CliError,
    output::{Output, count},
    store::Store,
};

/// Remove old executions of one instance, or of all
#[derive(Args, Debug)]
#[command(
    group = clap::ArgGroup::new("of").required(true).args(["instance", "all"]),
    group = clap::ArgGroup::new("which").required(true).multiple(true).args(["keep_last", "completed_before"])
)]
pub(crate) struct Arguments {
    /// The instance's id
    instance: Option<String>,
    /// Of all instances, not of one
    #[arg(long)]
    all: bool,
    /// Keep the newest N executions of each instance
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Only executions that ended before then: an age (7d, 2h 30m) or a time (2026-01-31, 2026-01-31T12:00:00Z)
    #[arg(long, value_name = "WHEN")]
    completed_before: Option<String>,
    /// With --all: of how many instances at most
    #[arg(long, default_value_t = 1_000, conflicts_with = "instance", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

pub(crate) async fn run(store: &Store, arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    let now = clock::now_ms();
    let before = arguments
        .completed_before
        .as_deref()
        .map(|when| clock::parse_before(when, now));
    let options = PruneOptions {
        keep_last: arguments.keep_last,
        completed_before: before.transpose().map_err(CliError::Usage)?,
    };
    let client = store.client();
    let result = match &arguments.instance {
        Some(id) => {
            store.instance(id).await?;
            client.prune_executions(id, options).await?
        }
        None => {
            let filter = InstanceFilter {
                limit: Some(arguments.limit),
                ..InstanceFilter::default()
            };
            client.prune_executions_bulk(filter, options).await?
        }
    };
    let (instances, executions, events) = (
        result.instances_processed,
        result.executions_deleted,
        result.events_deleted,
    );
    output.say(
        &json!({ "instances_processed": instances, "executions_deleted": executions, "events_deleted": events }),
        format!(
            "removed {} with {} of {}",
            count(executions, "execution"),
            count(events, "event"),
            count(instances, "instance")
        ),
    )
}
