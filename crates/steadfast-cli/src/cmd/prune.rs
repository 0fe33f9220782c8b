//! `steadfast prune`: removes old executions of instances that continue as new.
//!
//! Invariants: the current execution, and any that runs, stays (the store sees to it); what was not named is shown first, and
//! removed only with `--yes`.

use clap::Args;
use duroxide::{
    Client, InstanceFilter, PruneOptions,
    providers::{ExecutionInfo, PruneResult},
};
use serde_json::json;
use steadfast::inspect::InstanceQuery;

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
    /// With --all: do remove them; otherwise they are only counted
    #[arg(long, conflicts_with = "instance")]
    yes: bool,
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
            let chosen = choose(store, &options, arguments.limit).await?;
            if !arguments.yes {
                return show(&chosen, output);
            }
            prune_chosen(&client, chosen, options).await?
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

/// An instance, and how many of its executions would go.
type Prunable = (String, u64);

/// Instances of which something would go: the newest ones, up to the limit.
async fn choose(store: &Store, options: &PruneOptions, limit: u32) -> Result<Vec<Prunable>, CliError> {
    const PAGE: u32 = 1_000;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut chosen = Vec::new();
    let mut before = None;
    loop {
        let query = InstanceQuery {
            before,
            limit: PAGE,
            ..InstanceQuery::default()
        };
        let page = store.provider.instances(query).await?;
        let Some(last) = page.last() else { return Ok(chosen) };
        before = Some(last.key);
        // The first execution is the current one, which stays.
        for row in page.iter().filter(|row| row.execution_id > 1) {
            let executions = store.provider.executions(&row.instance_id).await?;
            let doomed = doomed(&executions, row.execution_id, options);
            if doomed > 0 {
                chosen.push((row.instance_id.clone(), doomed));
            }
            if chosen.len() >= limit {
                return Ok(chosen);
            }
        }
    }
}

/// How many would go, by the rules of `ProviderAdmin::prune_executions`.
fn doomed(executions: &[ExecutionInfo], current: u64, options: &PruneOptions) -> u64 {
    let newest_first = executions.iter().rev().enumerate();
    let keep = options
        .keep_last
        .map_or(0, |keep| usize::try_from(keep).unwrap_or(usize::MAX));
    let old = |at: Option<u64>| {
        options
            .completed_before
            .is_none_or(|before| at.is_some_and(|at| at < before))
    };
    newest_first
        .filter(|(place, info)| {
            *place >= keep && info.execution_id != current && info.status != "Running" && old(info.completed_at)
        })
        .count() as u64
}

fn show(chosen: &[Prunable], output: &mut Output) -> Result<(), CliError> {
    let (instances, executions) = (chosen.len() as u64, chosen.iter().map(|(_, doomed)| doomed).sum());
    let text = format!(
        "would remove {} of {}; nothing was removed: to remove them, add --yes",
        count(executions, "execution"),
        count(instances, "instance")
    );
    output.say(
        &json!({ "dry_run": true, "instances": instances, "executions": executions }),
        text,
    )
}

async fn prune_chosen(client: &Client, chosen: Vec<Prunable>, options: PruneOptions) -> Result<PruneResult, CliError> {
    if chosen.is_empty() {
        return Ok(PruneResult::default());
    }
    let filter = InstanceFilter {
        limit: u32::try_from(chosen.len()).ok(),
        instance_ids: Some(chosen.into_iter().map(|(id, _)| id).collect()),
        ..InstanceFilter::default()
    };
    Ok(client.prune_executions_bulk(filter, options).await?)
}
