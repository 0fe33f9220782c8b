//! The change feed: a reader that followed through everything, a reader that came afterwards, the histories and the ledger
//! tell the same story.
//!
//! Invariant: nothing is taken from the feed's own code but the names of kinds; what a history's event is called is said here
//! once more.

use std::collections::{BTreeMap, HashMap};

use duroxide::{AppErrorKind, ErrorDetails, EventKind};
use steadfast::feed::Kind as Happened;

use super::{Violations, promised};
use crate::chaos::evidence::{Evidence, Instance};
use crate::chaos::follow::{Reading, Seen};
use crate::chaos::ledger::Ask;
use crate::chaos::workflows::Kind;

/// What the feed tells of an instance from its birth to its deletion, or until now.
type Life<'a> = Vec<&'a Seen>;

pub(super) fn agrees(evidence: &Evidence) -> Violations {
    let (followed, afterwards) = (&evidence.feed.followed, &evidence.feed.afterwards);
    let mut wrong = complete("the reader that followed", followed);
    wrong.extend(complete("the reader that came afterwards", afterwards));
    if let Some(differs) = first_difference(&followed.events, &afterwards.events) {
        wrong.push(differs);
    }
    let lives = lives(&afterwards.events);
    for (id, lives) in &lives {
        for life in lives {
            if let Err(why) = life_is_sound(life) {
                wrong.push(format!("the feed about {id}: {why}"));
            }
        }
    }
    wrong.extend(against_histories(evidence, &lives));
    wrong.extend(against_ledger(evidence, &lives));
    wrong
}

/// A reader came to the end, and was handed every sequence once, in order.
fn complete(who: &str, reading: &Reading) -> Violations {
    let mut wrong = Vec::new();
    if let Some(trouble) = &reading.trouble {
        wrong.push(format!("{who} could not read on: {trouble}"));
    } else if !reading.caught_up {
        wrong.push(format!("{who} did not come to the feed's end in time"));
    }
    let hole = reading.events.iter().zip(1..).find(|(event, at)| event.sequence != *at);
    if let Some((event, at)) = hole {
        wrong.push(format!("{who} was handed {} where {at} belongs", event.sequence));
    }
    wrong
}

fn first_difference(one: &[Seen], other: &[Seen]) -> Option<String> {
    let pairs = one.iter().zip(other);
    let differs = pairs.clone().find(|(one, other)| one != other);
    differs
        .map(|(one, other)| format!("the readers differ: {one:?}, {other:?}"))
        .or_else(|| {
            let (one, other) = (one.len(), other.len());
            (one != other).then(|| format!("the one reader was handed {one} events, the other {other}"))
        })
}

fn lives(events: &[Seen]) -> BTreeMap<&str, Vec<Life<'_>>> {
    let mut all: BTreeMap<&str, Vec<Life<'_>>> = BTreeMap::new();
    for event in events {
        let lives = all.entry(&event.instance).or_default();
        match lives.last_mut().filter(|life| !is_over(life)) {
            Some(life) => life.push(event),
            None => lives.push(vec![event]),
        }
    }
    all
}

fn is_over(life: &Life<'_>) -> bool {
    life.last().is_some_and(|event| event.kind == Happened::Deleted)
}

fn ends(kind: Happened) -> bool {
    matches!(kind, Happened::Completed | Happened::Failed | Happened::Cancelled)
}

/// Executions one after the other, the events of each dense from its start; an end is the last of an execution, and each
/// execution but the newest has one.
fn life_is_sound(life: &Life<'_>) -> Result<(), String> {
    let mut at = (0, 0);
    let mut ended = Some(Happened::ContinuedAsNew);
    for event in life {
        let Some(id) = event.event_id else { continue };
        let next = if ended.is_some() {
            (at.0 + 1, 1)
        } else {
            (at.0, at.1 + 1)
        };
        if (event.execution, id) != next {
            let found = (event.execution, id);
            return Err(format!("event {found:?} at {} where {next:?} belongs", event.sequence));
        }
        if ended.is_some_and(ends) {
            return Err(format!("event {next:?} at {} comes after the end", event.sequence));
        }
        if (event.kind == Happened::Started) != (id == 1) {
            return Err(format!("event {next:?} at {} is {}", event.sequence, event.kind));
        }
        at = next;
        ended = Some(event.kind).filter(|kind| ends(*kind) || *kind == Happened::ContinuedAsNew);
    }
    Ok(())
}

/// What the store holds of a life, the feed told; what the feed told is there, or was said to be removed.
fn against_histories(evidence: &Evidence, lives: &BTreeMap<&str, Vec<Life<'_>>>) -> Violations {
    let mut wrong = Vec::new();
    for (id, lives) in lives {
        let living = lives.last().is_some_and(|life| !is_over(life));
        if living && !evidence.instances.contains_key(*id) {
            wrong.push(format!("{id} is gone, and the feed does not say so"));
        }
    }
    for (id, instance) in &evidence.instances {
        let life = lives.get(id.as_str()).and_then(|lives| lives.last());
        match life.filter(|life| !is_over(life)) {
            Some(life) => wrong.extend(against_history(id, instance, life)),
            None if instance
                .executions
                .values()
                .all(|execution| execution.events.is_empty()) => {}
            None => wrong.push(format!("{id} is there, and the feed does not know it")),
        }
    }
    wrong
}

fn against_history(id: &str, instance: &Instance, life: &Life<'_>) -> Violations {
    let mut wrong = Vec::new();
    let mut told: BTreeMap<u64, HashMap<u64, Happened>> = BTreeMap::new();
    let mut removed = 0;
    for event in life {
        match event.event_id {
            Some(event_id) => drop(told.entry(event.execution).or_default().insert(event_id, event.kind)),
            None => removed = removed.max(event.execution),
        }
    }
    for (number, execution) in &instance.executions {
        let mut told = told.remove(number).unwrap_or_default();
        for event in &execution.events {
            let (expected, found) = (called(&event.kind), told.remove(&event.event_id));
            if found != expected {
                let at = (number, event.event_id);
                wrong.push(format!("{id} {at:?} is {expected:?}, and the feed says {found:?}"));
            }
        }
        if !told.is_empty() {
            wrong.push(format!("{id} {number} has no events {told:?}, which the feed tells"));
        }
    }
    let missing = told.keys().next_back().copied().unwrap_or(0);
    if missing != removed {
        wrong.push(format!(
            "executions of {id} up to {missing} are gone, and the feed says up to {removed}"
        ));
    }
    wrong
}

/// Every acknowledged start began once and ended once; what was promised deleted, was said to be.
fn against_ledger(evidence: &Evidence, lives: &BTreeMap<&str, Vec<Life<'_>>>) -> Violations {
    let mut wrong = Vec::new();
    for id in promised(evidence, Ask::Start) {
        let Some((kind, _)) = Kind::of(&id).filter(|(kind, _)| *kind != Kind::Doomed) else {
            continue;
        };
        let events: Vec<_> = lives.get(id.as_str()).into_iter().flatten().flatten().collect();
        let begins = |event: &&&&Seen| event.kind == Happened::Started && event.execution == 1;
        let begun = events.iter().filter(begins).count();
        let ended: Vec<_> = events
            .iter()
            .map(|event| event.kind)
            .filter(|kind| ends(*kind))
            .collect();
        let end = if kind == Kind::Cancelled {
            Happened::Cancelled
        } else {
            Happened::Completed
        };
        if begun != 1 || ended != [end] {
            wrong.push(format!("{id} began {begun} times and came to {ended:?} in the feed"));
        }
    }
    for id in promised(evidence, Ask::Delete) {
        let last = lives.get(id.as_str()).and_then(|lives| lives.last());
        if !last.is_some_and(is_over) {
            wrong.push(format!("{id} was deleted, and the feed does not say so"));
        }
    }
    wrong
}

/// What the feed calls an event of a history.
fn called(kind: &EventKind) -> Option<Happened> {
    let cancelled = |details: &ErrorDetails| {
        matches!(
            details,
            ErrorDetails::Application {
                kind: AppErrorKind::Cancelled { .. },
                ..
            }
        )
    };
    Some(match kind {
        EventKind::OrchestrationStarted { .. } => Happened::Started,
        EventKind::OrchestrationCompleted { .. } => Happened::Completed,
        EventKind::OrchestrationFailed { details } if cancelled(details) => Happened::Cancelled,
        EventKind::OrchestrationFailed { .. } => Happened::Failed,
        EventKind::OrchestrationContinuedAsNew { .. } => Happened::ContinuedAsNew,
        EventKind::OrchestrationCancelRequested { .. } => Happened::CancelRequested,
        EventKind::ActivityScheduled { .. } => Happened::ActivityScheduled,
        EventKind::ActivityCompleted { .. } => Happened::ActivityCompleted,
        EventKind::ActivityFailed { .. } => Happened::ActivityFailed,
        EventKind::ActivityCancelRequested { .. } => Happened::ActivityCancelRequested,
        EventKind::TimerCreated { .. } => Happened::TimerCreated,
        EventKind::TimerFired { .. } => Happened::TimerFired,
        EventKind::QueueSubscribed { .. } => Happened::QueueSubscribed,
        EventKind::QueueEventDelivered { .. } => Happened::QueueDelivered,
        EventKind::QueueSubscriptionCancelled { .. } => Happened::QueueCancelled,
        EventKind::SubOrchestrationScheduled { .. } => Happened::SubOrchestrationScheduled,
        EventKind::SubOrchestrationCompleted { .. } => Happened::SubOrchestrationCompleted,
        EventKind::SubOrchestrationFailed { .. } => Happened::SubOrchestrationFailed,
        EventKind::SubOrchestrationCancelRequested { .. } => Happened::SubOrchestrationCancelRequested,
        EventKind::KeyValueSet { .. } => Happened::KeyValueSet,
        // No workflow here makes others.
        _ => return None,
    })
}
