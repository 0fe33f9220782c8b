//! `steadfast start`: asks for a new instance; a worker takes it when one runs.
//!
//! Invariant: an instance that exists, or whose start is queued, is not started again (duroxide would drop the request
//! silently).

use clap::Args;
use serde_json::json;

use crate::{error::CliError, output::Output, payload, store::Store};

/// Start an instance of an orchestration
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The orchestration's name
    name: String,
    /// The id of the new instance
    instance: String,
    /// The input, passed on as it is; `@file` reads a file, `-` standard input
    #[arg(long, default_value = "null", value_name = "VALUE", allow_hyphen_values = true)]
    input: String,
    /// The orchestration's version; otherwise the worker chooses
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
}

pub(crate) async fn run(store: &Store, arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    let Arguments {
        name,
        instance,
        version,
        ..
    } = arguments;
    if let Some(found) = store.provider.instance(instance).await? {
        let status = found.summary.status;
        return Err(CliError::Refused(format!(
            "instance {instance:?} exists already ({status})"
        )));
    }
    let input = payload::read(&arguments.input)?;
    let client = store.client();
    match version {
        Some(version) => {
            client
                .start_orchestration_versioned(instance, name, version, input)
                .await?
        }
        None => client.start_orchestration(instance, name, input).await?,
    }
    output.say(
        &json!({ "instance_id": instance, "orchestration_name": name, "orchestration_version": version }),
        format!("start of {instance:?} ({name}) is queued"),
    )
}
