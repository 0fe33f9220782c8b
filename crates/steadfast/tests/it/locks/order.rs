//! Every kind of call at once on a few shared instances and sessions: no two ever wait for each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use duroxide::EventKind;
use duroxide::providers::{
    ExecutionMetadata, OrchestrationItem, Provider, ProviderError, PruneOptions, ScheduledActivityIdentifier,
    SessionFetchConfig, TagFilter, WorkItem,
};
use steadfast::postgres::{LongPoll, PostgresProvider};

use super::dice::{Dice, seed};
use crate::upgrade::place::{Database, event, signal, start, started};

const RUNS_FOR: Duration = Duration::from_secs(15);
const PROVIDERS: usize = 3;
const TASKS: u64 = 36;
const SCHEMA: &str = "order";
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(30);

/// What the tasks share: tokens that one may use after another has, and what was answered.
#[derive(Default)]
struct Shared {
    turn_tokens: Mutex<Vec<String>>,
    work_tokens: Mutex<Vec<String>>,
    answers: Mutex<BTreeMap<String, u64>>,
    surprises: Mutex<Vec<String>>,
}

/// Words of the refusals that such a crowd must expect.
const EXPECTED: &[&str] = &[
    "Invalid lock token",
    "exists already",
    "not found",
    "running",
    "sub-orchestration",
    "Running",
    "is pending",
];

impl Shared {
    fn note<T>(&self, call: &str, result: &Result<T, ProviderError>) {
        let outcome = match result {
            Ok(_) => "ok",
            Err(error) if !error.is_retryable() && EXPECTED.iter().any(|w| error.message.contains(w)) => "refused",
            Err(error) => {
                self.surprises.lock().unwrap().push(format!("{call}: {error:?}"));
                "surprise"
            }
        };
        *self
            .answers
            .lock()
            .unwrap()
            .entry(format!("{call} {outcome}"))
            .or_default() += 1;
    }
}

struct Actor {
    provider: Arc<PostgresProvider>,
    shared: Arc<Shared>,
    dice: Dice,
    instances: Vec<String>,
}

fn session_work(instance: &str, id: u64, session: Option<String>) -> WorkItem {
    WorkItem::ActivityExecute {
        instance: instance.to_owned(),
        execution_id: 1,
        id,
        name: "Step".to_owned(),
        input: String::new(),
        session_id: session,
        tag: None,
    }
}

impl Actor {
    fn instance(&mut self) -> String {
        self.dice.pick(&self.instances).clone()
    }

    fn session(&mut self) -> Option<String> {
        (!self.dice.one_in(3)).then(|| format!("session {}", self.dice.below(8)))
    }

    fn lease(&mut self) -> Duration {
        if self.dice.one_in(3) { SHORT } else { LONG }
    }

    async fn act(&mut self) {
        match self.dice.below(20) {
            0..=2 => self.send().await,
            3..=7 => self.turn().await,
            8..=12 => self.work().await,
            13 => self.old_tokens().await,
            14 => self.delete().await,
            15 => {
                let instance = self.instance();
                let admin = self.provider.as_management_capability().expect("admin");
                let keep = PruneOptions {
                    keep_last: Some(1),
                    ..PruneOptions::default()
                };
                self.shared
                    .note("prune", &admin.prune_executions(&instance, keep).await);
            }
            16 => {
                let instance = self.instance();
                let id = 1_000_000 + self.dice.below(1 << 40);
                let events = vec![event(&instance, 1, id, started())];
                let result = self.provider.append_with_execution(&instance, 1, events).await;
                self.shared.note("append", &result);
            }
            17 => {
                let result = self
                    .provider
                    .renew_session_lock(&["owner 0", "owner 1"], SHORT, LONG)
                    .await;
                self.shared.note("renew sessions", &result);
            }
            18 => {
                let result = self.provider.cleanup_orphaned_sessions(SHORT).await;
                self.shared.note("sweep sessions", &result);
            }
            _ => {
                let (instance, id, session) = (self.instance(), self.dice.below(50), self.session());
                let result = self
                    .provider
                    .enqueue_for_worker(session_work(&instance, id, session))
                    .await;
                self.shared.note("enqueue work", &result);
            }
        }
    }

    async fn send(&mut self) {
        let instance = self.instance();
        let item = match self.dice.below(4) {
            0 | 1 => start(&instance),
            2 => signal(&instance),
            _ => WorkItem::QueueMessage {
                instance,
                name: "queue".to_owned(),
                data: String::new(),
            },
        };
        let delay = self.dice.one_in(4).then(|| Duration::from_millis(self.dice.below(50)));
        let result = self.provider.enqueue_for_orchestrator(item, delay).await;
        self.shared.note("enqueue message", &result);
    }

    async fn turn(&mut self) {
        let lease = self.lease();
        let fetched = self
            .provider
            .fetch_orchestration_item(lease, Duration::ZERO, None)
            .await;
        self.shared.note("fetch turn", &fetched);
        let Ok(Some((item, token, _))) = fetched else { return };
        if self.dice.one_in(4) {
            let result = self.provider.renew_orchestration_item_lock(&token, LONG).await;
            self.shared.note("renew turn", &result);
        }
        if self.dice.one_in(8) {
            self.shared.turn_tokens.lock().unwrap().push(token.clone());
        }
        if self.dice.one_in(5) {
            let delay = self.dice.one_in(2).then_some(Duration::from_millis(5));
            let result = self
                .provider
                .abandon_orchestration_item(&token, delay, self.dice.one_in(2))
                .await;
            self.shared.note("abandon turn", &result);
        } else {
            self.ack_turn(&item, &token).await;
        }
    }

    async fn ack_turn(&mut self, item: &OrchestrationItem, token: &str) {
        let instance = item.instance.as_str();
        let again = item
            .messages
            .iter()
            .any(|m| matches!(m, WorkItem::ContinueAsNew { .. }));
        let execution = item.execution_id + u64::from(again);
        let first = if again {
            1
        } else {
            item.history.last().map_or(1, |e| e.event_id() + 1)
        };
        let history: Vec<_> = (first..first + 2)
            .map(|id| event(instance, execution, id, started()))
            .collect();
        let mut work = Vec::new();
        for _ in 0..self.dice.below(4) {
            let (id, session) = (self.dice.below(50), self.session());
            work.push(session_work(instance, id, session));
        }
        let mut messages = Vec::new();
        for _ in 0..self.dice.below(3) {
            messages.push(signal(&self.instance()));
        }
        let mut cancelled = Vec::new();
        for _ in 0..self.dice.below(4) {
            cancelled.push(ScheduledActivityIdentifier {
                instance: instance.to_owned(),
                execution_id: 1,
                activity_id: self.dice.below(50),
            });
        }
        let mut metadata = ExecutionMetadata {
            orchestration_name: Some("Round".to_owned()),
            orchestration_version: Some("1.0.0".to_owned()),
            ..ExecutionMetadata::default()
        };
        let mut history = history;
        match self.dice.below(6) {
            0 => metadata.status = Some("Completed".to_owned()),
            1 => {
                metadata.status = Some("ContinuedAsNew".to_owned());
                messages.push(WorkItem::ContinueAsNew {
                    instance: instance.to_owned(),
                    orchestration: "Round".to_owned(),
                    input: String::new(),
                    version: None,
                    parent_instance: None,
                    parent_id: None,
                    parent_execution_id: None,
                    carry_forward_events: Vec::new(),
                    initial_custom_status: None,
                });
            }
            2 => {
                let key = format!("key {}", self.dice.below(3));
                history.push(event(
                    instance,
                    execution,
                    first + 2,
                    EventKind::KeyValueSet {
                        key,
                        value: "value".to_owned(),
                        last_updated_at_ms: 1,
                    },
                ));
            }
            _ => {}
        }
        let result = self
            .provider
            .ack_orchestration_item(token, execution, history, work, messages, metadata, cancelled)
            .await;
        self.shared.note("ack turn", &result);
    }

    async fn work(&mut self) {
        let session = SessionFetchConfig {
            owner_id: format!("owner {}", self.dice.below(4)),
            lock_timeout: if self.dice.one_in(2) {
                Duration::from_millis(40)
            } else {
                SHORT
            },
        };
        let session = (!self.dice.one_in(3)).then_some(session);
        let lease = self.lease();
        let fetched = self
            .provider
            .fetch_work_item(lease, Duration::ZERO, session.as_ref(), &TagFilter::Any)
            .await;
        self.shared.note("fetch work", &fetched);
        let Ok(Some((item, token, _))) = fetched else { return };
        if self.dice.one_in(4) {
            let result = self.provider.renew_work_item_lock(&token, LONG).await;
            self.shared.note("renew work", &result);
        }
        if self.dice.one_in(8) {
            self.shared.work_tokens.lock().unwrap().push(token.clone());
        }
        if self.dice.one_in(5) {
            let delay = self.dice.one_in(2).then_some(Duration::from_millis(5));
            let result = self
                .provider
                .abandon_work_item(&token, delay, self.dice.one_in(2))
                .await;
            self.shared.note("abandon work", &result);
            return;
        }
        let WorkItem::ActivityExecute { instance, id, .. } = item else {
            return;
        };
        let completion = WorkItem::ActivityCompleted {
            instance,
            execution_id: 1,
            id,
            result: String::new(),
        };
        let completion = (!self.dice.one_in(5)).then_some(completion);
        let result = self.provider.ack_work_item(&token, completion).await;
        self.shared.note("ack work", &result);
    }

    /// Tokens that somebody else has, or had.
    async fn old_tokens(&mut self) {
        let turn = self.shared.turn_tokens.lock().unwrap().pop();
        if let Some(token) = turn {
            let result = match self.dice.below(3) {
                0 => self.provider.renew_orchestration_item_lock(&token, LONG).await,
                1 => self.provider.abandon_orchestration_item(&token, None, true).await,
                _ => {
                    let metadata = ExecutionMetadata::default();
                    let none = (vec![], vec![], vec![]);
                    self.provider
                        .ack_orchestration_item(&token, 1, none.0, none.1, none.2, metadata, vec![])
                        .await
                }
            };
            self.shared.note("old turn token", &result);
        }
        let work = self.shared.work_tokens.lock().unwrap().pop();
        if let Some(token) = work {
            let result = match self.dice.below(3) {
                0 => self.provider.renew_work_item_lock(&token, LONG).await,
                1 => self.provider.abandon_work_item(&token, None, true).await,
                _ => self.provider.ack_work_item(&token, None).await,
            };
            self.shared.note("old work token", &result);
        }
    }

    async fn delete(&mut self) {
        let mut ids: Vec<String> = (0..=self.dice.below(4)).map(|_| self.instance()).collect();
        ids.sort();
        ids.dedup();
        let admin = self.provider.as_management_capability().expect("admin");
        let force = !self.dice.one_in(3);
        self.shared
            .note("delete", &admin.delete_instances_atomic(&ids, force).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_two_calls_ever_wait_for_each_other() {
    let seed = seed("no_two_calls_ever_wait_for_each_other");
    let database = Database::create().await;
    let mut providers = Vec::new();
    for _ in 0..PROVIDERS {
        let provider = PostgresProvider::builder(&database.url)
            .schema(SCHEMA)
            .long_poll(LongPoll::disabled())
            .pool_size(6)
            .connect()
            .await
            .expect("open");
        providers.push(Arc::new(provider));
    }
    let shared = Arc::new(Shared::default());
    let until = Instant::now() + RUNS_FOR;
    let tasks: Vec<_> = (0..TASKS)
        .map(|n| {
            let mut actor = Actor {
                provider: Arc::clone(&providers[n as usize % PROVIDERS]),
                shared: Arc::clone(&shared),
                dice: Dice::new(seed, n),
                instances: (0..6).map(|i| format!("shared {i}")).collect(),
            };
            tokio::spawn(async move {
                while Instant::now() < until {
                    actor.act().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
    for provider in &providers {
        provider.close().await;
    }
    // A backend hands in its statistics when it ends.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let deadlocks: i64 = database
        .raw()
        .await
        .query_one(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = $1",
            &[&database.name],
        )
        .await
        .unwrap()
        .get(0);
    let answers = shared.answers.lock().unwrap();
    let surprises = shared.surprises.lock().unwrap();
    println!("{answers:#?}");
    let done: u64 = answers
        .iter()
        .filter(|(what, _)| what.ends_with("ok"))
        .map(|(_, n)| n)
        .sum();
    for surprise in surprises.iter().take(20) {
        println!("{surprise}");
    }
    assert_eq!(deadlocks, 0, "seed {seed}");
    assert!(surprises.is_empty(), "seed {seed}: {surprises:#?}");
    assert!(done > 2000, "thousands of calls took part: {done}");
}
