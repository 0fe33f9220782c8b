//! `steadfast cancel`: asks an instance to end; it does so at its next turn, or at its first.
//!
//! Invariant: an instance that has ended is left as it is, and that is said.

use clap::Args;
use serde_json::json;
use steadfast::inspect::PENDING;

use crate::{error::CliError, output::Output, store::Store};

/// Cancel a running or pending instance and its children
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The instance's id
    instance: String,
    /// Why, for its history
    #[arg(long, default_value = "cancelled by operator", value_name = "TEXT")]
    reason: String,
}

pub(crate) async fn run(store: &Store, arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    let Arguments { instance, reason } = arguments;
    let status = require_running(store, instance).await?;
    store.client().cancel_instance(instance, reason).await?;
    let when = if status == PENDING {
        ": it ends with its first turn, once a worker takes it (delete --force does not wait)"
    } else {
        ""
    };
    output.say(
        &json!({ "instance_id": instance, "reason": reason }),
        format!("cancellation of {instance:?} is queued{when}"),
    )
}

/// The state of an instance; refuses one that does not exist or has ended: it takes no more messages.
pub(crate) async fn require_running(store: &Store, instance: &str) -> Result<String, CliError> {
    let status = store.instance(instance).await?.summary.status;
    match status.as_str() {
        "Completed" | "Failed" => Err(CliError::Refused(format!(
            "instance {instance:?} has ended already ({status})"
        ))),
        _ => Ok(status),
    }
}
