//! What the store holds at one moment, while no worker runs.
//!
//! Invariant: read-only. A commit that was on its way when the worker died may still land a moment later; every conclusion
//! drawn from a snapshot holds with it and without it.

use std::collections::{HashMap, HashSet};

use duroxide::{Event, EventKind};
use steadfast::inspect::{Inspect, InstanceQuery, InstanceSummary};

use crate::{
    demo::{job, ledger::Task},
    error::CliError,
};

const PAGE: u32 = 1_000;

/// The store at one moment.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) instances: Vec<InstanceSummary>,
    /// Events in all histories.
    pub(crate) events: u64,
    /// Activities whose completion is in a history.
    pub(crate) completed: HashSet<Task>,
}

impl Snapshot {
    /// Reads all instances and their histories.
    pub(crate) async fn take(provider: &dyn Inspect) -> Result<Self, CliError> {
        let mut snapshot = Self {
            instances: all_instances(provider).await?,
            ..Self::default()
        };
        for instance in &snapshot.instances {
            let history = provider
                .read_history_with_execution_id(&instance.instance_id, instance.execution_id)
                .await?;
            snapshot.events += history.len() as u64;
            snapshot.completed.extend(completed(&history));
        }
        Ok(snapshot)
    }

    /// How many instances of this orchestration have not ended.
    pub(crate) fn unfinished(&self, orchestration: &str) -> usize {
        let running = self.instances.iter().filter(|instance| instance.status == "Running");
        running
            .filter(|instance| instance.orchestration_name == orchestration)
            .count()
    }

    /// Instances that did not end well.
    pub(crate) fn not_completed(&self) -> Vec<&str> {
        let others = self.instances.iter().filter(|instance| instance.status != "Completed");
        others.map(|instance| instance.instance_id.as_str()).collect()
    }
}

async fn all_instances(provider: &dyn Inspect) -> Result<Vec<InstanceSummary>, CliError> {
    let mut all: Vec<InstanceSummary> = Vec::new();
    loop {
        let query = InstanceQuery {
            before: all.last().map(|instance| instance.key),
            limit: PAGE,
            ..InstanceQuery::default()
        };
        let page = provider.instances(query).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

/// The activities that a history says are done.
fn completed(history: &[Event]) -> Vec<Task> {
    let scheduled: HashMap<u64, Task> = history
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::ActivityScheduled { name, input, .. } => Some((event.event_id(), job::task(name, input))),
            _ => None,
        })
        .collect();
    history
        .iter()
        .filter(|event| matches!(event.kind, EventKind::ActivityCompleted { .. }))
        .filter_map(|event| scheduled.get(&event.source_event_id()?).cloned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_names_its_task() {
        let schedule = |id, input: &str| {
            let kind = EventKind::ActivityScheduled {
                name: job::HASH_FILE.to_owned(),
                input: input.to_owned(),
                session_id: None,
                tag: None,
            };
            Event::with_event_id(id, "i", 1, None, kind)
        };
        let result = "x".to_owned();
        let done = Event::with_event_id(4, "i", 1, Some(3), EventKind::ActivityCompleted { result });
        assert_eq!(
            completed(&[schedule(2, "a"), schedule(3, "b"), done]),
            [Task::new(job::HASH_FILE, "b")]
        );
    }
}
