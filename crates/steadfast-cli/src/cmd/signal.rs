//! `steadfast signal`: an event for a running instance.
//!
//! Invariant: an instance that would never see the event is refused instead.

use clap::Args;
use serde_json::json;

use crate::{cmd::cancel::require_running, error::CliError, output::Output, payload, store::Store};

/// Send an event to a running instance
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The instance's id
    instance: String,
    /// The event's name, or with --queue that of the queue
    event: String,
    /// The event's data, passed on as it is; `@file` reads a file, `-` standard input
    #[arg(long, default_value = "null", value_name = "VALUE", allow_hyphen_values = true)]
    data: String,
    /// Put it into the instance's queue of this name, where it stays until it is taken; without, an instance that does
    /// not wait for the event may miss it
    #[arg(long)]
    queue: bool,
}

pub(crate) async fn run(store: &Store, arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    let Arguments {
        instance, event, queue, ..
    } = arguments;
    require_running(store, instance).await?;
    let data = payload::read(&arguments.data)?;
    let client = store.client();
    if *queue {
        client.enqueue_event(instance, event, data).await?;
    } else {
        client.raise_event(instance, event, data).await?;
    }
    output.say(
        &json!({ "instance_id": instance, "event": event, "queue": queue }),
        format!("event {event:?} for {instance:?} is queued"),
    )
}
