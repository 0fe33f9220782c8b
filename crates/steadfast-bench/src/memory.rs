//! An in-memory provider: what duroxide itself costs when storing costs nothing. The bench's ceiling.
//!
//! Invariant: it keeps what the workloads of this crate need (histories, both queues, timers, one turn per instance at a
//! time) and promises nothing else: no leases, sessions, tags, key-values or management, and nothing survives the process.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use duroxide::providers::{
    DispatcherCapabilityFilter, ExecutionMetadata, OrchestrationItem, Provider, ProviderError,
    ScheduledActivityIdentifier, SessionFetchConfig, TagFilter, WorkItem,
};
use duroxide::{Event, EventKind, SystemStats};
use tokio::sync::Notify;

#[derive(Default)]
struct Instance {
    name: String,
    version: String,
    execution_id: u64,
    histories: BTreeMap<u64, Vec<Event>>,
    messages: VecDeque<WorkItem>,
    custom_status: Option<String>,
    custom_status_version: u64,
    /// So many of the first messages are in a worker's hands.
    taken: usize,
    leased: bool,
}

#[derive(Default)]
struct State {
    instances: HashMap<String, Instance>,
    /// Instances with messages that nobody has.
    ready: VecDeque<String>,
    work: VecDeque<WorkItem>,
    leased_work: HashMap<u64, WorkItem>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    delayed_items: HashMap<u64, WorkItem>,
    next_id: u64,
}

/// See the module.
#[derive(Default)]
pub struct MemoryProvider {
    state: Mutex<State>,
    turns: Notify,
    work: Notify,
}

impl MemoryProvider {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gone(operation: &'static str) -> ProviderError {
    ProviderError::permanent(operation, "nobody has this token")
}

fn instance_of(item: &WorkItem) -> &str {
    match item {
        WorkItem::SubOrchCompleted { parent_instance, .. } | WorkItem::SubOrchFailed { parent_instance, .. } => {
            parent_instance
        }
        WorkItem::StartOrchestration { instance, .. }
        | WorkItem::ActivityExecute { instance, .. }
        | WorkItem::ActivityCompleted { instance, .. }
        | WorkItem::ActivityFailed { instance, .. }
        | WorkItem::TimerFired { instance, .. }
        | WorkItem::ExternalRaised { instance, .. }
        | WorkItem::CancelInstance { instance, .. }
        | WorkItem::ContinueAsNew { instance, .. }
        | WorkItem::QueueMessage { instance, .. } => instance,
    }
}

impl State {
    /// Puts a message into its instance's inbox, now or when it is due.
    fn deliver(&mut self, item: WorkItem, delay: Option<Duration>) {
        let due = match &item {
            WorkItem::TimerFired { fire_at_ms, .. } => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Some(Duration::from_millis(*fire_at_ms).saturating_sub(now))
            }
            _ => delay,
        };
        match due {
            Some(due) if !due.is_zero() => {
                self.next_id += 1;
                self.delayed.push(Reverse((Instant::now() + due, self.next_id)));
                self.delayed_items.insert(self.next_id, item);
            }
            _ => {
                let id = instance_of(&item).to_owned();
                let instance = self.instances.entry(id.clone()).or_default();
                instance.messages.push_back(item);
                if !instance.leased && instance.messages.len() == 1 {
                    self.ready.push_back(id);
                }
            }
        }
    }

    /// Delivers what has become due; says when the next is.
    fn wake_delayed(&mut self) -> Option<Instant> {
        while let Some(Reverse((at, id))) = self.delayed.peek().copied() {
            if at > Instant::now() {
                return Some(at);
            }
            self.delayed.pop();
            if let Some(item) = self.delayed_items.remove(&id) {
                let at_once = match item {
                    WorkItem::TimerFired {
                        instance,
                        execution_id,
                        id,
                        ..
                    } => WorkItem::TimerFired {
                        instance,
                        execution_id,
                        id,
                        fire_at_ms: 0,
                    },
                    other => other,
                };
                self.deliver(at_once, None);
            }
        }
        None
    }

    fn take_turn(&mut self) -> Option<(OrchestrationItem, String, u32)> {
        let id = self.ready.pop_front()?;
        let instance = self.instances.get_mut(&id)?;
        instance.leased = true;
        instance.taken = instance.messages.len();
        let start = instance.messages.iter().find_map(|m| match m {
            WorkItem::StartOrchestration {
                orchestration, version, ..
            }
            | WorkItem::ContinueAsNew {
                orchestration, version, ..
            } => Some((orchestration.clone(), version.clone())),
            _ => None,
        });
        let (name, version) = match start {
            Some((name, version)) if instance.name.is_empty() => (name, version.unwrap_or_else(|| "unknown".into())),
            _ => (instance.name.clone(), instance.version.clone()),
        };
        let execution_id = instance.execution_id.max(1);
        let item = OrchestrationItem {
            instance: id.clone(),
            orchestration_name: name,
            execution_id,
            version,
            history: instance.histories.get(&execution_id).cloned().unwrap_or_default(),
            messages: instance.messages.iter().cloned().collect(),
            history_error: None,
            kv_snapshot: HashMap::new(),
        };
        Some((item, id, 1))
    }

    fn take_work(&mut self) -> Option<(WorkItem, String, u32)> {
        let item = self.work.pop_front()?;
        self.next_id += 1;
        self.leased_work.insert(self.next_id, item.clone());
        Some((item, self.next_id.to_string(), 1))
    }
}

#[async_trait]
impl Provider for MemoryProvider {
    fn name(&self) -> &str {
        "memory"
    }

    async fn fetch_orchestration_item(
        &self,
        _: Duration,
        poll_timeout: Duration,
        _: Option<&DispatcherCapabilityFilter>,
    ) -> Result<Option<(OrchestrationItem, String, u32)>, ProviderError> {
        let give_up = Instant::now() + poll_timeout;
        loop {
            let told = self.turns.notified();
            let (turn, more, next) = {
                let mut state = self.lock();
                let next = state.wake_delayed();
                let turn = state.take_turn();
                (turn, !state.ready.is_empty(), next)
            };
            if more {
                self.turns.notify_one();
            }
            if turn.is_some() || Instant::now() >= give_up {
                return Ok(turn);
            }
            let until = next.map_or(give_up, |at| at.min(give_up));
            let _ = tokio::time::timeout_at(until.into(), told).await;
        }
    }

    async fn ack_orchestration_item(
        &self,
        lock_token: &str,
        execution_id: u64,
        history_delta: Vec<Event>,
        worker_items: Vec<WorkItem>,
        orchestrator_items: Vec<WorkItem>,
        metadata: ExecutionMetadata,
        _: Vec<ScheduledActivityIdentifier>,
    ) -> Result<(), ProviderError> {
        let (turns, work) = {
            let mut state = self.lock();
            let instance = state
                .instances
                .get_mut(lock_token)
                .filter(|i| i.leased)
                .ok_or_else(|| gone("ack_orchestration_item"))?;
            let taken = std::mem::take(&mut instance.taken);
            instance.messages.drain(..taken);
            instance.leased = false;
            instance.execution_id = instance.execution_id.max(execution_id);
            if let Some(name) = metadata.orchestration_name {
                instance.name = name;
            }
            if let Some(version) = metadata.orchestration_version {
                instance.version = version;
            }
            for event in &history_delta {
                if let EventKind::CustomStatusUpdated { status } = &event.kind {
                    instance.custom_status.clone_from(status);
                    instance.custom_status_version += 1;
                }
            }
            instance
                .histories
                .entry(execution_id)
                .or_default()
                .extend(history_delta);
            if !instance.messages.is_empty() {
                state.ready.push_back(lock_token.to_owned());
            }
            state.work.extend(worker_items);
            for item in orchestrator_items {
                state.deliver(item, None);
            }
            (!state.ready.is_empty() || !state.delayed.is_empty(), state.work.len())
        };
        if turns {
            self.turns.notify_one();
        }
        for _ in 0..work.min(128) {
            self.work.notify_one();
        }
        Ok(())
    }

    async fn abandon_orchestration_item(
        &self,
        lock_token: &str,
        _: Option<Duration>,
        _: bool,
    ) -> Result<(), ProviderError> {
        let mut state = self.lock();
        let instance = state
            .instances
            .get_mut(lock_token)
            .ok_or_else(|| gone("abandon_orchestration_item"))?;
        instance.leased = false;
        instance.taken = 0;
        state.ready.push_back(lock_token.to_owned());
        drop(state);
        self.turns.notify_one();
        Ok(())
    }

    async fn read(&self, instance: &str) -> Result<Vec<Event>, ProviderError> {
        let state = self.lock();
        let history = state
            .instances
            .get(instance)
            .and_then(|i| i.histories.values().next_back());
        Ok(history.cloned().unwrap_or_default())
    }

    async fn read_with_execution(&self, instance: &str, execution_id: u64) -> Result<Vec<Event>, ProviderError> {
        let state = self.lock();
        let history = state
            .instances
            .get(instance)
            .and_then(|i| i.histories.get(&execution_id));
        Ok(history.cloned().unwrap_or_default())
    }

    async fn append_with_execution(
        &self,
        instance: &str,
        execution_id: u64,
        new_events: Vec<Event>,
    ) -> Result<(), ProviderError> {
        let mut state = self.lock();
        let entry = state.instances.entry(instance.to_owned()).or_default();
        entry.histories.entry(execution_id).or_default().extend(new_events);
        Ok(())
    }

    async fn enqueue_for_worker(&self, item: WorkItem) -> Result<(), ProviderError> {
        self.lock().work.push_back(item);
        self.work.notify_one();
        Ok(())
    }

    async fn fetch_work_item(
        &self,
        _: Duration,
        poll_timeout: Duration,
        _: Option<&SessionFetchConfig>,
        _: &TagFilter,
    ) -> Result<Option<(WorkItem, String, u32)>, ProviderError> {
        let give_up = Instant::now() + poll_timeout;
        loop {
            let told = self.work.notified();
            let item = self.lock().take_work();
            if item.is_some() || Instant::now() >= give_up {
                return Ok(item);
            }
            let _ = tokio::time::timeout_at(give_up.into(), told).await;
        }
    }

    async fn ack_work_item(&self, token: &str, completion: Option<WorkItem>) -> Result<(), ProviderError> {
        let id: u64 = token.parse().map_err(|_| gone("ack_work_item"))?;
        {
            let mut state = self.lock();
            state.leased_work.remove(&id).ok_or_else(|| gone("ack_work_item"))?;
            if let Some(completion) = completion {
                state.deliver(completion, None);
            }
        }
        self.turns.notify_one();
        Ok(())
    }

    async fn renew_work_item_lock(&self, _: &str, _: Duration) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn renew_session_lock(&self, _: &[&str], _: Duration, _: Duration) -> Result<usize, ProviderError> {
        Ok(0)
    }

    async fn cleanup_orphaned_sessions(&self, _: Duration) -> Result<usize, ProviderError> {
        Ok(0)
    }

    async fn abandon_work_item(&self, token: &str, _: Option<Duration>, _: bool) -> Result<(), ProviderError> {
        let id: u64 = token.parse().map_err(|_| gone("abandon_work_item"))?;
        let mut state = self.lock();
        let item = state.leased_work.remove(&id).ok_or_else(|| gone("abandon_work_item"))?;
        state.work.push_back(item);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    async fn renew_orchestration_item_lock(&self, _: &str, _: Duration) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn enqueue_for_orchestrator(&self, item: WorkItem, delay: Option<Duration>) -> Result<(), ProviderError> {
        self.lock().deliver(item, delay);
        self.turns.notify_one();
        Ok(())
    }

    async fn get_custom_status(
        &self,
        instance: &str,
        last_seen_version: u64,
    ) -> Result<Option<(Option<String>, u64)>, ProviderError> {
        let state = self.lock();
        let newer = state
            .instances
            .get(instance)
            .filter(|i| i.custom_status_version > last_seen_version);
        Ok(newer.map(|i| (i.custom_status.clone(), i.custom_status_version)))
    }

    async fn get_kv_value(&self, _: &str, _: &str) -> Result<Option<String>, ProviderError> {
        Ok(None)
    }

    async fn get_kv_all_values(&self, _: &str) -> Result<HashMap<String, String>, ProviderError> {
        Ok(HashMap::new())
    }

    async fn get_instance_stats(&self, _: &str) -> Result<Option<SystemStats>, ProviderError> {
        Ok(None)
    }
}
