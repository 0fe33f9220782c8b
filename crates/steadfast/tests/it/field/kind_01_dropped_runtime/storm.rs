//! A storm of calls of one kind, in the middle of which their runtime ends; then what was acknowledged must be there, and
//! what was claimed must come back, for callers of another runtime.
//!
//! Each test is a process of its own, since what it guards against is the end of the process.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use duroxide::providers::{Provider, TagFilter, WorkItem};
use steadfast::embedded::EmbeddedProvider;
use steadfast::feed::{ChangePoller, Feed};
use steadfast::postgres::PostgresProvider;
use steadfast::transfer::{self, Transfer};
use tokio::runtime::{Builder, Runtime};

use crate::field::form::{is_long, report};
use crate::harness::{Engine, database_url, fresh_schema};
use crate::op::scene::{LONG, ack_turn, activity, completed, start};

/// How long a child may take for one round of all calls, when it has hung.
const PATIENCE: Duration = Duration::from_secs(120);
/// What callers of the storm claim comes back after this at the latest.
const LEASE: Duration = Duration::from_secs(1);
/// Callers at once, and items that they fight over.
const CALLERS: usize = 128;
const ITEMS: usize = 48;
/// So many calls have been answered when the runtime ends.
const ANSWERED: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Enqueue,
    QueueWork,
    AckTurns,
    AckWork,
    AbandonTurns,
    AbandonWork,
    RenewTurns,
    RenewWork,
    Read,
    Status,
    Wait,
    Fetch,
    Feed,
    Transfer,
}

const CALLS: [Call; 14] = [
    Call::Enqueue,
    Call::QueueWork,
    Call::AckTurns,
    Call::AckWork,
    Call::AbandonTurns,
    Call::AbandonWork,
    Call::RenewTurns,
    Call::RenewWork,
    Call::Read,
    Call::Status,
    Call::Wait,
    Call::Fetch,
    Call::Feed,
    Call::Transfer,
];

/// How a runtime ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Drop,
    Background,
    Timeout,
}

fn runtime(threads: &str) -> Runtime {
    let mut builder = match threads {
        "one" => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(2).enable_all().build().expect("a runtime")
}

impl End {
    fn of(self, runtime: Runtime) {
        match self {
            Self::Drop => drop(runtime),
            Self::Background => runtime.shutdown_background(),
            Self::Timeout => runtime.shutdown_timeout(Duration::from_millis(20)),
        }
    }
}

/// Where the store of a round is.
enum Site {
    Postgres(String),
    Embedded(tempfile::TempDir),
}

/// A provider with its own type, as the feed and the transfer want it.
#[derive(Clone)]
enum Opened {
    Postgres(Arc<PostgresProvider>),
    Embedded(Arc<EmbeddedProvider>),
}

impl Site {
    fn new(engine: Engine) -> Self {
        match engine {
            Engine::Postgres => Self::Postgres(fresh_schema()),
            Engine::Embedded => Self::Embedded(tempfile::tempdir().expect("a folder")),
        }
    }

    async fn open(&self) -> Opened {
        match self {
            Self::Postgres(schema) => {
                let builder = PostgresProvider::builder(&database_url()).schema(schema.as_str());
                let opened = builder.pool_size(3).connect().await;
                Opened::Postgres(Arc::new(opened.expect("open")))
            }
            Self::Embedded(folder) => {
                let opened = EmbeddedProvider::open(folder.path().join("store.db")).await;
                Opened::Embedded(Arc::new(opened.expect("open")))
            }
        }
    }
}

impl Opened {
    fn provider(&self) -> Arc<dyn Provider> {
        match self {
            Self::Postgres(provider) => Arc::clone(provider) as Arc<dyn Provider>,
            Self::Embedded(provider) => Arc::clone(provider) as Arc<dyn Provider>,
        }
    }

    fn transfer(&self) -> Arc<dyn Transfer> {
        match self {
            Self::Postgres(provider) => Arc::clone(provider) as Arc<dyn Transfer>,
            Self::Embedded(provider) => Arc::clone(provider) as Arc<dyn Transfer>,
        }
    }

    fn feed(&self) -> Feed {
        match self {
            Self::Postgres(provider) => provider.feed(),
            Self::Embedded(provider) => provider.feed().expect("the feed"),
        }
    }

    async fn close(&self) {
        match self {
            Self::Postgres(provider) => provider.close().await,
            Self::Embedded(provider) => provider.close().await,
        }
    }
}

/// Items that were acknowledged when they were sent, and must come. Whoever tries to finish one may know of it before its
/// sender does.
#[derive(Default)]
struct Owed(Mutex<(BTreeSet<String>, BTreeSet<String>)>);

impl Owed {
    fn sent(&self, id: String) {
        self.0.lock().unwrap().0.insert(id);
    }

    /// From now on it may be finished, whether its ack is answered or not.
    fn tried(&self, id: &str) {
        self.0.lock().unwrap().1.insert(id.to_owned());
    }

    fn missing(&self) -> BTreeSet<String> {
        let owed = self.0.lock().unwrap();
        owed.0.difference(&owed.1).cloned().collect()
    }
}

/// What the store owes.
#[derive(Default)]
struct Book {
    answered: AtomicU64,
    sent: AtomicU64,
    /// Instances, by their first turns.
    turns: Owed,
    /// Activities, by their instances.
    work: Owed,
    /// Claims in hand: the item and the token.
    claimed: Mutex<Vec<(String, String)>>,
}

impl Book {
    fn next(&self) -> String {
        format!("i-{}", self.sent.fetch_add(1, Ordering::Relaxed))
    }

    fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    fn any_claim(&self, n: usize) -> (String, String) {
        let claimed = self.claimed.lock().unwrap();
        claimed[n % claimed.len()].clone()
    }
}

/// A storm on one store.
#[derive(Clone)]
struct Storm {
    book: Arc<Book>,
    opened: Opened,
    provider: Arc<dyn Provider>,
}

impl Storm {
    async fn start_one(&self) {
        let id = self.book.next();
        if self.provider.enqueue_for_orchestrator(start(&id), None).await.is_ok() {
            self.book.turns.sent(id);
        }
    }

    async fn queue_one(&self) {
        let id = self.book.next();
        if self.provider.enqueue_for_worker(activity(&id, 2)).await.is_ok() {
            self.book.work.sent(id);
        }
    }

    async fn claim_turn(&self, wait: Duration) -> bool {
        let fetched = self.provider.fetch_orchestration_item(LEASE, wait, None).await;
        if let Ok(Some((item, token, _))) = fetched {
            self.book.claimed.lock().unwrap().push((item.instance, token));
            return true;
        }
        false
    }

    async fn claim_work(&self, wait: Duration) -> bool {
        let fetched = self.provider.fetch_work_item(LEASE, wait, None, &TagFilter::Any).await;
        if let Ok(Some((WorkItem::ActivityExecute { instance, .. }, token, _))) = fetched {
            self.book.claimed.lock().unwrap().push((instance, token));
            return true;
        }
        false
    }

    async fn prepare(&self, call: Call) {
        let each = |_| async {
            match call {
                Call::AckWork | Call::AbandonWork | Call::RenewWork => {
                    self.queue_one().await;
                    assert!(self.claim_work(LONG).await, "an activity to begin with");
                }
                Call::AckTurns | Call::AbandonTurns | Call::RenewTurns | Call::Read | Call::Status => {
                    self.start_one().await;
                    assert!(self.claim_turn(LONG).await, "a turn to begin with");
                }
                Call::Fetch | Call::Feed | Call::Transfer => self.start_one().await,
                Call::Enqueue | Call::QueueWork | Call::Wait => {}
            }
        };
        futures_util::future::join_all((0..ITEMS).map(each)).await;
    }

    /// What one caller does until it is dropped.
    async fn call(self, call: Call, n: usize) {
        let (book, provider) = (&self.book, &self.provider);
        loop {
            match call {
                Call::Enqueue => self.start_one().await,
                Call::QueueWork => self.queue_one().await,
                Call::AckTurns => {
                    let Some((id, token)) = book.claimed.lock().unwrap().pop() else {
                        return;
                    };
                    book.turns.tried(&id);
                    let _ = ack_turn(&**provider, &token, &id, Vec::new(), Vec::new()).await;
                }
                Call::AckWork => {
                    let Some((id, token)) = book.claimed.lock().unwrap().pop() else {
                        return;
                    };
                    book.work.tried(&id);
                    let _ = provider.ack_work_item(&token, Some(completed(&id, 2))).await;
                }
                Call::AbandonTurns => {
                    let (_, token) = book.any_claim(n);
                    let _ = provider.abandon_orchestration_item(&token, None, true).await;
                }
                Call::AbandonWork => {
                    let (_, token) = book.any_claim(n);
                    let _ = provider.abandon_work_item(&token, None, true).await;
                }
                Call::RenewTurns => {
                    let (_, token) = book.any_claim(n);
                    let _ = provider.renew_orchestration_item_lock(&token, LEASE).await;
                }
                Call::RenewWork => {
                    let (_, token) = book.any_claim(n);
                    let _ = provider.renew_work_item_lock(&token, LEASE).await;
                }
                Call::Read => drop(provider.read(&book.any_claim(n).0).await),
                Call::Status => drop(provider.get_custom_status(&book.any_claim(n).0, 0).await),
                Call::Wait if n.is_multiple_of(2) => drop(self.claim_turn(LONG).await),
                Call::Wait => drop(self.claim_work(LONG).await),
                Call::Fetch if n.is_multiple_of(4) => self.start_one().await,
                Call::Fetch => drop(self.claim_turn(LONG).await),
                Call::Feed if n.is_multiple_of(4) => {
                    let mut poller = ChangePoller::new(&self.opened.feed());
                    while poller.poll().await.is_ok() {
                        book.answered();
                        poller.wait(LONG).await;
                    }
                }
                Call::Feed => self.turn_over().await,
                Call::Transfer if n < 4 => {
                    let target = EmbeddedProvider::in_memory().await.expect("a store in memory");
                    let _ = transfer::copy(&*self.opened.transfer(), &target).await;
                }
                Call::Transfer => return,
            }
            book.answered();
        }
    }

    /// An instance from its start to its end.
    async fn turn_over(&self) {
        self.start_one().await;
        let fetched = self.provider.fetch_orchestration_item(LEASE, LEASE, None).await;
        if let Ok(Some((item, token, _))) = fetched {
            self.book.turns.tried(&item.instance);
            let _ = ack_turn(&*self.provider, &token, &item.instance, Vec::new(), Vec::new()).await;
        }
    }

    /// Callers come, and some have been answered.
    async fn rage(&self, call: Call) {
        for n in 0..CALLERS {
            tokio::spawn(self.clone().call(call, n));
        }
        let begun = Instant::now();
        while self.book.answered.load(Ordering::Relaxed) < ANSWERED && begun.elapsed() < LEASE / 4 {
            tokio::task::yield_now().await;
        }
    }
}

/// Everything that is owed comes, and the store works on as if nothing had been.
async fn settle(opened: &Opened, book: &Book) {
    let provider = opened.provider();
    let deadline = Instant::now() + PATIENCE / 2;
    loop {
        let (turns, work) = (book.turns.missing(), book.work.missing());
        if turns.is_empty() && work.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "lost: {turns:?} {work:?}");
        let (turns, work) = (!turns.is_empty(), !work.is_empty());
        let each = |_| async {
            if turns
                && let Some((item, token, _)) = provider
                    .fetch_orchestration_item(LONG, LEASE, None)
                    .await
                    .expect("fetch")
            {
                ack_turn(&*provider, &token, &item.instance, Vec::new(), Vec::new())
                    .await
                    .expect("acknowledge a turn");
                book.turns.tried(&item.instance);
            }
            let fetched = match work {
                true => provider
                    .fetch_work_item(LONG, LEASE, None, &TagFilter::Any)
                    .await
                    .expect("fetch"),
                false => None,
            };
            if let Some((WorkItem::ActivityExecute { instance, .. }, token, _)) = fetched {
                provider
                    .ack_work_item(&token, None)
                    .await
                    .expect("acknowledge an activity");
                book.work.tried(&instance);
            }
        };
        futures_util::future::join_all((0..32).map(each)).await;
    }
    // Who waits now is woken, and readers of the feed reach its end.
    let fetched = async {
        loop {
            let fetched = provider
                .fetch_orchestration_item(LONG, LONG, None)
                .await
                .expect("fetch");
            if fetched.expect("work comes").0.instance == "last" {
                return;
            }
        }
    };
    let sent = async {
        provider
            .enqueue_for_orchestrator(start("last"), None)
            .await
            .expect("enqueue");
    };
    tokio::time::timeout(PATIENCE / 4, futures_util::future::join(fetched, sent))
        .await
        .expect("a waiting fetch is woken");
    let mut poller = ChangePoller::new(&opened.feed());
    while !poller.poll().await.expect("poll").caught_up {
        assert!(Instant::now() < deadline, "the feed has an end");
        poller.wait(LEASE).await;
    }
}

fn play(engine: Engine, threads: &str, end: End, call: Call, keep: bool) {
    let site = Site::new(engine);
    let first = runtime(threads);
    let storm = first.block_on(async {
        let opened = site.open().await;
        let storm = Storm {
            book: Arc::default(),
            provider: opened.provider(),
            opened,
        };
        storm.prepare(call).await;
        storm.rage(call).await;
        storm
    });
    let Storm { book, opened, provider } = storm;
    drop(provider);
    let kept = keep.then_some(opened);
    end.of(first);
    runtime(threads).block_on(async {
        let opened = match kept {
            Some(opened) => opened,
            None => site.open().await,
        };
        settle(&opened, &book).await;
        opened.close().await;
    });
}

const ROLE: &str = "STEADFAST_KIND_01";

/// The child's life; in the parent it is a test that passes at once.
#[test]
fn entry() {
    let Ok(orders) = std::env::var(ROLE) else { return };
    let words: Vec<&str> = orders.split(' ').collect();
    let [engine, threads, end, rounds] = words[..] else {
        panic!("{orders}")
    };
    let engine = if engine == "embedded" {
        Engine::Embedded
    } else {
        Engine::Postgres
    };
    let end = match end {
        "drop" => End::Drop,
        "background" => End::Background,
        _ => End::Timeout,
    };
    let rounds: u32 = rounds.parse().expect("a number");
    std::thread::spawn(move || {
        // Nothing outlives its parent's patience.
        std::thread::sleep(PATIENCE * rounds);
        eprintln!("hangs");
        std::process::exit(3);
    });
    for round in 0..rounds {
        for (n, call) in CALLS.into_iter().enumerate() {
            // Half of the providers end with their runtime, the others are used on.
            let keep = (n + round as usize).is_multiple_of(2);
            let begun = Instant::now();
            play(engine, threads, end, call, keep);
            eprintln!("{round} {call:?} keep={keep} {:?}", begun.elapsed());
        }
    }
    eprintln!("all rounds are over");
}

fn child(orders: &str) {
    let rounds = if is_long() { 20 } else { 1 };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("output");
    let output = std::fs::File::create(&path).expect("a file for its output");
    let begun = Instant::now();
    let status = Command::new(std::env::current_exe().expect("the path of this program"))
        .args(["--exact", "field::kind_01_dropped_runtime::storm::entry", "--nocapture"])
        .env(ROLE, format!("{orders} {rounds}"))
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("one more handle"))
        .stderr(output)
        .status()
        .expect("run a child");
    let said = std::fs::read_to_string(&path).expect("its output");
    assert!(status.success(), "{orders}: {status}: {said}");
    assert!(said.contains("all rounds are over"), "{orders}: {said}");
    eprintln!("{said}");
    let (cells, took) = (CALLS.len() as u32 * rounds, begun.elapsed());
    report(&format!(
        "- kind 1, `{orders}`: {cells} runtimes ended in the middle of calls, in {took:.0?}; nothing was lost"
    ));
}

#[test]
fn postgres_current_thread_dropped() {
    child("postgres one drop");
}

#[test]
fn postgres_current_thread_shut_down_in_background() {
    child("postgres one background");
}

#[test]
fn postgres_multi_thread_dropped() {
    child("postgres many drop");
}

#[test]
fn postgres_multi_thread_shut_down_with_timeout() {
    child("postgres many timeout");
}

#[test]
fn embedded_current_thread_dropped() {
    child("embedded one drop");
}

#[test]
fn embedded_current_thread_shut_down_in_background() {
    child("embedded one background");
}

#[test]
fn embedded_multi_thread_dropped() {
    child("embedded many drop");
}

#[test]
fn embedded_multi_thread_shut_down_with_timeout() {
    child("embedded many timeout");
}
