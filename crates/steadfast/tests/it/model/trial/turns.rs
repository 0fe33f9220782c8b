//! Turns: claimed, acknowledged, given back, renewed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use duroxide::providers::{ExecutionMetadata, ScheduledActivityIdentifier, WorkItem};
use duroxide::{ErrorDetails, Event, EventKind};

use super::{Claim, Difference, Trial, back, outcome, same, signal, target, timed, unexpected};
use crate::model::command::{Change, End, Span, Tag, Turn};
use crate::model::reference::{Call, Job, Moment, Sure};

/// What a turn hands to the store.
#[derive(Debug, Default)]
struct Acked {
    events: Vec<Event>,
    jobs: Vec<WorkItem>,
    messages: Vec<WorkItem>,
    /// When a timer is to fire.
    timer: Option<Instant>,
    metadata: ExecutionMetadata,
    cancelled: Vec<ScheduledActivityIdentifier>,
}

impl Trial {
    pub(super) async fn fetch_turn(&mut self, caller: usize, lease: Span) -> Result<(), Difference> {
        let fetch = self.callers[caller].fetch_orchestration_item(lease.time(), Duration::ZERO, None);
        let (fetched, call) = timed(fetch).await;
        let Some((item, token, attempts)) = fetched.map_err(unexpected)? else {
            let missed = self
                .reference
                .instances
                .iter()
                .find(|(_, i)| i.available(call) == Sure::Yes);
            return missed.map_or(Ok(()), |(id, _)| Err(format!("nothing was found, but {id} is due")));
        };
        let number = self.turns.len();
        let id = item.instance.clone();
        let keeps_apart = self.reference.keeps_apart();
        let instance = self
            .reference
            .instances
            .get_mut(&id)
            .ok_or_else(|| format!("{id} is not known"))?;
        if instance.available(call) == Sure::No {
            return Err(format!("{id} was handed over and is not due: {item:?}"));
        }
        let expected = instance.hand_over(&item.messages, number, call)?;
        if keeps_apart && attempts + 1 == expected {
            // Its lease ended beside something that is kept apart.
            instance.unspent(number);
        } else {
            same("attempts", &attempts, &expected)?;
        }
        instance.lease = Some((number, Moment::after(call, lease.time())));
        instance.claims += 1;
        let history = instance
            .executions
            .get(&instance.execution)
            .map_or(&[][..], |e| &e.events);
        same_events(&item.history, history)?;
        if let Some(error) = item.history_error {
            return Err(format!("history error {error}"));
        }
        let values: BTreeMap<String, String> = item.kv_snapshot.into_iter().map(|(key, kv)| (key, kv.value)).collect();
        same("key-values of earlier executions", &values, &instance.base)?;
        let next = item
            .messages
            .iter()
            .any(|m| matches!(m, WorkItem::ContinueAsNew { .. }));
        if instance.named {
            same("execution", &item.execution_id, &instance.execution)?;
            same("name", &item.orchestration_name.as_str(), &"trial")?;
        }
        let next = next && instance.status == "ContinuedAsNew";
        let begins = !instance.named || next;
        self.turns.push(Claim {
            token,
            instance: id,
            execution: instance.execution + u64::from(next),
            next_event: if begins {
                1
            } else {
                history.last().map_or(1, |e| e.event_id + 1)
            },
            begins,
            items: item.messages,
        });
        Ok(())
    }

    pub(super) async fn ack_turn(&mut self, caller: usize, claim: u8, turn: &Turn) -> Result<(), Difference> {
        let Some(number) = back(&self.turns, claim) else {
            return Ok(());
        };
        let acked = self.acked(number, turn);
        let claim = &self.turns[number];
        let (id, execution) = (claim.instance.clone(), claim.execution);
        let ack = self.callers[caller].ack_orchestration_item(
            &claim.token,
            execution,
            acked.events.clone(),
            acked.jobs.clone(),
            acked.messages.clone(),
            acked.metadata.clone(),
            acked.cancelled.clone(),
        );
        let (answer, call) = timed(ack).await;
        let held = self
            .reference
            .instances
            .get(&id)
            .map_or(Sure::No, |instance| instance.holds(number, call));
        let taken = |event: &Event| {
            let execution = self
                .reference
                .instances
                .get(&id)
                .and_then(|i| i.executions.get(&execution));
            execution.is_some_and(|e| e.events.iter().any(|old| old.event_id == event.event_id))
        };
        let repeats = acked.events.iter().any(taken);
        if outcome(&answer, held.and(Sure::from(!repeats)))? {
            self.apply(number, acked);
        }
        Ok(())
    }

    /// What the turn writes, as the runtime would put it.
    fn acked(&mut self, number: usize, turn: &Turn) -> Acked {
        let mut acked = Acked::default();
        let (id, execution, mut next) = {
            let claim = &self.turns[number];
            (claim.instance.clone(), claim.execution, claim.next_event)
        };
        if self.turns[number].begins {
            acked.metadata.orchestration_name = Some("trial".to_owned());
            acked.metadata.orchestration_version = Some("1.0.0".to_owned());
            acked.metadata.parent_instance_id = self.turns[number].items.iter().find_map(|item| match item {
                WorkItem::StartOrchestration { parent_instance, .. } => parent_instance.clone(),
                _ => None,
            });
            let input = self.fresh();
            write(&mut acked.events, &mut next, &id, execution, started(input));
        }
        for job in &turn.jobs {
            let item = WorkItem::ActivityExecute {
                instance: id.clone(),
                execution_id: execution,
                id: next,
                name: "work".to_owned(),
                input: self.fresh(),
                session_id: job.session.map(|which| self.session(which)),
                tag: (job.tag == Tag::Gpu).then(|| "gpu".to_owned()),
            };
            acked.jobs.push(item);
            let kind = EventKind::ActivityScheduled {
                name: "work".to_owned(),
                input: String::new(),
                session_id: None,
                tag: None,
            };
            write(&mut acked.events, &mut next, &id, execution, kind);
        }
        for change in &turn.changes {
            let kind = match change {
                Change::Set(key, value) => EventKind::KeyValueSet {
                    key: format!("k{key}"),
                    value: value.to_string(),
                    last_updated_at_ms: 7,
                },
                Change::Clear(key) => EventKind::KeyValueCleared { key: format!("k{key}") },
                Change::ClearAll => EventKind::KeyValuesCleared,
            };
            write(&mut acked.events, &mut next, &id, execution, kind);
        }
        if let Some(status) = turn.status {
            let status = status.map(|status| format!("s{status}"));
            write(
                &mut acked.events,
                &mut next,
                &id,
                execution,
                EventKind::CustomStatusUpdated { status },
            );
        }
        self.send(&mut acked, turn, &id, execution, &mut next);
        self.end(&mut acked, turn, &id, execution, &mut next);
        if turn.repeats_event && next > 2 {
            let kind = EventKind::ExternalSubscribed {
                name: "again".to_owned(),
            };
            acked.events = vec![Event::with_event_id(1, id, execution, None, kind)];
        }
        acked
    }

    /// Timers, signals, children, cancelled activities.
    fn send(&mut self, acked: &mut Acked, turn: &Turn, id: &str, execution: u64, next: &mut u64) {
        if let Some(span) = turn.timer {
            acked.timer = Some(Instant::now() + span.time());
            let at = SystemTime::now() + span.time();
            let fire_at_ms = at.duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
            acked.messages.push(WorkItem::TimerFired {
                instance: id.to_owned(),
                execution_id: execution,
                id: *next,
                fire_at_ms,
            });
            write(
                &mut acked.events,
                next,
                id,
                execution,
                EventKind::TimerCreated { fire_at_ms },
            );
        }
        if let Some(other) = turn.signal {
            let data = self.fresh();
            acked.messages.push(signal(&self.id(other), data));
        }
        if let Some(child) = turn.child.map(|child| self.id(child)).filter(|child| child != id) {
            let kind = EventKind::SubOrchestrationScheduled {
                name: "trial".to_owned(),
                instance: child.clone(),
                input: String::new(),
            };
            // A ring of parents is nothing that the runtime could make.
            if !self.reference.tree(&child).contains(id) {
                let start = self.start(&child, Some((id.to_owned(), *next, execution)));
                acked.messages.push(start);
                write(&mut acked.events, next, id, execution, kind);
            }
        }
        let queued = self.reference.jobs.iter().find(|job| job.instance == id);
        if let Some(job) = queued.filter(|_| turn.cancels) {
            acked.cancelled.push(ScheduledActivityIdentifier {
                instance: id.to_owned(),
                execution_id: job.execution,
                activity_id: job.id,
            });
        }
    }

    fn end(&mut self, acked: &mut Acked, turn: &Turn, id: &str, execution: u64, next: &mut u64) {
        let output = self.fresh();
        let (status, kind) = match turn.end {
            End::GoesOn => return,
            End::Completes => (
                "Completed",
                EventKind::OrchestrationCompleted { output: output.clone() },
            ),
            End::Fails => {
                let details = ErrorDetails::Application {
                    kind: duroxide::AppErrorKind::OrchestrationFailed,
                    message: output.clone(),
                    retryable: false,
                };
                ("Failed", EventKind::OrchestrationFailed { details })
            }
            End::ContinuesAsNew => {
                acked.messages.push(WorkItem::ContinueAsNew {
                    instance: id.to_owned(),
                    orchestration: "trial".to_owned(),
                    input: output.clone(),
                    version: Some("1.0.0".to_owned()),
                    parent_instance: None,
                    parent_id: None,
                    parent_execution_id: None,
                    carry_forward_events: Vec::new(),
                    initial_custom_status: None,
                });
                (
                    "ContinuedAsNew",
                    EventKind::OrchestrationContinuedAsNew { input: output.clone() },
                )
            }
        };
        acked.metadata.status = Some(status.to_owned());
        acked.metadata.output = Some(output);
        write(&mut acked.events, next, id, execution, kind);
    }

    /// The turn landed.
    fn apply(&mut self, number: usize, acked: Acked) {
        let (id, execution) = (self.turns[number].instance.clone(), self.turns[number].execution);
        let instance = self.reference.instances.get_mut(&id).expect("its lease was held");
        instance.lease = None;
        instance.claims = 0;
        instance.messages.retain(|message| message.claim != Some(number));
        if acked.metadata.orchestration_name.is_some() {
            if !instance.named {
                instance.parent = acked.metadata.parent_instance_id.clone();
            }
            instance.named = true;
        }
        let status = acked.metadata.status.clone();
        if execution > instance.execution {
            instance.execution = execution;
            instance.status = status.clone().unwrap_or_else(|| "Running".to_owned());
        } else if let Some(status) = &status {
            instance.status.clone_from(status);
        }
        let record = instance.executions.entry(execution).or_default();
        if let Some(status) = &status {
            record.status.clone_from(status);
            record.output.clone_from(&acked.metadata.output);
        } else if record.status.is_empty() {
            record.status = "Running".to_owned();
        }
        record.events.extend(acked.events.iter().cloned());
        for event in &acked.events {
            match &event.kind {
                EventKind::KeyValueSet { key, value, .. } => {
                    instance.delta.insert(key.clone(), Some(value.clone()));
                }
                EventKind::KeyValueCleared { key } => {
                    instance.delta.insert(key.clone(), None);
                }
                EventKind::KeyValuesCleared => {
                    let keys: Vec<String> = instance.values().into_keys().collect();
                    instance.delta.extend(keys.into_iter().map(|key| (key, None)));
                }
                EventKind::CustomStatusUpdated { status } => {
                    instance.custom = (status.clone(), instance.custom.1 + 1);
                }
                _ => {}
            }
        }
        if status.is_some() {
            instance.merge_values();
        }
        let gone = |job: &Job| {
            let is = |c: &ScheduledActivityIdentifier| (c.execution_id, c.activity_id) == (job.execution, job.id);
            job.instance == id && acked.cancelled.iter().any(is)
        };
        self.reference.jobs.retain(|job| !gone(job));
        self.reference.jobs.extend(acked.jobs.into_iter().map(queued));
        for item in acked.messages {
            let fires = matches!(item, WorkItem::TimerFired { .. });
            let at = acked.timer.filter(|_| fires);
            let visible = at.map(|at| Moment::after(Call { begun: at, ended: at }, Duration::ZERO));
            let to = target(&item).to_owned();
            self.reference.send(&to, item, visible);
        }
    }

    pub(super) async fn abandon_turn(
        &mut self,
        caller: usize,
        claim: u8,
        delay: Option<Span>,
        ignore: bool,
    ) -> Result<(), Difference> {
        let Some(number) = back(&self.turns, claim) else {
            return Ok(());
        };
        let claim = &self.turns[number];
        let abandon = self.callers[caller].abandon_orchestration_item(&claim.token, delay.map(Span::time), ignore);
        let (answer, call) = timed(abandon).await;
        let instance = self.reference.instances.get_mut(&claim.instance);
        let current = instance
            .as_ref()
            .map_or(Sure::No, |instance| instance.claimed_by(number, call));
        if outcome(&answer, current)? {
            let instance = instance.expect("it was just there");
            instance.lease = None;
            for message in instance.messages.iter_mut().filter(|m| m.claim == Some(number)) {
                message.claim = None;
                message.attempts -= u32::from(ignore);
                if let Some(delay) = delay {
                    message.visible = Some(Moment::after(call, delay.time()));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn renew_turn(&mut self, caller: usize, claim: u8, lease: Span) -> Result<(), Difference> {
        let Some(number) = back(&self.turns, claim) else {
            return Ok(());
        };
        let claim = &self.turns[number];
        let renew = self.callers[caller].renew_orchestration_item_lock(&claim.token, lease.time());
        let (answer, call) = timed(renew).await;
        let instance = self.reference.instances.get_mut(&claim.instance);
        let held = instance
            .as_ref()
            .map_or(Sure::No, |instance| instance.holds(number, call));
        if outcome(&answer, held)? {
            instance.expect("it was just there").lease = Some((number, Moment::after(call, lease.time())));
        }
        Ok(())
    }
}

fn started(input: String) -> EventKind {
    EventKind::OrchestrationStarted {
        name: "trial".to_owned(),
        version: "1.0.0".to_owned(),
        input,
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        carry_forward_events: None,
        initial_custom_status: None,
    }
}

fn write(events: &mut Vec<Event>, next: &mut u64, id: &str, execution: u64, kind: EventKind) {
    events.push(Event::with_event_id(*next, id, execution, None, kind));
    *next += 1;
}

/// An activity, just queued.
pub(super) fn queued(item: WorkItem) -> Job {
    let WorkItem::ActivityExecute {
        instance,
        execution_id,
        id,
        session_id,
        tag,
        ..
    } = item.clone()
    else {
        panic!("not an activity: {item:?}")
    };
    Job {
        item,
        instance,
        execution: execution_id,
        id,
        gpu: tag.is_some(),
        session: session_id,
        available: None,
        claim: None,
        attempts: 0,
        claims: 0,
    }
}

/// Whether two histories are the same, event by event.
pub(super) fn same_events(found: &[Event], expected: &[Event]) -> Result<(), Difference> {
    let text = |events: &[Event]| -> Vec<String> {
        let one = |event: &Event| serde_json::to_string(event).expect("an event");
        events.iter().map(one).collect()
    };
    same("history", &text(found), &text(expected))
}
