//! `steadfast delete`: removes instances with their children, histories, key-values and messages.
//!
//! Invariant: of several named instances, none is deleted when one of them does not exist.

use clap::Args;
use duroxide::{DeleteInstanceResult, InstanceFilter};
use serde_json::json;

use crate::{
    clock,
    error::CliError,
    output::{Output, count},
    store::Store,
};

/// Delete instances by id, or those that ended some time ago
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["instances", "completed_before"]))]
pub(crate) struct Arguments {
    /// The instances' ids; children go with their root
    #[arg(value_name = "INSTANCE")]
    instances: Vec<String>,
    /// Also those that still run, without telling them (cancel first where you can), and those that no worker has taken
    #[arg(long, requires = "instances")]
    force: bool,
    /// All that ended before then: an age (7d, 2h 30m) or a time (2026-01-31, 2026-01-31T12:00:00Z)
    #[arg(long, value_name = "WHEN")]
    completed_before: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 1_000, conflicts_with = "instances", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

pub(crate) async fn run(store: &Store, arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    let total = match &arguments.completed_before {
        Some(when) => delete_old(store, when, arguments.limit).await?,
        None => delete_named(store, &arguments.instances, arguments.force).await?,
    };
    output.say(
        &json!({
            "instances_deleted": total.instances_deleted,
            "executions_deleted": total.executions_deleted,
            "events_deleted": total.events_deleted,
            "queue_messages_deleted": total.queue_messages_deleted,
        }),
        format!("deleted {}", in_words(&total)),
    )
}

async fn delete_old(store: &Store, when: &str, limit: u32) -> Result<DeleteInstanceResult, CliError> {
    let completed_before = clock::parse_before(when, clock::now_ms()).map_err(CliError::Usage)?;
    let filter = InstanceFilter {
        instance_ids: None,
        completed_before: Some(completed_before),
        limit: Some(limit),
    };
    Ok(store.client().delete_instance_bulk(filter).await?)
}

async fn delete_named(store: &Store, ids: &[String], force: bool) -> Result<DeleteInstanceResult, CliError> {
    for id in ids {
        store.instance(id).await?;
    }
    let client = store.client();
    let mut total = DeleteInstanceResult::default();
    for id in ids {
        match client.delete_instance(id, force).await {
            Ok(result) => add(&mut total, &result),
            Err(error) if total.instances_deleted == 0 => return Err(error.into()),
            Err(error) => {
                let done = in_words(&total);
                return Err(CliError::Refused(format!(
                    "{} (deleted before that: {done})",
                    CliError::from(error)
                )));
            }
        }
    }
    Ok(total)
}

fn add(total: &mut DeleteInstanceResult, one: &DeleteInstanceResult) {
    total.instances_deleted += one.instances_deleted;
    total.executions_deleted += one.executions_deleted;
    total.events_deleted += one.events_deleted;
    total.queue_messages_deleted += one.queue_messages_deleted;
}

fn in_words(result: &DeleteInstanceResult) -> String {
    let DeleteInstanceResult {
        instances_deleted,
        executions_deleted,
        events_deleted,
        queue_messages_deleted,
    } = result;
    let counts = [
        count(*instances_deleted, "instance"),
        count(*executions_deleted, "execution"),
        count(*events_deleted, "event"),
        count(*queue_messages_deleted, "queued message"),
    ];
    counts.join(", ")
}
