//! What the checker judges: the ledgers, and the store as it stands when all is over.
//!
//! Invariant: read through the provider's own interface, by a process that had no part in the run.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use duroxide::Event;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use steadfast::inspect::Inspect;

use super::follow::Feed;
use super::ledger::Line;

/// One execution as it stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Execution {
    pub(crate) status: String,
    pub(crate) events: Vec<Event>,
}

/// One instance as it stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) output: Option<String>,
    pub(crate) parent: Option<String>,
    pub(crate) execution: u64,
    pub(crate) executions: BTreeMap<u64, Execution>,
    pub(crate) values: BTreeMap<String, String>,
}

/// Everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evidence {
    pub(crate) lines: Vec<Line>,
    pub(crate) instances: BTreeMap<String, Instance>,
    /// What is still queued, or leased, in words: kind and whom it is for.
    pub(crate) queued: Vec<(String, String)>,
    /// The change feed, as it was handed out.
    pub(crate) feed: Feed,
    /// Everything had ended before the time to drain was over.
    pub(crate) drained: bool,
}

/// All instances of a store.
pub(crate) async fn instances(provider: &Arc<dyn Inspect>) -> Result<BTreeMap<String, Instance>> {
    let ids = provider.list_instances().await?;
    let read = |id: String| async move { Ok::<_, anyhow::Error>((id.clone(), instance(provider, &id).await?)) };
    let mut found = BTreeMap::new();
    let mut reading = futures_util::stream::iter(ids).map(read).buffer_unordered(8);
    while let Some(one) = reading.next().await {
        let (id, one) = one?;
        found.insert(id, one);
    }
    Ok(found)
}

async fn instance(provider: &Arc<dyn Inspect>, id: &str) -> Result<Instance> {
    let info = provider.get_instance_info(id).await?;
    let mut executions = BTreeMap::new();
    for execution in provider.list_executions(id).await? {
        let events = provider.read_with_execution(id, execution).await?;
        let status = provider.get_execution_info(id, execution).await?.status;
        executions.insert(execution, Execution { status, events });
    }
    Ok(Instance {
        name: info.orchestration_name,
        status: info.status,
        output: info.output,
        parent: info.parent_instance_id,
        execution: info.current_execution_id,
        executions,
        values: provider.get_kv_all_values(id).await?.into_iter().collect(),
    })
}
