//! Calls of several callers at once: what they were answered must be explained by some order, one after the other, that
//! keeps to who had ended before whom had begun (linearizability, per instance).
//!
//! A claim may pass over what another one holds at that moment: beside other fetches it need not bring everything.
//! Left out: fetches that found nothing, for the same reason, and deletions of an
//! instance whose first claim is under way (its messages count as sent after the deletion: ARCHITECTURE.md).

mod search;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use duroxide::providers::{ExecutionMetadata, Provider, TagFilter, WorkItem};
use duroxide::{Event, EventKind};
use tokio::runtime::Runtime;

use self::search::explain;
use super::command::{INSTANCES, Span};
use super::sequences::Bench;
use crate::harness::Engine;
use crate::locks::dice::Dice;
use crate::op::scene::{activity, identity, signal, start, started};

const TASKS: u64 = 4;
/// Calls of one task; few, because orders are searched.
const CALLS: usize = 12;

/// What was asked, and what was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Sent {
        message: String,
    },
    FetchedTurn {
        claim: usize,
        messages: Vec<String>,
        attempts: u32,
        events: usize,
        /// Other fetches were under way.
        crowded: bool,
    },
    AckedTurn {
        claim: usize,
        events: usize,
        jobs: Vec<u64>,
        landed: bool,
    },
    AbandonedTurn {
        claim: usize,
        ignore: bool,
        landed: bool,
    },
    FetchedJob {
        claim: usize,
        id: u64,
        attempts: u32,
    },
    AckedJob {
        claim: usize,
        message: String,
        landed: bool,
    },
    AbandonedJob {
        claim: usize,
        ignore: bool,
        landed: bool,
    },
    Read {
        events: usize,
    },
}

/// A deed and when it was done.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) begun: Instant,
    pub(super) ended: Instant,
    pub(super) deed: Deed,
}

#[derive(Clone)]
struct Claimed {
    token: String,
    instance: String,
    /// Events there were, for a turn; the activity's id.
    at: u64,
}

/// What all callers share.
#[derive(Default)]
struct Shared {
    records: Mutex<BTreeMap<String, Vec<Record>>>,
    turns: Mutex<Vec<Claimed>>,
    jobs: Mutex<Vec<Claimed>>,
    /// When turns were asked for, found or not.
    fetches: Mutex<Vec<(Instant, Instant)>>,
}

impl Shared {
    fn note(&self, instance: &str, begun: Instant, deed: Deed) {
        let ended = Instant::now();
        let mut records = self.records.lock().unwrap();
        records
            .entry(instance.to_owned())
            .or_default()
            .push(Record { begun, ended, deed });
    }
}

struct Caller {
    provider: Arc<dyn Provider>,
    shared: Arc<Shared>,
    dice: Dice,
    prefix: String,
    task: u64,
    calls: u64,
}

/// What tells messages apart.
fn label(item: &WorkItem) -> String {
    match item {
        WorkItem::ExternalRaised { data, .. } => data.clone(),
        WorkItem::ActivityCompleted { result, .. } => result.clone(),
        WorkItem::StartOrchestration { input, .. } => input.clone(),
        other => panic!("not sent: {other:?}"),
    }
}

impl Caller {
    async fn run(mut self) {
        for _ in 0..CALLS {
            self.calls += 1;
            match self.dice.below(12) {
                0 => self.send(true).await,
                1 | 2 => self.send(false).await,
                3 | 4 => self.fetch_turn().await,
                5 | 6 => self.ack_turn().await,
                7 => self.abandon_turn().await,
                8 => self.fetch_job().await,
                9 => self.ack_job().await,
                10 => self.abandon_job().await,
                _ => self.read().await,
            }
        }
    }

    fn fresh(&self) -> String {
        format!("{}.{}", self.task, self.calls)
    }

    fn instance(&mut self) -> String {
        format!("{}i{}", self.prefix, self.dice.below(2))
    }

    /// Mostly one of the newest claims.
    fn pick(&mut self, claims: &Mutex<Vec<Claimed>>) -> Option<(usize, Claimed)> {
        let claims = claims.lock().unwrap();
        let newest = claims.len().checked_sub(1)?;
        let number = newest.saturating_sub(self.dice.below(3) as usize);
        Some((number, claims[number].clone()))
    }

    async fn send(&mut self, starts: bool) {
        let (instance, data) = (self.instance(), self.fresh());
        let item = if starts {
            let mut item = start(&instance);
            if let WorkItem::StartOrchestration { input, .. } = &mut item {
                *input = format!("start {data}");
            }
            item
        } else {
            signal(&instance, &data)
        };
        let (begun, message) = (Instant::now(), label(&item));
        self.provider.enqueue_for_orchestrator(item, None).await.expect("send");
        self.shared.note(&instance, begun, Deed::Sent { message });
    }

    async fn fetch_turn(&mut self) {
        let begun = Instant::now();
        let fetch = self
            .provider
            .fetch_orchestration_item(Span::Long.time(), std::time::Duration::ZERO, None);
        let fetched = fetch.await.expect("fetch a turn");
        self.shared.fetches.lock().unwrap().push((begun, Instant::now()));
        let Some((item, token, attempts)) = fetched else {
            return;
        };
        let claimed = Claimed {
            token,
            instance: item.instance.clone(),
            at: item.history.len() as u64,
        };
        let claim = {
            let mut turns = self.shared.turns.lock().unwrap();
            turns.push(claimed);
            turns.len() - 1
        };
        let messages = item.messages.iter().map(label).collect();
        let deed = Deed::FetchedTurn {
            claim,
            messages,
            attempts,
            events: item.history.len(),
            crowded: false,
        };
        self.shared.note(&item.instance, begun, deed);
    }

    async fn ack_turn(&mut self) {
        let shared = Arc::clone(&self.shared);
        let Some((claim, claimed)) = self.pick(&shared.turns) else {
            return;
        };
        let Claimed { token, instance, at } = claimed;
        let first = if at == 0 {
            vec![started(&instance, 1)]
        } else {
            Vec::new()
        };
        let id = at + 1 + first.len() as u64;
        let kind = EventKind::ExternalEvent {
            name: "signal".to_owned(),
            data: self.fresh(),
        };
        let events: Vec<Event> = first
            .into_iter()
            .chain([Event::with_event_id(id, instance.as_str(), 1, None, kind)])
            .collect();
        let jobs = if self.dice.one_in(2) {
            vec![self.task * 1000 + self.calls]
        } else {
            Vec::new()
        };
        let work = jobs.iter().map(|id| activity(&instance, *id)).collect();
        let metadata = if at == 0 {
            identity()
        } else {
            ExecutionMetadata::default()
        };
        let (begun, count) = (Instant::now(), events.len());
        let ack = self
            .provider
            .ack_orchestration_item(&token, 1, events, work, Vec::new(), metadata, Vec::new());
        let landed = settled(ack.await);
        self.shared.note(
            &instance,
            begun,
            Deed::AckedTurn {
                claim,
                events: count,
                jobs,
                landed,
            },
        );
    }

    async fn abandon_turn(&mut self) {
        let shared = Arc::clone(&self.shared);
        let Some((claim, claimed)) = self.pick(&shared.turns) else {
            return;
        };
        let ignore = self.dice.one_in(2);
        let begun = Instant::now();
        let landed = settled(
            self.provider
                .abandon_orchestration_item(&claimed.token, None, ignore)
                .await,
        );
        self.shared
            .note(&claimed.instance, begun, Deed::AbandonedTurn { claim, ignore, landed });
    }

    async fn fetch_job(&mut self) {
        let begun = Instant::now();
        let any = TagFilter::default();
        let fetch = self
            .provider
            .fetch_work_item(Span::Long.time(), std::time::Duration::ZERO, None, &any);
        let Some((item, token, attempts)) = fetch.await.expect("fetch an activity") else {
            return;
        };
        let WorkItem::ActivityExecute { instance, id, .. } = item else {
            panic!("not an activity")
        };
        let claim = {
            let mut jobs = self.shared.jobs.lock().unwrap();
            jobs.push(Claimed {
                token,
                instance: instance.clone(),
                at: id,
            });
            jobs.len() - 1
        };
        self.shared
            .note(&instance, begun, Deed::FetchedJob { claim, id, attempts });
    }

    async fn ack_job(&mut self) {
        let shared = Arc::clone(&self.shared);
        let Some((claim, claimed)) = self.pick(&shared.jobs) else {
            return;
        };
        let message = format!("done {}", self.fresh());
        let completion = WorkItem::ActivityCompleted {
            instance: claimed.instance.clone(),
            execution_id: 1,
            id: claimed.at,
            result: message.clone(),
        };
        let begun = Instant::now();
        let landed = settled(self.provider.ack_work_item(&claimed.token, Some(completion)).await);
        self.shared
            .note(&claimed.instance, begun, Deed::AckedJob { claim, message, landed });
    }

    async fn abandon_job(&mut self) {
        let shared = Arc::clone(&self.shared);
        let Some((claim, claimed)) = self.pick(&shared.jobs) else {
            return;
        };
        let ignore = self.dice.one_in(2);
        let begun = Instant::now();
        let landed = settled(self.provider.abandon_work_item(&claimed.token, None, ignore).await);
        self.shared
            .note(&claimed.instance, begun, Deed::AbandonedJob { claim, ignore, landed });
    }

    async fn read(&mut self) {
        let instance = self.instance();
        let begun = Instant::now();
        let events = self.provider.read(&instance).await.expect("read").len();
        self.shared.note(&instance, begun, Deed::Read { events });
    }
}

/// Whether a call with a token landed; refused it may be, failed not.
fn settled(answer: Result<(), duroxide::providers::ProviderError>) -> bool {
    match answer {
        Ok(()) => true,
        Err(error) => {
            assert!(!error.is_retryable(), "{error:?}");
            false
        }
    }
}

/// Notes which claims were made beside others.
fn mark_crowded(records: &mut BTreeMap<String, Vec<Record>>, fetches: &[(Instant, Instant)]) {
    for record in records.values_mut().flatten() {
        let (begun, ended) = (record.begun, record.ended);
        if let Deed::FetchedTurn { crowded, .. } = &mut record.deed {
            let beside = fetches.iter().filter(|f| f.0 < ended && f.1 > begun);
            // One of them is itself.
            *crowded = beside.count() > 1;
        }
    }
}

/// Rounds of concurrent calls; the first history that no order explains.
pub(super) fn unexplained(open: &dyn Fn(&Runtime) -> Bench, rounds: u32, seed: u64) -> Option<Vec<Record>> {
    let runtime = Runtime::new().expect("a runtime");
    let bench = open(&runtime);
    let mut found = None;
    for round in 0..rounds {
        let shared = Arc::new(Shared::default());
        let prefix = format!("c{round}");
        runtime.block_on(async {
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| {
                    let caller = Caller {
                        provider: Arc::clone(&bench.callers[task as usize % bench.callers.len()]),
                        shared: Arc::clone(&shared),
                        dice: Dice::new(seed.wrapping_add(u64::from(round) << 16), task),
                        prefix: prefix.clone(),
                        task,
                        calls: 0,
                    };
                    tokio::spawn(caller.run())
                })
                .collect();
            for task in tasks {
                task.await.expect("a caller does not panic");
            }
            let ids: Vec<String> = (0..INSTANCES).map(|n| format!("{prefix}i{n}")).collect();
            let admin = bench.callers[0]
                .as_management_capability()
                .expect("both engines have one");
            admin.delete_instances_atomic(&ids, true).await.expect("clear");
        });
        let mut records = std::mem::take(&mut *shared.records.lock().unwrap());
        mark_crowded(&mut records, &shared.fetches.lock().unwrap());
        found = records.into_values().find(|history| !explain(history));
        if found.is_some() {
            break;
        }
    }
    runtime.block_on(bench.close());
    found
}

fn is_explained(engine: Engine) {
    let seed = super::seed();
    if let Some(mut history) = unexplained(&Bench::on(engine), super::cases(150), seed) {
        history.sort_by_key(|record| record.begun);
        let first = history[0].begun;
        let line = |r: &Record| {
            let at = |t: Instant| t.duration_since(first).as_micros();
            format!("  {:>7}..{:<7} {:?}", at(r.begun), at(r.ended), r.deed)
        };
        let lines: Vec<String> = history.iter().map(line).collect();
        panic!(
            "{engine:?}: no order explains this (seed {seed}):\n{}",
            lines.join("\n")
        );
    }
}

#[test]
fn postgres_is_linearizable() {
    is_explained(Engine::Postgres);
}

#[test]
fn embedded_is_linearizable() {
    is_explained(Engine::Embedded);
}
