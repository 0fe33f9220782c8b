//! Turns that the store has refused for good, until the runtime says what becomes of their workflow.
//!
//! The runtime then acknowledges the same claim once more, with nothing but the failure: a first turn has lost its name and
//! its start by then, and a parent is not told. Here both are added.
//!
//! Invariants: an instance that failed so is an instance to everybody, and its parent hears of it; memory is bounded. What is
//! forgotten with the process is refused again by the next attempt.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use duroxide::providers::{ExecutionMetadata, WorkItem};
use duroxide::{AppErrorKind, ErrorDetails, Event, EventKind, INITIAL_EVENT_ID, INITIAL_EXECUTION_ID};

/// So many refused turns are remembered; the runtime comes back for each at once.
const MOST: usize = 64;

/// Refused turns by their tokens, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct RefusedTurns(Mutex<VecDeque<(String, Option<Event>)>>);

/// A turn that says that its workflow failed, as the runtime hands it in after a refusal.
pub(crate) struct Failure<'a> {
    pub(crate) execution_id: u64,
    pub(crate) events: &'a mut Vec<Event>,
    pub(crate) messages: &'a mut Vec<WorkItem>,
    pub(crate) metadata: &'a mut ExecutionMetadata,
}

/// The event that begins an execution, if the turn brings it.
pub(crate) fn beginning(events: &[Event]) -> Option<Event> {
    let first = events.first()?;
    matches!(first.kind, EventKind::OrchestrationStarted { .. }).then(|| first.clone())
}

impl RefusedTurns {
    fn list(&self) -> MutexGuard<'_, VecDeque<(String, Option<Event>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a refused turn, with its [`beginning`].
    pub(crate) fn note(&self, token: &str, beginning: Option<Event>) {
        let mut list = self.list();
        list.retain(|(other, _)| other != token);
        if list.len() == MOST {
            list.pop_front();
        }
        list.push_back((token.to_owned(), beginning));
    }

    /// Whether this turn is the failure of one that was refused, and how that began: `Some(None)` when it was not the first
    /// turn of its execution.
    pub(crate) fn find(&self, token: &str, events: &[Event]) -> Option<Option<Event>> {
        let fails = matches!(
            events,
            [Event {
                kind: EventKind::OrchestrationFailed { .. },
                ..
            }]
        );
        let list = self.list();
        let found = list.iter().find(|(other, _)| fails && other == token)?;
        Some(found.1.clone())
    }

    /// Its failure is stored.
    pub(crate) fn forget(&self, token: &str) {
        self.list().retain(|(other, _)| other != token);
    }
}

impl Failure<'_> {
    /// Adds what the runtime no longer knew. `began`: the event that begins the execution; `new`: it is not stored yet.
    pub(crate) fn complete(self, began: Event, new: bool) {
        let EventKind::OrchestrationStarted {
            name,
            version,
            parent_instance,
            parent_id,
            parent_execution_id,
            ..
        } = &began.kind
        else {
            return;
        };
        if let (Some(parent), Some(parent_id)) = (parent_instance, parent_id)
            && let Some(details) = self.events.iter().find_map(failure)
        {
            let told = WorkItem::SubOrchFailed {
                parent_instance: parent.clone(),
                parent_execution_id: parent_execution_id.unwrap_or(INITIAL_EXECUTION_ID),
                parent_id: *parent_id,
                details: for_parent(details),
            };
            self.messages.push(told);
        }
        if new {
            self.metadata.orchestration_name = Some(name.clone());
            self.metadata.orchestration_version = Some(version.clone());
            self.metadata.parent_instance_id.clone_from(parent_instance);
            self.metadata.pinned_duroxide_version = semver::Version::parse(&began.duroxide_version).ok();
            for (event, id) in self.events.iter_mut().zip(INITIAL_EVENT_ID + 1..) {
                event.event_id = id;
                event.execution_id = self.execution_id;
            }
            self.events.insert(0, began);
        }
    }
}

fn failure(event: &Event) -> Option<&ErrorDetails> {
    match &event.kind {
        EventKind::OrchestrationFailed { details } => Some(details),
        _ => None,
    }
}

/// What a parent is told: a failure of its child that it may handle. An infrastructure error would end the parent as well.
fn for_parent(details: &ErrorDetails) -> ErrorDetails {
    ErrorDetails::Application {
        kind: AppErrorKind::OrchestrationFailed,
        message: details.display_message(),
        retryable: false,
    }
}
