//! `steadfast show`: everything about one instance but its history.
//!
//! Invariant: read-only; what is shown was read one after the other, so a running instance may move on in between.

use std::collections::BTreeMap;

use clap::Args;
use duroxide::{SystemStats, providers::ExecutionInfo};
use serde::Serialize;
use serde_json::{Value, json};
use steadfast::inspect::{InstanceDetail, PENDING};

use crate::{
    clock,
    cmd::list::{Row, orchestration},
    error::CliError,
    output::{Grid, Output, count, or_dash, printable, shorten},
    store::Store,
};

/// Characters of a value before it is cut in a table; `--json` never cuts.
const SHORT: usize = 200;
/// The same in a cell beside others.
const CELL: usize = 60;

/// Show one instance: state, executions, key-values, sizes, parent and children
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The instance's id
    instance: String,
}

struct Portrait {
    detail: InstanceDetail,
    executions: Vec<ExecutionInfo>,
    kv: BTreeMap<String, String>,
    statistics: Option<SystemStats>,
    children: Vec<String>,
}

/// As programs see it.
#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    summary: Row<'a>,
    output: Option<&'a str>,
    custom_status: Option<&'a str>,
    custom_status_version: u64,
    replay_version: Option<String>,
    pending_messages: u64,
    lease_left_ms: Option<i64>,
    executions: Vec<Value>,
    kv: &'a BTreeMap<String, String>,
    statistics: Option<Value>,
    children: &'a [String],
}

pub(crate) async fn run(store: &Store, arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    let id = arguments.instance.as_str();
    let detail = store.instance(id).await?;
    let portrait = Portrait {
        executions: store.provider.executions(id).await?,
        kv: store.provider.get_kv_all_values(id).await?.into_iter().collect(),
        statistics: store.provider.get_instance_stats(id).await?,
        children: store.provider.list_children(id).await?,
        detail,
    };
    if output.is_json() {
        output.json(&document(&portrait))
    } else {
        print(&portrait, output)
    }
}

fn document(portrait: &Portrait) -> Document<'_> {
    let detail = &portrait.detail;
    Document {
        summary: Row::from(&detail.summary),
        output: detail.output.as_deref(),
        custom_status: detail.custom_status.as_deref(),
        custom_status_version: detail.custom_status_version,
        replay_version: detail.replay_version.as_ref().map(ToString::to_string),
        pending_messages: detail.pending_messages,
        lease_left_ms: detail.lease_left_ms,
        executions: portrait.executions.iter().map(execution).collect(),
        kv: &portrait.kv,
        statistics: portrait.statistics.as_ref().map(statistics),
        children: &portrait.children,
    }
}

fn execution(info: &ExecutionInfo) -> Value {
    json!({
        "execution_id": info.execution_id,
        "status": info.status,
        "output": info.output,
        "started_at_ms": info.started_at,
        "completed_at_ms": info.completed_at,
        "event_count": info.event_count,
    })
}

fn statistics(stats: &SystemStats) -> Value {
    json!({
        "history_event_count": stats.history_event_count,
        "history_size_bytes": stats.history_size_bytes,
        "queue_pending_count": stats.queue_pending_count,
        "kv_user_key_count": stats.kv_user_key_count,
        "kv_total_value_bytes": stats.kv_total_value_bytes,
    })
}

fn print(portrait: &Portrait, output: &mut Output) -> Result<(), CliError> {
    print_state(portrait, output)?;
    if !portrait.executions.is_empty() {
        print_executions(&portrait.executions, output)?;
    }
    if !portrait.kv.is_empty() {
        let mut table = Grid::new(&["KEY", "VALUE"]);
        for (key, value) in &portrait.kv {
            table.add_row([printable(key), shorten(value, SHORT)]);
        }
        output.line("")?;
        output.table(&table)?;
    }
    if !portrait.children.is_empty() {
        let mut table = Grid::new(&["CHILDREN"]);
        for child in &portrait.children {
            table.add_row([printable(child)]);
        }
        output.line("")?;
        output.table(&table)?;
    }
    Ok(())
}

fn print_state(portrait: &Portrait, output: &mut Output) -> Result<(), CliError> {
    let detail = &portrait.detail;
    let summary = &detail.summary;
    let now = clock::now_ms();
    let mut table = Grid::bare();
    let mut field = |name: &str, value: String| -> Result<(), CliError> {
        table.add_row([name.to_owned(), value]);
        Ok(())
    };
    field("instance", printable(&summary.instance_id))?;
    field("orchestration", orchestration(summary))?;
    field("status", printable(&summary.status))?;
    if let Some(text) = &detail.output {
        field("output", shorten(text, SHORT))?;
    }
    if let Some(text) = &detail.custom_status {
        let version = detail.custom_status_version;
        field("custom status", format!("{} (version {version})", shorten(text, SHORT)))?;
    }
    field("created", clock::stamp_and_age(summary.created_at_ms, now))?;
    field("updated", clock::stamp_and_age(summary.updated_at_ms, now))?;
    field("parent", or_dash(summary.parent_instance_id.as_deref()))?;
    if let Some(version) = &detail.replay_version {
        field("pinned to", format!("duroxide {version}"))?;
    }
    field("messages", format!("{} waiting", detail.pending_messages))?;
    let turn = lease(detail.lease_left_ms);
    let pending = summary.status == PENDING && detail.lease_left_ms.is_none();
    field(
        "turn",
        if pending {
            "no worker has taken it yet".to_owned()
        } else {
            turn
        },
    )?;
    if let Some(stats) = &portrait.statistics {
        let sizes = |number, noun, bytes| format!("{}, {}", count(number, noun), count(bytes, "byte"));
        let history = sizes(stats.history_event_count, "event", stats.history_size_bytes);
        field("history", history)?;
        let values = sizes(stats.kv_user_key_count, "key", stats.kv_total_value_bytes);
        field("key-values", values)?;
        field("carried over", count(stats.queue_pending_count, "event"))?;
    }
    output.table(&table)?;
    output.line("")
}

fn lease(left_ms: Option<i64>) -> String {
    match left_ms.map(u64::try_from) {
        None => "no worker has it".to_owned(),
        Some(Ok(left)) => format!("a worker has it, for another {}", clock::span(left)),
        Some(Err(_)) => "the lease of the worker that had it has run out".to_owned(),
    }
}

fn print_executions(executions: &[ExecutionInfo], output: &mut Output) -> Result<(), CliError> {
    let now = clock::now_ms();
    let mut table = Grid::new(&["EXECUTION", "STATUS", "EVENTS", "STARTED", "COMPLETED", "OUTPUT"]);
    for info in executions {
        table.add_row([
            info.execution_id.to_string(),
            printable(&info.status),
            info.event_count.to_string(),
            clock::stamp_and_age(info.started_at, now),
            info.completed_at
                .map_or_else(|| "-".to_owned(), |at| clock::stamp_and_age(at, now)),
            info.output
                .as_deref()
                .map_or_else(|| "-".to_owned(), |text| shorten(text, CELL)),
        ]);
    }
    table.keep_whole(&[0, 1, 2]);
    output.table(&table)
}
