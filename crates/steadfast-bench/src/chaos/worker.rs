//! The two processes of a run: a worker, which is a runtime on the store, and a client, which starts workflows and follows
//! their scripts.
//!
//! Invariant: a client writes down what it is about to ask before it asks, and what it was promised after; its successor
//! goes on where the ledger ends. Both end when their standard input does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use duroxide::providers::{Provider, PruneOptions};
use duroxide::runtime::{Runtime, RuntimeOptions};
use duroxide::{Client, ClientError};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Semaphore;

use super::ledger::{Ask, Fact, Ledger, files, read};
use super::place::{Inner, Opened, Place, Settings};
use super::workflows::{self, KINDS, Kind};

/// Lease of an activity.
pub(crate) const WORK_LEASE: Duration = Duration::from_secs(5);
/// Lease of an instance.
const TURN_LEASE: Duration = Duration::from_secs(3);

/// What a process is started with, in the environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) place: Place,
    pub(crate) settings: Settings,
    pub(crate) dir: PathBuf,
    /// Which worker or client it is.
    pub(crate) slot: usize,
    /// Which life of that.
    pub(crate) life: usize,
    pub(crate) seed: u64,
    /// Workflows that a client starts per second.
    pub(crate) rate: f64,
}

/// The variable that holds them.
pub(crate) const ORDERS: &str = "STEADFAST_CHAOS_ORDERS";

/// What a process is told while it runs, a line each.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    Inner(Inner),
    /// Starts so many workflows at once.
    Burst(usize),
    /// Starts no more; ends when all scripts are done.
    Finish,
}

fn orders() -> Result<Orders> {
    let text = std::env::var(ORDERS).context("this process is started by `chaos`")?;
    Ok(serde_json::from_str(&text)?)
}

/// The runtime's settings: short leases, so that a run sees many of them end, and no poisoning by attempts.
fn options() -> RuntimeOptions {
    RuntimeOptions {
        orchestration_concurrency: 4,
        worker_concurrency: 6,
        orchestrator_lock_timeout: TURN_LEASE,
        orchestrator_lock_renewal_buffer: Duration::from_secs(1),
        worker_lock_timeout: WORK_LEASE,
        worker_lock_renewal_buffer: Duration::from_secs(2),
        // A session's owner that was killed holds its activities back for as long as this, whatever their own lease.
        session_lock_timeout: WORK_LEASE,
        session_lock_renewal_buffer: Duration::from_secs(2),
        max_attempts: 100_000,
        activity_cancellation_grace_period: Duration::from_secs(1),
        // Longer than anything here lasts: a fetch that is asked anew would find what the one before had slept through.
        dispatcher_long_poll_timeout: Duration::from_secs(3_600),
        ..RuntimeOptions::default()
    }
}

/// The worker's life.
pub(crate) async fn work() -> Result<()> {
    let orders = orders()?;
    let path = orders.dir.join(format!("worker-{}-{}.jsonl", orders.slot, orders.life));
    let ledger = Arc::new(Ledger::open(&path)?);
    let store = orders.place.open_patiently(&orders.settings).await?;
    let runtime = Runtime::start_with_options(
        Arc::clone(&store.provider) as Arc<dyn Provider>,
        workflows::activities(ledger),
        workflows::orchestrations(),
        options(),
    )
    .await;
    let mut words = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = words.next_line().await? {
        if let Word::Inner(inner) = serde_json::from_str(&line)? {
            store.inflict(&inner);
        }
    }
    runtime.shutdown(Some(2_000)).await;
    store.provider.close().await;
    Ok(())
}

/// What a client knows and shares among its tasks.
struct Desk {
    client: Client,
    ledger: Ledger,
    /// Scripts under way.
    open: AtomicUsize,
    /// So many at once.
    room: Semaphore,
}

/// The client's life.
pub(crate) async fn ask() -> Result<()> {
    let orders = orders()?;
    let (next, unfinished) = taken_over(&orders)?;
    let path = orders.dir.join(format!("client-{}-{}.jsonl", orders.slot, orders.life));
    let store = Arc::new(orders.place.open_patiently(&orders.settings).await?);
    let desk = Arc::new(Desk {
        client: Client::new(Arc::clone(&store.provider) as Arc<dyn Provider>),
        ledger: Ledger::open(&path)?,
        open: AtomicUsize::new(0),
        room: Semaphore::new(64),
    });
    for (instance, progress) in unfinished {
        follow(&desk, instance, progress);
    }
    let burst = Arc::new(AtomicUsize::new(0));
    let finish = Arc::new(AtomicBool::new(false));
    tokio::spawn(listen(Arc::clone(&store), Arc::clone(&burst), Arc::clone(&finish)));
    let mut dice = fastrand::Rng::with_seed(orders.seed ^ (orders.slot as u64) << 32 ^ orders.life as u64);
    let mut number = next;
    let pause = Duration::from_secs_f64(1.0 / orders.rate.max(0.1));
    while !finish.load(Ordering::Relaxed) {
        for _ in 0..1 + burst.swap(0, Ordering::Relaxed) {
            let instance = format!("c{}-{number}-{}", orders.slot, draw(&mut dice).name());
            number += 1;
            follow(&desk, instance, Progress::default());
        }
        tokio::time::sleep(pause).await;
    }
    while desk.open.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    store.provider.close().await;
    std::process::exit(0)
}

fn draw(dice: &mut fastrand::Rng) -> Kind {
    let mut ball = dice.usize(..KINDS.iter().map(|(.., weight)| *weight).sum::<usize>());
    for (kind, _, weight) in KINDS {
        match ball.checked_sub(weight) {
            Some(rest) => ball = rest,
            None => return kind,
        }
    }
    Kind::Fan
}

async fn listen(store: Arc<Opened>, burst: Arc<AtomicUsize>, finish: Arc<AtomicBool>) -> Result<()> {
    let mut words = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = words.next_line().await? {
        match serde_json::from_str(&line)? {
            Word::Inner(inner) => store.inflict(&inner),
            Word::Burst(count) => burst.store(count, Ordering::Relaxed),
            Word::Finish => finish.store(true, Ordering::Relaxed),
        }
    }
    // The conductor is gone.
    std::process::exit(1)
}

/// How far a script has come.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    done: usize,
    /// The next step was asked for, and nobody knows whether it was heard.
    in_doubt: bool,
}

/// What earlier lives of this client left: the next number, and how far each unfinished script has come.
fn taken_over(orders: &Orders) -> Result<(u64, BTreeMap<String, Progress>)> {
    let lines = read(&files(&orders.dir, &format!("client-{}-", orders.slot))?)?;
    let mut left: BTreeMap<String, Progress> = BTreeMap::new();
    for line in lines {
        match line.fact {
            Fact::Intent { instance, .. } => left.entry(instance).or_default().in_doubt = true,
            Fact::Acknowledged { instance, .. } => {
                let progress = left.entry(instance).or_default();
                progress.done += 1;
                progress.in_doubt = false;
            }
            _ => {}
        }
    }
    let number = |instance: &String| Kind::of(instance).map(|(_, number)| number);
    let next = left.keys().filter_map(number).max().map_or(0, |number| number + 1);
    let steps = |instance: &String| Kind::of(instance).map_or(0, |(kind, number)| kind.script(number).len());
    left.retain(|instance, progress| progress.done < steps(instance));
    Ok((next, left))
}

/// Follows an instance's script from where it was left.
fn follow(desk: &Arc<Desk>, instance: String, progress: Progress) {
    let desk = Arc::clone(desk);
    desk.open.fetch_add(1, Ordering::SeqCst);
    tokio::spawn(async move {
        if let (Some((kind, number)), Ok(_room)) = (Kind::of(&instance), desk.room.acquire().await) {
            for (place, (ask, data)) in kind.script(number).into_iter().enumerate().skip(progress.done) {
                if place > 0 {
                    // Somewhere in the instance's life.
                    tokio::time::sleep(Duration::from_millis(number * 37 % 400)).await;
                }
                let in_doubt = progress.in_doubt && place == progress.done;
                while ask == Ask::Delete && !in_doubt && desk.client.get_instance_info(&instance).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                desk.insist(kind, number, &instance, ask, &data).await;
            }
        }
        desk.open.fetch_sub(1, Ordering::SeqCst);
    });
}

impl Desk {
    /// Asks until it is promised.
    async fn insist(&self, kind: Kind, number: u64, instance: &str, ask: Ask, data: &str) {
        loop {
            let (instance, data) = (instance.to_owned(), data.to_owned());
            self.ledger.note(Fact::Intent {
                ask,
                instance: instance.clone(),
                data: data.clone(),
            });
            match self.once(kind, number, &instance, ask, &data).await {
                Ok(()) => return self.ledger.note(Fact::Acknowledged { ask, instance, data }),
                Err(error) => self.ledger.note(Fact::Refused {
                    ask,
                    instance,
                    error: error.to_string(),
                }),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn once(&self, kind: Kind, number: u64, instance: &str, ask: Ask, data: &str) -> Result<(), ClientError> {
        let client = &self.client;
        match ask {
            Ask::Start => {
                client
                    .start_orchestration(instance, kind.name(), workflows::input(number))
                    .await
            }
            Ask::Signal => client.enqueue_event(instance, workflows::queue(), data).await,
            Ask::Cancel => client.cancel_instance(instance, "chaos").await,
            // It was there when this was first asked: where it is not found, an earlier question was heard.
            Ask::Delete => gone(client.delete_instance(instance, true).await.map(|_| ())),
            Ask::Prune => {
                let options = PruneOptions {
                    keep_last: Some(1),
                    ..PruneOptions::default()
                };
                gone(client.prune_executions(instance, options).await.map(|_| ()))
            }
        }
    }
}

/// Where there is nothing to remove, it is removed.
fn gone(answer: Result<(), ClientError>) -> Result<(), ClientError> {
    match answer {
        Err(ClientError::InstanceNotFound { .. }) => Ok(()),
        Err(ClientError::Provider(error)) if !error.is_retryable() => Ok(()),
        other => other,
    }
}
