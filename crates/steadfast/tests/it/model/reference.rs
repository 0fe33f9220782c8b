//! The reference: what a store holds, in memory, as plainly as it can be written down.
//!
//! Invariant: no engine's code is used. Time comes in as an interval: a call happened at some moment between its begin
//! and its end, so a lease or delay that ends about then leaves both outcomes open, and only then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use duroxide::Event;
use duroxide::providers::WorkItem;

use super::command::Takes;

/// Coarseness of the stores' clocks.
const SLACK: Duration = Duration::from_millis(4);

/// When a call was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) begun: Instant,
    pub(super) ended: Instant,
}

/// A moment that is known up to an interval.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    earliest: Instant,
    latest: Instant,
}

/// Whether something is so at the time of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sure {
    No,
    Maybe,
    Yes,
}

impl Sure {
    pub(super) fn and(self, other: Self) -> Self {
        self.min(other)
    }

    pub(super) fn or(self, other: Self) -> Self {
        self.max(other)
    }

    fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Maybe => Self::Maybe,
            Self::Yes => Self::No,
        }
    }
}

impl From<bool> for Sure {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

impl Moment {
    /// So long after a call.
    pub(super) fn after(call: Call, span: Duration) -> Self {
        Self {
            earliest: call.begun + span.saturating_sub(SLACK),
            latest: call.ended + span + SLACK,
        }
    }

    /// Whether it has passed when a call is made.
    pub(super) fn passed(self, call: Call) -> Sure {
        if self.latest < call.begun {
            Sure::Yes
        } else if self.earliest > call.ended {
            Sure::No
        } else {
            Sure::Maybe
        }
    }

    fn widened(self, other: Self) -> Self {
        Self {
            earliest: self.earliest.min(other.earliest),
            latest: self.latest.max(other.latest),
        }
    }
}

fn due(at: Option<Moment>, call: Call) -> Sure {
    at.map_or(Sure::Yes, |at| at.passed(call))
}

/// A message for an orchestration.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) item: WorkItem,
    /// `None`: since it came.
    pub(super) visible: Option<Moment>,
    pub(super) attempts: u32,
    pub(super) claim: Option<usize>,
}

/// One execution.
#[derive(Clone, Debug, Default)]
pub(super) struct Execution {
    pub(super) status: String,
    pub(super) output: Option<String>,
    pub(super) events: Vec<Event>,
}

/// One life of an instance.
#[derive(Clone, Debug, Default)]
pub(super) struct Instance {
    /// Its first turn was acknowledged.
    pub(super) named: bool,
    pub(super) parent: Option<String>,
    pub(super) execution: u64,
    pub(super) executions: BTreeMap<u64, Execution>,
    pub(super) status: String,
    pub(super) custom: (Option<String>, u64),
    pub(super) base: BTreeMap<String, String>,
    pub(super) delta: BTreeMap<String, Option<String>>,
    pub(super) messages: Vec<Message>,
    pub(super) lease: Option<(usize, Moment)>,
    /// Claims since the last acknowledgement, each of which may have ended with its lease.
    pub(super) claims: u32,
}

/// From so many ended leases on an item is kept apart: when it is handed out next is the store's affair.
const KEPT_APART: u32 = 3;

impl Instance {
    pub(super) fn ended(&self) -> bool {
        matches!(self.status.as_str(), "Completed" | "Failed")
    }

    /// The start of an instance whose first turn was not acknowledged: what there is of a pending one.
    pub(super) fn pending(&self) -> Option<&WorkItem> {
        let mut items = self.messages.iter().map(|message| &message.item);
        items.find(|item| !self.named && matches!(item, WorkItem::StartOrchestration { .. }))
    }

    /// It is there for everybody to see, and its parent.
    pub(super) fn known(&self) -> Option<Option<&String>> {
        match self.pending() {
            Some(WorkItem::StartOrchestration { parent_instance, .. }) => Some(parent_instance.as_ref()),
            _ => self.named.then_some(self.parent.as_ref()),
        }
    }

    /// Whether a claim may take it.
    pub(super) fn available(&self, call: Call) -> Sure {
        let free = self.lease.map_or(Sure::Yes, |(_, until)| until.passed(call));
        let wanted = |message: &&Message| self.named || starts(&message.item);
        let messages = self.messages.iter().filter(wanted);
        let any = messages.fold(Sure::No, |any, message| any.or(due(message.visible, call)));
        free.and(any).and(in_sight(self.claims))
    }

    /// Whether this claim's lease is in force.
    pub(super) fn holds(&self, claim: usize, call: Call) -> Sure {
        match self.lease {
            Some((current, until)) if current == claim => until.passed(call).not(),
            _ => Sure::No,
        }
    }

    /// Whether it is this claim's still, its lease in force or not. Whoever finds that the lease of something that is to be
    /// kept apart has ended may have put it off.
    pub(super) fn claimed_by(&self, claim: usize, call: Call) -> Sure {
        match self.lease {
            Some((current, until)) if current == claim => until.passed(call).not().or(in_sight(self.claims)),
            _ => Sure::No,
        }
    }

    /// The attempt before this claim did not count.
    pub(super) fn unspent(&mut self, claim: usize) {
        let handed = self
            .messages
            .iter_mut()
            .filter(|m| m.claim == Some(claim) && m.attempts > 1);
        handed.for_each(|message| message.attempts -= 1);
    }

    /// What a reader sees of the key-values.
    pub(super) fn values(&self) -> BTreeMap<String, String> {
        let mut values = self.base.clone();
        for (key, value) in &self.delta {
            match value {
                Some(value) => values.insert(key.clone(), value.clone()),
                None => values.remove(key),
            };
        }
        values
    }

    /// The execution is over: what it changed is what the next one finds.
    pub(super) fn merge_values(&mut self) {
        self.base = self.values();
        self.delta.clear();
    }

    /// Hands the due messages to a claim: which ones, a call has shown.
    pub(super) fn hand_over(&mut self, handed: &[WorkItem], claim: usize, call: Call) -> Result<u32, String> {
        let mut rest = handed.iter();
        let mut next = rest.next();
        let mut attempts = 0;
        for message in &mut self.messages {
            let visible = due(message.visible, call);
            if next == Some(&message.item) && visible != Sure::No {
                message.attempts += 1;
                message.claim = Some(claim);
                attempts = attempts.max(message.attempts);
                next = rest.next();
            } else if visible == Sure::Yes {
                return Err(format!(
                    "the due message {:?} is missing or out of order in {handed:?}",
                    message.item
                ));
            }
        }
        match next {
            Some(extra) => Err(format!("{extra:?} was handed over and is not due, or out of order")),
            None => Ok(attempts),
        }
    }
}

/// What has been claimed less often is handed out as soon as it is due.
fn in_sight(claims: u32) -> Sure {
    if claims < KEPT_APART { Sure::Yes } else { Sure::Maybe }
}

fn starts(item: &WorkItem) -> bool {
    matches!(
        item,
        WorkItem::StartOrchestration { .. } | WorkItem::ContinueAsNew { .. }
    )
}

/// A queued activity.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) item: WorkItem,
    pub(super) instance: String,
    pub(super) execution: u64,
    pub(super) id: u64,
    pub(super) gpu: bool,
    pub(super) session: Option<String>,
    pub(super) available: Option<Moment>,
    pub(super) claim: Option<usize>,
    pub(super) attempts: u32,
    /// As of an instance.
    pub(super) claims: u32,
}

impl Job {
    /// Whether this claim's lease is in force.
    pub(super) fn holds(&self, claim: usize, call: Call) -> Sure {
        let current = Sure::from(self.claim == Some(claim));
        current.and(due(self.available, call).not())
    }

    /// As of an instance.
    pub(super) fn claimed(&self, call: Call) -> Sure {
        due(self.available, call).not().or(in_sight(self.claims))
    }
}

/// Who holds a session, and until when.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) owner: String,
    pub(super) until: Moment,
}

/// The whole store.
#[derive(Clone, Debug, Default)]
pub(super) struct Reference {
    pub(super) instances: BTreeMap<String, Instance>,
    pub(super) jobs: Vec<Job>,
    pub(super) sessions: BTreeMap<String, Session>,
}

impl Reference {
    /// Whether something may be kept apart: beside it, an ended attempt need not count.
    pub(super) fn keeps_apart(&self) -> bool {
        self.instances.values().any(|i| i.claims >= KEPT_APART) || self.jobs.iter().any(|j| j.claims >= KEPT_APART)
    }

    pub(super) fn send(&mut self, to: &str, item: WorkItem, visible: Option<Moment>) {
        let instance = self.instances.entry(to.to_owned()).or_insert_with(|| Instance {
            execution: 1,
            status: "Running".to_owned(),
            ..Instance::default()
        });
        instance.messages.push(Message {
            item,
            visible,
            attempts: 0,
            claim: None,
        });
    }

    /// Whether a worker may take this activity.
    pub(super) fn takeable(&self, job: &Job, owner: Option<&str>, takes: Takes, call: Call) -> Sure {
        let tag = match takes {
            Takes::Default => !job.gpu,
            Takes::Gpu => job.gpu,
            Takes::Both | Takes::Any => true,
        };
        let session = match (&job.session, owner) {
            (None, _) => Sure::Yes,
            (Some(_), None) => Sure::No,
            (Some(session), Some(owner)) => match self.sessions.get(session) {
                Some(held) if held.owner != owner => held.until.passed(call),
                _ => Sure::Yes,
            },
        };
        Sure::from(tag)
            .and(session)
            .and(due(job.available, call))
            .and(in_sight(job.claims))
    }

    /// Renews an owner's sessions; between which numbers the answer must lie.
    pub(super) fn renew_sessions(
        &mut self,
        owner: &str,
        call: Call,
        until: Moment,
        renewed: usize,
    ) -> Result<(), String> {
        let mine = self.sessions.values_mut().filter(|session| session.owner == owner);
        let mut held: Vec<&mut Session> = mine.filter(|session| session.until.passed(call) != Sure::Yes).collect();
        let surely = held
            .iter()
            .filter(|session| session.until.passed(call) == Sure::No)
            .count();
        if renewed < surely || renewed > held.len() {
            return Err(format!(
                "{renewed} sessions of {owner} were renewed, not {surely} to {}",
                held.len()
            ));
        }
        let all = renewed == held.len();
        for session in &mut held {
            session.until = match session.until.passed(call) {
                Sure::No => until,
                _ if all => until,
                _ => session.until.widened(until),
            };
        }
        Ok(())
    }

    /// What is deleted with these ids; `None` when it must be refused.
    pub(super) fn deletable(&self, ids: &BTreeSet<String>, force: bool) -> bool {
        let running = |id: &String| {
            let instance = self.instances.get(id);
            instance.is_some_and(|instance| instance.pending().is_some() || instance.named && !instance.ended())
        };
        let orphan = |(id, instance): (&String, &Instance)| {
            !ids.contains(id) && instance.parent.as_ref().is_some_and(|parent| ids.contains(parent))
        };
        (force || !ids.iter().any(running)) && !self.instances.iter().any(orphan)
    }

    /// Removes instances; how many executions and events went with them.
    pub(super) fn delete(&mut self, ids: &BTreeSet<String>) -> (u64, u64) {
        let (mut executions, mut events) = (0, 0);
        for id in ids {
            let Some(instance) = self.instances.remove(id) else {
                continue;
            };
            executions += instance.executions.len() as u64;
            events += instance.executions.values().map(|e| e.events.len() as u64).sum::<u64>();
        }
        self.jobs.retain(|job| !ids.contains(&job.instance));
        (executions, events)
    }

    pub(super) fn children(&self, id: &str) -> BTreeSet<String> {
        let of =
            |(child, instance): (&String, &Instance)| (instance.parent.as_deref() == Some(id)).then(|| child.clone());
        self.instances.iter().filter_map(of).collect()
    }

    /// An instance and all below it.
    pub(super) fn tree(&self, id: &str) -> BTreeSet<String> {
        let mut tree = BTreeSet::new();
        let mut next = vec![id.to_owned()];
        while let Some(id) = next.pop() {
            if tree.insert(id.clone()) {
                next.extend(self.children(&id));
            }
        }
        tree
    }
}
