//! A trial: one sequence of steps on a store and on the reference, compared after every step.
//!
//! Invariant: after a step that the engine answered as it may, the reference holds what the engine holds.

mod jobs;
mod reads;
mod turns;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use duroxide::providers::{InstanceFilter, Provider, ProviderAdmin, ProviderError, PruneOptions, WorkItem};

use super::command::{Command, INSTANCES, Span, Step};
use super::reference::{Call, Moment, Reference, Sure};

/// What differs, in words.
pub(super) type Difference = String;

/// A claim that was handed over, spent or not.
#[derive(Debug)]
struct Claim {
    token: String,
    instance: String,
    /// A turn: the execution it goes on with, its next event, and whether that one begins the execution.
    execution: u64,
    next_event: u64,
    begins: bool,
    /// An activity: its place among the jobs is found by the claim's number.
    items: Vec<WorkItem>,
}

/// The store under test, the reference, and what was claimed.
pub(super) struct Trial {
    callers: Vec<Arc<dyn Provider>>,
    /// Keeps the ids of this trial apart from those before it.
    prefix: String,
    reference: Reference,
    turns: Vec<Claim>,
    jobs: Vec<Claim>,
    /// Makes every payload different.
    serial: u64,
}

impl Trial {
    pub(super) fn new(callers: Vec<Arc<dyn Provider>>, prefix: String) -> Self {
        Self {
            callers,
            prefix,
            reference: Reference::default(),
            turns: Vec::new(),
            jobs: Vec::new(),
            serial: 1000,
        }
    }

    /// Takes all steps, then looks at everything and leaves the store empty.
    pub(super) async fn run(&mut self, steps: &[Step]) -> Result<(), Difference> {
        for (number, (caller, command)) in steps.iter().enumerate() {
            let place = |difference| format!("step {number} ({command:?} by {caller}): {difference}");
            self.step(usize::from(*caller), command).await.map_err(place)?;
        }
        for caller in 0..self.callers.len() {
            for instance in 0..INSTANCES {
                self.read(caller, &self.id(instance)).await?;
            }
        }
        Ok(())
    }

    /// Removes what the trial left behind.
    pub(super) async fn clear(&self) -> Result<(), Difference> {
        let ids: Vec<String> = (0..INSTANCES).map(|n| self.id(n)).collect();
        let cleared = self.admin(0).delete_instances_atomic(&ids, true).await;
        cleared.map(|_| ()).map_err(|error| format!("cannot clear: {error:?}"))
    }

    fn id(&self, number: u8) -> String {
        format!("{}i{number}", self.prefix)
    }

    fn ids(&self) -> Vec<String> {
        (0..INSTANCES).map(|n| self.id(n)).collect()
    }

    fn admin(&self, caller: usize) -> &dyn ProviderAdmin {
        self.callers[caller]
            .as_management_capability()
            .expect("both engines have one")
    }

    fn fresh(&mut self) -> String {
        self.serial += 1;
        format!("p{}", self.serial)
    }

    fn session(&self, which: bool) -> String {
        format!("{}s{}", self.prefix, u8::from(which))
    }

    async fn step(&mut self, caller: usize, command: &Command) -> Result<(), Difference> {
        match command {
            Command::Start { instance } => {
                let item = self.start(&self.id(*instance), None);
                self.enqueue(caller, item, None).await
            }
            Command::Signal { instance, delay } => {
                let data = self.fresh();
                let item = signal(&self.id(*instance), data);
                self.enqueue(caller, item, *delay).await
            }
            Command::Message { instance } => {
                let (id, data) = (self.id(*instance), self.fresh());
                // Nobody has promised what becomes of one for an instance that is not there.
                if !self.reference.instances.get(&id).is_some_and(|instance| instance.named) {
                    return Ok(());
                }
                let item = WorkItem::QueueMessage {
                    instance: id,
                    name: "queue".to_owned(),
                    data,
                };
                self.enqueue(caller, item, None).await
            }
            Command::Cancel { instance } => {
                let item = WorkItem::CancelInstance {
                    instance: self.id(*instance),
                    reason: self.fresh(),
                };
                self.enqueue(caller, item, None).await
            }
            Command::FetchTurn { lease } => self.fetch_turn(caller, *lease).await,
            Command::AckTurn { claim, turn } => self.ack_turn(caller, *claim, turn).await,
            Command::AbandonTurn { claim, delay, ignore } => self.abandon_turn(caller, *claim, *delay, *ignore).await,
            Command::RenewTurn { claim, lease } => self.renew_turn(caller, *claim, *lease).await,
            Command::QueueJob { instance, job } => self.queue_job(caller, *instance, *job).await,
            Command::FetchJob { lease, session, takes } => self.fetch_job(caller, *lease, *session, *takes).await,
            Command::AckJob { claim, completes } => self.ack_job(caller, *claim, *completes).await,
            Command::AbandonJob { claim, delay, ignore } => self.abandon_job(caller, *claim, *delay, *ignore).await,
            Command::RenewJob { claim, lease } => self.renew_job(caller, *claim, *lease).await,
            Command::RenewSessions { lease } => self.renew_sessions(caller, *lease).await,
            Command::SweepSessions => {
                // Which of them are gone nobody can tell; that no activity is lost by it, the fetches show.
                let swept = self.callers[caller].cleanup_orphaned_sessions(Span::Long.time()).await;
                swept.map(|_| ()).map_err(unexpected)
            }
            Command::Delete { instance, tree, force } => self.delete(caller, *instance, *tree, *force).await,
            Command::DeleteEnded => self.delete_ended(caller).await,
            Command::Prune { instance, keep } => self.prune(caller, *instance, *keep).await,
            Command::Read { instance } => self.read(caller, &self.id(*instance)).await,
            Command::Wait => {
                tokio::time::sleep(Span::Brief.time() + std::time::Duration::from_millis(10)).await;
                Ok(())
            }
        }
    }

    fn start(&mut self, id: &str, parent: Option<(String, u64, u64)>) -> WorkItem {
        let (parent_instance, parent_id, parent_execution_id) = parent
            .map_or((None, None, None), |(p, id, execution)| {
                (Some(p), Some(id), Some(execution))
            });
        WorkItem::StartOrchestration {
            instance: id.to_owned(),
            orchestration: "trial".to_owned(),
            input: self.fresh(),
            version: Some("1.0.0".to_owned()),
            parent_instance,
            parent_id,
            parent_execution_id,
            execution_id: 1,
        }
    }

    async fn enqueue(&mut self, caller: usize, item: WorkItem, delay: Option<Span>) -> Result<(), Difference> {
        let to = target(&item).to_owned();
        let (sent, call) =
            timed(self.callers[caller].enqueue_for_orchestrator(item.clone(), delay.map(Span::time))).await;
        sent.map_err(unexpected)?;
        let visible = delay.map(|delay| Moment::after(call, delay.time()));
        self.reference.send(&to, item, visible);
        Ok(())
    }

    async fn delete(&mut self, caller: usize, instance: u8, tree: bool, force: bool) -> Result<(), Difference> {
        let id = self.id(instance);
        let (ids, allowed) = if tree {
            let found = self.reference.instances.get(&id).and_then(|i| i.known());
            let known = |id: &String| self.reference.instances.get(id).is_some_and(|i| i.known().is_some());
            let root = found.is_some_and(|parent| !parent.is_some_and(known));
            (self.reference.tree(&id), root)
        } else {
            (BTreeSet::from([id.clone()]), true)
        };
        let allowed = allowed && self.reference.deletable(&ids, force);
        let result = if tree {
            self.admin(caller).delete_instance(&id, force).await
        } else {
            self.admin(caller).delete_instances_atomic(&[id], force).await
        };
        match (result, allowed) {
            (Ok(deleted), true) => {
                let expected = self.reference.delete(&ids);
                same(
                    "executions and events deleted",
                    &(deleted.executions_deleted, deleted.events_deleted),
                    &expected,
                )
            }
            (Err(_), false) => Ok(()),
            (result, _) => Err(format!("{result:?}, allowed: {allowed}")),
        }
    }

    async fn delete_ended(&mut self, caller: usize) -> Result<(), Difference> {
        let filter = InstanceFilter {
            instance_ids: Some(self.ids()),
            ..InstanceFilter::default()
        };
        let deleted = self
            .admin(caller)
            .delete_instance_bulk(filter)
            .await
            .map_err(unexpected)?;
        let root = |(id, instance): (&String, &super::reference::Instance)| {
            (instance.named && instance.ended() && instance.parent.is_none()).then(|| id.clone())
        };
        let roots: Vec<String> = self.reference.instances.iter().filter_map(root).collect();
        let mut expected = (0, 0);
        for root in roots {
            let tree = self.reference.tree(&root);
            let (executions, events) = self.reference.delete(&tree);
            expected = (expected.0 + executions, expected.1 + events);
        }
        same(
            "executions and events deleted",
            &(deleted.executions_deleted, deleted.events_deleted),
            &expected,
        )
    }

    async fn prune(&mut self, caller: usize, instance: u8, keep: u8) -> Result<(), Difference> {
        let id = self.id(instance);
        let options = PruneOptions {
            keep_last: Some(u32::from(keep)),
            ..PruneOptions::default()
        };
        let pruned = self.admin(caller).prune_executions(&id, options).await;
        let Some(instance) = self.reference.instances.get_mut(&id).filter(|instance| instance.named) else {
            return pruned.map_or(Ok(()), |pruned| {
                Err(format!("{pruned:?} of an instance that is not there"))
            });
        };
        let pruned = pruned.map_err(unexpected)?;
        let current = instance.execution;
        let newest: Vec<u64> = instance
            .executions
            .keys()
            .rev()
            .take(usize::from(keep))
            .copied()
            .collect();
        let stays = |id: &u64, status: &str| *id == current || status == "Running" || newest.contains(id);
        let before = instance.executions.len();
        instance.executions.retain(|id, execution| stays(id, &execution.status));
        same(
            "executions pruned",
            &pruned.executions_deleted,
            &((before - instance.executions.len()) as u64),
        )
    }
}

/// The claim that is so many back from the newest.
fn back(claims: &[Claim], count: u8) -> Option<usize> {
    claims.len().checked_sub(1 + usize::from(count))
}

fn signal(instance: &str, data: String) -> WorkItem {
    WorkItem::ExternalRaised {
        instance: instance.to_owned(),
        name: "signal".to_owned(),
        data,
    }
}

/// Whom a message is for.
fn target(item: &WorkItem) -> &str {
    match item {
        WorkItem::StartOrchestration { instance, .. }
        | WorkItem::ActivityExecute { instance, .. }
        | WorkItem::ActivityCompleted { instance, .. }
        | WorkItem::TimerFired { instance, .. }
        | WorkItem::ExternalRaised { instance, .. }
        | WorkItem::CancelInstance { instance, .. }
        | WorkItem::ContinueAsNew { instance, .. }
        | WorkItem::QueueMessage { instance, .. } => instance,
        other => panic!("the trial sends no {other:?}"),
    }
}

async fn timed<T>(call: impl Future<Output = T>) -> (T, Call) {
    let begun = Instant::now();
    let answer = call.await;
    (
        answer,
        Call {
            begun,
            ended: Instant::now(),
        },
    )
}

fn unexpected(error: ProviderError) -> Difference {
    format!("unexpected error {error:?}")
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), Difference> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what}: {found:?} instead of {expected:?}"))
}

/// Whether an answer may be so, and what it was.
fn outcome<T: std::fmt::Debug>(answer: &Result<T, ProviderError>, expected: Sure) -> Result<bool, Difference> {
    match (answer, expected) {
        (Ok(_), Sure::Yes | Sure::Maybe) => Ok(true),
        (Err(error), Sure::No | Sure::Maybe) if !error.is_retryable() => Ok(false),
        (answer, expected) => Err(format!("{answer:?}, which must succeed: {expected:?}")),
    }
}
