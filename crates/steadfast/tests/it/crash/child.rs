//! A process of its own: this test binary again, told by its environment what to do.
//!
//! It reports by appending lines to a file. It ends by itself when its work is done, and with its parent at the latest.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use duroxide::providers::{Provider, TagFilter, WorkItem};
use steadfast::fault::Faults;
use steadfast::postgres::{LongPoll, PostgresProvider};

use crate::op::scene::{ack_turn, completed};

const ROLE: &str = "STEADFAST_TEST_CHILD";

/// What a child is to do.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    /// One of those in [`entry`].
    pub(super) role: &'static str,
    pub(super) url: String,
    pub(super) schema: String,
    pub(super) lease: Duration,
    pub(super) fallback: Duration,
    pub(super) seed: u64,
}

/// A running child and the file of its lines; killed when dropped.
pub(super) struct Process {
    child: Child,
    directory: tempfile::TempDir,
}

impl Process {
    pub(super) fn start(orders: &Orders) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the child");
        let output = std::fs::File::create(directory.path().join("output")).expect("a file for its output");
        let child = Command::new(std::env::current_exe().expect("the path of this program"))
            .args(["--exact", "crash::child::entry", "--nocapture", "--test-threads=1"])
            .env(ROLE, orders.role)
            .env("STEADFAST_TEST_CHILD_URL", &orders.url)
            .env("STEADFAST_TEST_CHILD_SCHEMA", &orders.schema)
            .env("STEADFAST_TEST_CHILD_LEASE_MS", orders.lease.as_millis().to_string())
            .env(
                "STEADFAST_TEST_CHILD_FALLBACK_MS",
                orders.fallback.as_millis().to_string(),
            )
            .env("STEADFAST_TEST_CHILD_SEED", orders.seed.to_string())
            .env("STEADFAST_TEST_CHILD_REPORT", directory.path().join("report"))
            .env("STEADFAST_TEST_CHILD_PARENT", std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("one more handle"))
            .stderr(output)
            .spawn()
            .expect("start a child");
        Self { child, directory }
    }

    /// What it has reported so far.
    pub(super) fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.directory.path().join("report")).unwrap_or_default();
        // A line that is being written does not count yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(ToOwned::to_owned).collect()
    }

    /// Waits for a line that begins so.
    pub(super) async fn line(&mut self, start: &str, within: Duration) -> String {
        let deadline = Instant::now() + within;
        loop {
            if let Some(line) = self.lines().into_iter().find(|line| line.starts_with(start)) {
                return line;
            }
            let ended = self.child.try_wait().expect("look after the child");
            let output = || std::fs::read_to_string(self.directory.path().join("output")).unwrap_or_default();
            assert!(ended.is_none(), "the child ended without {start:?}: {}", output());
            assert!(
                Instant::now() < deadline,
                "no {start:?} within {within:?}: {:?} {}",
                self.lines(),
                output()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it as the kernel does: it can do nothing about it.
    pub(super) fn kill(&mut self) {
        self.child.kill().expect("kill the child");
        self.child.wait().expect("wait for the child");
    }

    /// Waits until it ends by itself, which must be well.
    pub(super) async fn done(&mut self) {
        loop {
            if let Some(status) = self.child.try_wait().expect("look after the child") {
                let output = std::fs::read_to_string(self.directory.path().join("output")).unwrap_or_default();
                assert!(status.success(), "{status}: {output}");
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn setting(name: &str) -> String {
    let name = format!("{ROLE}_{name}");
    std::env::var(&name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn millis(name: &str) -> Duration {
    Duration::from_millis(setting(name).parse().expect("milliseconds"))
}

/// Microseconds since the epoch; all processes share the machine's clock.
fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_micros()
}

/// Where a child writes its lines.
struct Report(Mutex<std::fs::File>);

impl Report {
    fn say(&self, line: &str) {
        let mut file = self.0.lock().unwrap();
        writeln!(file, "{line}").expect("report");
    }
}

/// The child's life; in the parent it is a test that passes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = PathBuf::from(setting("REPORT"));
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let report = Report(Mutex::new(file.expect("open the report")));
    tokio::spawn(end_with_parent());
    let faults = Faults::new();
    faults.lose_hints(role == "deaf");
    let provider = PostgresProvider::builder(&setting("URL"))
        .schema(setting("SCHEMA"))
        .pool_size(3)
        .faults(faults)
        .long_poll(LongPoll {
            fallback_poll_interval: millis("FALLBACK_MS"),
            ..LongPoll::default()
        })
        .connect()
        .await
        .expect("open the provider");
    report.say("ready");
    match role.as_str() {
        "waiter" | "deaf" => wait_for_both(&provider, &report).await,
        "holder" => hold_both(&provider, &report).await,
        "worker" => work_off(&provider, &report).await,
        other => panic!("nobody is a {other}"),
    }
    provider.close().await;
    report.say("done");
}

/// Nothing may outlive the test that started it, however that ends.
async fn end_with_parent() {
    let parent = PathBuf::from(format!("/proc/{}", setting("PARENT")));
    while parent.exists() {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    std::process::exit(1);
}

/// Sleeps on both queues until each has brought something.
async fn wait_for_both(provider: &PostgresProvider, report: &Report) {
    const PATIENCE: Duration = Duration::from_secs(120);
    let (lease, tags) = (millis("LEASE_MS"), TagFilter::default());
    let turns = async {
        let fetched = provider.fetch_orchestration_item(lease, PATIENCE, None).await;
        let (item, _, _) = fetched.expect("fetch").expect("a turn");
        report.say(&format!("turn {}", item.instance));
    };
    let work = async {
        let fetched = provider.fetch_work_item(lease, PATIENCE, None, &tags).await;
        fetched.expect("fetch").expect("an activity");
        report.say("work");
    };
    tokio::join!(turns, work);
}

/// Claims one of each, and does nothing about it until it is killed.
async fn hold_both(provider: &PostgresProvider, report: &Report) {
    let lease = millis("LEASE_MS");
    let before = now();
    let turn = provider
        .fetch_orchestration_item(lease, lease, None)
        .await
        .expect("fetch")
        .expect("a turn");
    let work = provider
        .fetch_work_item(lease, lease, None, &TagFilter::default())
        .await;
    let work = work.expect("fetch").expect("an activity");
    report.say(&format!("holding {before} {} {}", turn.2, work.2));
    std::future::pending::<()>().await;
}

/// A small generator, so that a seed tells the whole story.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// What a worker does with an item.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deed {
    Ack,
    Abandon,
    /// Holds it past its lease; then its ack must be refused.
    Oversleep,
}

impl Deed {
    fn of(dice: &mut Dice) -> Self {
        match dice.roll(10) {
            0 => Self::Oversleep,
            1 => Self::Abandon,
            _ => Self::Ack,
        }
    }
}

/// Takes from both queues, several at once, until nothing has come for longer than a lease.
///
/// Lines: `got ITEM ATTEMPT RETURNED`, then `acked ITEM ATTEMPT ASKED`, `refused ITEM ATTEMPT` or
/// `abandoned ITEM ATTEMPT`; times in microseconds.
async fn work_off(provider: &PostgresProvider, report: &Report) {
    let seed: u64 = setting("SEED").parse().expect("a number");
    let hands = (0..6).map(|hand| async move {
        let mut dice = Dice(seed.wrapping_mul(100) + hand);
        while take_one(provider, report, &mut dice, hand % 2 == 0).await {}
    });
    futures_util::future::join_all(hands).await;
}

async fn take_one(provider: &PostgresProvider, report: &Report, dice: &mut Dice, turns: bool) -> bool {
    let lease = millis("LEASE_MS");
    let fetched = if turns {
        let fetched = provider
            .fetch_orchestration_item(lease, lease * 4, None)
            .await
            .expect("fetch a turn");
        fetched.map(|(item, token, attempts)| (item.instance, token, attempts))
    } else {
        let fetched = provider
            .fetch_work_item(lease, lease * 4, None, &TagFilter::default())
            .await;
        fetched.expect("fetch an activity").map(|(item, token, attempts)| {
            let WorkItem::ActivityExecute { instance, .. } = item else {
                panic!("not an activity")
            };
            (instance, token, attempts)
        })
    };
    let Some((item, token, attempt)) = fetched else {
        return false;
    };
    let kind = if turns { "turn" } else { "work" };
    let item_name = format!("{kind}-{item}");
    report.say(&format!("got {item_name} {attempt} {}", now()));
    let deed = Deed::of(dice);
    let pause = if deed == Deed::Oversleep {
        lease + lease / 2
    } else {
        Duration::from_millis(dice.roll(30))
    };
    tokio::time::sleep(pause).await;
    let asked = now();
    if deed == Deed::Abandon {
        let result = if turns {
            provider.abandon_orchestration_item(&token, None, false).await
        } else {
            provider.abandon_work_item(&token, None, false).await
        };
        // On a machine under load, the lease may have ended and the item gone on.
        report.say(&format!(
            "{} {item_name} {attempt}",
            if result.is_ok() { "abandoned" } else { "refused" }
        ));
        return true;
    }
    let result = if turns {
        ack_turn(provider, &token, &item, Vec::new(), Vec::new()).await
    } else {
        provider.ack_work_item(&token, Some(completed("collector", 2))).await
    };
    match result {
        Ok(()) => {
            assert!(deed != Deed::Oversleep, "{item_name}: an ack after the lease's end");
            report.say(&format!("acked {item_name} {attempt} {asked}"));
        }
        Err(error) => {
            assert!(error.message.contains("Invalid lock token"), "{item_name}: {error:?}");
            report.say(&format!("refused {item_name} {attempt}"));
        }
    }
    true
}
