//! Histories: dense, ordered, and such that a replay finds for every completion what it completes.

use std::collections::HashMap;

use duroxide::{Event, EventKind};

use super::Violations;
use crate::chaos::evidence::{Evidence, Execution, Instance};

pub(super) fn sound(evidence: &Evidence) -> Violations {
    let mut wrong = Vec::new();
    for (id, instance) in &evidence.instances {
        for (number, execution) in &instance.executions {
            if let Err(why) = execution_is_sound(instance, *number, execution) {
                wrong.push(format!("{id}, execution {number}: {why}"));
            }
        }
        let newest = instance.executions.keys().next_back().copied();
        if newest != Some(instance.execution) {
            wrong.push(format!(
                "{id} is at execution {}, and the newest is {newest:?}",
                instance.execution
            ));
        }
    }
    wrong
}

fn execution_is_sound(instance: &Instance, number: u64, execution: &Execution) -> Result<(), String> {
    let events = &execution.events;
    for (event, expected) in events.iter().zip(1..) {
        if event.event_id != expected {
            return Err(format!("event {} where {expected} belongs", event.event_id));
        }
        if event.execution_id != number {
            return Err(format!("event {expected} is of execution {}", event.execution_id));
        }
    }
    if !matches!(
        events.first().map(|event| &event.kind),
        Some(EventKind::OrchestrationStarted { .. })
    ) {
        return Err("it does not begin with its start".to_owned());
    }
    let ends = events.iter().filter(|event| event.is_terminal()).count();
    let last_ends = events.last().is_some_and(Event::is_terminal);
    let ended = execution.status != "Running";
    if ends != usize::from(ended) || last_ends != ended {
        return Err(format!("{ends} ends, and it is {}", execution.status));
    }
    if number < instance.execution && execution.status != "ContinuedAsNew" {
        return Err(format!("it is {}, and there is a later one", execution.status));
    }
    completions(events)
}

/// Each completion has one cause before it, of the right kind, and is the only one.
fn completions(events: &[Event]) -> Result<(), String> {
    let mut open: HashMap<u64, &str> = HashMap::new();
    for event in events {
        let completes = match &event.kind {
            EventKind::ActivityScheduled { .. } => {
                open.insert(event.event_id, "activity");
                continue;
            }
            EventKind::TimerCreated { .. } => {
                open.insert(event.event_id, "timer");
                continue;
            }
            EventKind::SubOrchestrationScheduled { .. } => {
                open.insert(event.event_id, "child");
                continue;
            }
            EventKind::ActivityCompleted { .. } | EventKind::ActivityFailed { .. } => "activity",
            EventKind::TimerFired { .. } => "timer",
            EventKind::SubOrchestrationCompleted { .. } | EventKind::SubOrchestrationFailed { .. } => "child",
            _ => continue,
        };
        let cause = event.source_event_id.and_then(|source| open.remove(&source));
        if cause != Some(completes) {
            return Err(format!(
                "event {} completes a {completes}, and finds {cause:?}",
                event.event_id
            ));
        }
    }
    Ok(())
}
