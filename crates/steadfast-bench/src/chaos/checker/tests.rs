//! Doctored runs: each breaks one promise, and the checker says which.

use std::collections::BTreeMap;

use duroxide::{Event, EventKind};
use steadfast::feed::Kind as Happened;

use super::{Evidence, judge};
use crate::chaos::evidence::{Execution, Instance};
use crate::chaos::follow::{Feed, Reading, Seen};
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
    let instances: BTreeMap<_, _> = instances.into_iter().map(|(id, one)| (id.to_owned(), one)).collect();
    Evidence {
        lines,
        feed: feed(&instances),
        instances,
        queued: Vec::new(),
        drained: true,
    }
}

/// The feed of these instances, one after the other, as both readers were handed it.
fn feed(instances: &BTreeMap<String, Instance>) -> Feed {
    let mut events = Vec::new();
    for (id, instance) in instances {
        for (number, execution) in &instance.executions {
            for event in &execution.events {
                events.push(Seen {
                    sequence: events.len() as u64 + 1,
                    instance: id.clone(),
                    execution: *number,
                    kind: match event.kind {
                        EventKind::OrchestrationStarted { .. } => Happened::Started,
                        EventKind::ActivityScheduled { .. } => Happened::ActivityScheduled,
                        EventKind::ActivityCompleted { .. } => Happened::ActivityCompleted,
                        _ => Happened::Completed,
                    },
                    event_id: Some(event.event_id),
                });
            }
        }
    }
    let reading = Reading {
        events,
        caught_up: true,
        trouble: None,
    };
    Feed {
        followed: reading.clone(),
        afterwards: reading,
    }
}

const FEED: &str = "the change feed agrees with all of it";

/// What the checker says of a run in which something was changed, and not the feed.
fn after(doctor: impl FnOnce(&mut Evidence)) -> Vec<String> {
    let mut evidence = sound();
    doctor(&mut evidence);
    let verdicts = judge(&evidence).into_iter();
    let others = verdicts.filter(|verdict| verdict.promise != FEED);
    others.flat_map(|verdict| verdict.violations).collect()
}

/// What the checker says of the feed where that, or what it is about, was changed.
fn about_the_feed(doctor: impl FnOnce(&mut Evidence)) -> Vec<String> {
    let mut evidence = sound();
    doctor(&mut evidence);
    let verdicts = judge(&evidence).into_iter();
    let feeds = verdicts.filter(|verdict| verdict.promise == FEED);
    feeds.flat_map(|verdict| verdict.violations).collect()
}

fn the_feed_is_wrong(doctor: impl FnOnce(&mut Evidence), about: &str) {
    let found = about_the_feed(doctor);
    assert!(
        found.iter().any(|violation| violation.contains(about)),
        "{found:?} instead of one about {about:?}"
    );
}

/// Changes what both readers were handed, and gives the rest dense sequences again.
fn told(change: impl Fn(&mut Vec<Seen>)) -> impl FnOnce(&mut Evidence) {
    move |evidence| {
        for reading in [&mut evidence.feed.followed, &mut evidence.feed.afterwards] {
            change(&mut reading.events);
            for (event, sequence) in reading.events.iter_mut().zip(1..) {
                event.sequence = sequence;
            }
        }
    }
}

fn happened(instance: &str, kind: Happened) -> Seen {
    Seen {
        sequence: 0,
        instance: instance.to_owned(),
        execution: 1,
        kind,
        event_id: None,
    }
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
    assert_eq!(about_the_feed(|_| {}), [] as [&str; 0]);
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

#[test]
fn work_that_an_idle_process_overslept_is_seen() {
    let expected = |instance: &str, within_ms| {
        let instance = instance.to_owned();
        line(1_000, 1, Fact::Expected { instance, within_ms })
    };
    one_violation(
        |e| e.lines.push(expected(TIMERS, 50)),
        "lay in an idle store for 100 ms",
    );
    one_violation(|e| e.lines.push(expected("probe-idle-0", 50)), "and was never begun");
    assert_eq!(after(|e| e.lines.push(expected(TIMERS, 500))), [] as [&str; 0]);
}

#[test]
fn a_feed_that_nobody_could_read_to_its_end_is_seen() {
    the_feed_is_wrong(
        |e| e.feed.followed.caught_up = false,
        "that followed did not come to the feed's end",
    );
    the_feed_is_wrong(
        |e| e.feed.afterwards.trouble = Some("damaged".to_owned()),
        "afterwards could not read on: damaged",
    );
    the_feed_is_wrong(
        |e| drop(e.feed.followed.events.remove(2)),
        "was handed 4 where 3 belongs",
    );
    the_feed_is_wrong(
        |e| drop(e.feed.followed.events.pop()),
        "the one reader was handed 5 events",
    );
    the_feed_is_wrong(|e| e.feed.followed.events[1].instance.push('x'), "the readers differ");
}

#[test]
fn a_feed_that_lost_doubled_or_swapped_events_is_seen() {
    the_feed_is_wrong(told(|events| drop(events.remove(1))), "where (1, 2) belongs");
    the_feed_is_wrong(
        told(|events| events.insert(1, events[1].clone())),
        "where (1, 3) belongs",
    );
    the_feed_is_wrong(told(|events| events.swap(1, 2)), "where (1, 2) belongs");
    the_feed_is_wrong(told(|events| events.truncate(4)), "and the feed does not know it");
    the_feed_is_wrong(told(|events| events.truncate(5)), "and came to [] in the feed");
    the_feed_is_wrong(
        told(|events| events.retain(|e| e.event_id != Some(4))),
        "began 1 times and came to []",
    );
    the_feed_is_wrong(
        told(|events| events[1].kind = Happened::TimerCreated),
        "and the feed says Some(TimerCreated)",
    );
    let again = |events: &mut Vec<Seen>| {
        let mut end = events[3].clone();
        end.event_id = Some(5);
        events.insert(4, end);
    };
    the_feed_is_wrong(told(again), "where (2, 1) belongs");
    let reborn = |events: &mut Vec<Seen>| {
        let mut start = events[0].clone();
        start.execution = 2;
        events.insert(4, start);
    };
    the_feed_is_wrong(told(reborn), "comes after the end");
}

#[test]
fn a_feed_that_is_silent_about_removals_is_seen() {
    let gone = |e: &mut Evidence| drop(e.instances.remove(TIMERS));
    the_feed_is_wrong(gone, "is gone, and the feed does not say so");
    the_feed_is_wrong(
        |e| e.lines.extend(asked(5_000, Ask::Delete, TIMERS, "")),
        "was deleted, and the feed does not say so",
    );
    the_feed_is_wrong(
        told(|events| events.push(happened(TIMERS, Happened::Deleted))),
        "is there, and the feed does not know it",
    );
    the_feed_is_wrong(
        told(|events| events.push(happened(TIMERS, Happened::Pruned))),
        "up to 0 are gone, and the feed says up to 1",
    );
    the_feed_is_wrong(
        |e| drop(timers(e).executions.remove(&1)),
        "up to 1 are gone, and the feed says up to 0",
    );
    let deleted = |e: &mut Evidence| {
        told(|events| events.push(happened(TIMERS, Happened::Deleted)))(e);
        e.instances.remove(TIMERS);
    };
    assert_eq!(about_the_feed(deleted), [] as [&str; 0]);
}
