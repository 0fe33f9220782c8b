//! Doctored runs: each breaks one promise, and the checker says which.

use std::collections::BTreeMap;

use duroxide::{Event, EventKind};

use super::{Evidence, judge};
use crate::chaos::evidence::{Execution, Instance};
use crate::chaos::ledger::{Ask, Fact, Line};
use crate::chaos::workflows::Kind;

fn event(id: u64, source: Option<u64>, kind: EventKind) -> Event {
    Event::with_event_id(id, "i", 1, source, kind)
}

fn line(at_ms: u64, process: u32, fact: Fact) -> Line {
    Line { at_ms, process, fact }
}

fn asked(at_ms: u64, ask: Ask, instance: &str, data: &str) -> [Line; 2] {
    let (instance, data) = (instance.to_owned(), data.to_owned());
    let intent = Fact::Intent {
        ask,
        instance: instance.clone(),
        data: data.clone(),
    };
    [
        line(at_ms, 1, intent),
        line(at_ms + 1, 1, Fact::Acknowledged { ask, instance, data }),
    ]
}

fn ran(at_ms: u64, process: u32, instance: &str, activity: &str) -> [Line; 2] {
    let (instance, activity) = (instance.to_owned(), activity.to_owned());
    let began = Fact::Began {
        instance: instance.clone(),
        activity: activity.clone(),
    };
    [
        line(at_ms, process, began),
        line(at_ms + 5, process, Fact::Finished { instance, activity }),
    ]
}

fn instance(output: &str, middle: Vec<EventKind>) -> Instance {
    let started = EventKind::OrchestrationStarted {
        name: "x".to_owned(),
        version: "1".to_owned(),
        input: String::new(),
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        carry_forward_events: None,
        initial_custom_status: None,
    };
    let end = EventKind::OrchestrationCompleted {
        output: output.to_owned(),
    };
    let mut events: Vec<Event> = Vec::new();
    for kind in [started].into_iter().chain(middle).chain([end]) {
        let id = events.len() as u64 + 1;
        let source = matches!(kind, EventKind::ActivityCompleted { .. }).then(|| id - 1);
        events.push(event(id, source, kind));
    }
    Instance {
        name: "x".to_owned(),
        status: "Completed".to_owned(),
        output: Some(output.to_owned()),
        parent: None,
        execution: 1,
        executions: BTreeMap::from([(
            1,
            Execution {
                status: "Completed".to_owned(),
                events,
            },
        )]),
        values: BTreeMap::new(),
    }
}

fn activity() -> Vec<EventKind> {
    let scheduled = EventKind::ActivityScheduled {
        name: "Work".to_owned(),
        input: String::new(),
        session_id: None,
        tag: None,
    };
    vec![scheduled, EventKind::ActivityCompleted { result: "1".to_owned() }]
}

const TIMERS: &str = "c0-3-timers";
const SIGNALS: &str = "c0-4-signals";

/// A run in which all is well.
fn sound() -> Evidence {
    let mut lines = Vec::new();
    lines.extend(asked(1_000, Ask::Start, TIMERS, ""));
    lines.extend(ran(1_100, 7, TIMERS, "1/0"));
    lines.extend(asked(2_000, Ask::Start, SIGNALS, ""));
    lines.extend(asked(2_100, Ask::Signal, SIGNALS, "order 0"));
    lines.extend(asked(2_200, Ask::Signal, SIGNALS, "order 1"));
    lines.extend(asked(2_300, Ask::Signal, SIGNALS, "end"));
    let right = Kind::Timers.output(3).unwrap();
    let instances = [
        (TIMERS, instance(&right, activity())),
        (SIGNALS, instance("[\"order 0\",\"order 1\"]", Vec::new())),
    ];
    Evidence {
        lines,
        instances: instances.into_iter().map(|(id, one)| (id.to_owned(), one)).collect(),
        queued: Vec::new(),
        drained: true,
    }
}

/// What the checker says of a run in which something was changed.
fn after(doctor: impl FnOnce(&mut Evidence)) -> Vec<String> {
    let mut evidence = sound();
    doctor(&mut evidence);
    judge(&evidence)
        .into_iter()
        .flat_map(|verdict| verdict.violations)
        .collect()
}

fn one_violation(doctor: impl FnOnce(&mut Evidence), about: &str) {
    let found = after(doctor);
    assert!(
        found.len() == 1 && found[0].contains(about),
        "{found:?} instead of one about {about:?}"
    );
}

fn timers(evidence: &mut Evidence) -> &mut Instance {
    evidence.instances.get_mut(TIMERS).unwrap()
}

fn events(evidence: &mut Evidence) -> &mut Vec<Event> {
    &mut timers(evidence).executions.get_mut(&1).unwrap().events
}

#[test]
fn a_sound_run_has_no_violation() {
    assert_eq!(after(|_| {}), [] as [&str; 0]);
}

#[test]
fn a_lost_instance_is_seen() {
    let lost = |e: &mut Evidence| {
        e.instances.remove(TIMERS);
    };
    one_violation(lost, "was started and is not there");
}

#[test]
fn a_wrong_result_is_seen() {
    one_violation(|e| timers(e).output = Some("0".to_owned()), "came to");
}

#[test]
fn an_instance_that_did_not_end_is_seen() {
    let found = after(|e| timers(e).status = "Running".to_owned());
    assert!(
        found.iter().any(|v| v.contains("is Running instead of Completed")),
        "{found:?}"
    );
}

#[test]
fn a_failure_that_nobody_meant_is_seen() {
    let found = after(|e| timers(e).status = "Failed".to_owned());
    assert!(found.iter().any(|v| v.contains("failed: ")), "{found:?}");
}

#[test]
fn lost_doubled_and_swapped_events_are_seen() {
    let saw = |what: &'static str| {
        move |e: &mut Evidence| e.instances.get_mut(SIGNALS).unwrap().output = Some(what.to_owned())
    };
    one_violation(saw("[\"order 1\"]"), "saw \"order 0\" 0 times");
    one_violation(saw("[\"order 0\",\"order 0\",\"order 1\"]"), "saw \"order 0\" 2 times");
    one_violation(saw("[\"order 1\",\"order 0\"]"), "out of order");
}

#[test]
fn a_second_run_is_right_only_after_its_lease() {
    one_violation(|e| e.lines.extend(ran(2_100, 8, TIMERS, "1/0")), "1000 ms later");
    assert_eq!(after(|e| e.lines.extend(ran(6_100, 8, TIMERS, "1/0"))), [] as [&str; 0]);
    let paused = |e: &mut Evidence| {
        e.lines.push(line(
            500,
            7,
            Fact::Paused {
                process: 7,
                pause_ms: 4_000,
            },
        ));
        e.lines.extend(ran(2_100, 8, TIMERS, "1/0"));
    };
    assert_eq!(after(paused), [] as [&str; 0]);
}

#[test]
fn an_activity_that_never_ran_is_seen() {
    let unran = |e: &mut Evidence| e.lines.retain(|l| !matches!(l.fact, Fact::Finished { .. }));
    one_violation(unran, "completed activities");
}

#[test]
fn holes_doubles_and_strangers_in_a_history_are_seen() {
    one_violation(|e| drop(events(e).remove(1)), "where 2 belongs");
    one_violation(|e| events(e)[2].source_event_id = Some(9), "finds None");
    let twice = |e: &mut Evidence| {
        let mut again = events(e)[2].clone();
        again.event_id = 4;
        events(e)[3].event_id = 5;
        events(e).insert(3, again);
    };
    let found = after(twice);
    assert!(
        found.iter().any(|v| v.contains("event 4 completes a activity")),
        "{found:?}"
    );
}

#[test]
fn leftovers_are_seen() {
    one_violation(
        |e| e.queued.push(("a message".to_owned(), TIMERS.to_owned())),
        "a message for",
    );
    one_violation(
        |e| {
            e.lines.push(line(
                1,
                1,
                Fact::Overdue {
                    what: "a turn".to_owned(),
                },
            ))
        },
        "a turn",
    );
    one_violation(|e| e.drained = false, "did not come to rest");
    one_violation(
        |e| drop(timers(e).values.insert("count".to_owned(), "1".to_owned())),
        "has the values",
    );
}

#[test]
fn what_was_deleted_or_cancelled_must_be_so() {
    one_violation(
        |e| e.lines.extend(asked(5_000, Ask::Delete, TIMERS, "")),
        "was deleted and is there",
    );
    one_violation(
        |e| e.lines.extend(asked(5_000, Ask::Cancel, TIMERS, "")),
        "was cancelled and came to",
    );
}
