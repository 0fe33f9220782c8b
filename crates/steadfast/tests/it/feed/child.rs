//! Writers and readers as processes of their own: this test binary again, told by its environment what to do.
//!
//! They record by appending lines to a file, and end with their parent at the latest.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use duroxide::providers::Provider;
use steadfast::embedded::EmbeddedProvider;
use steadfast::feed::{ChangePoller, Feed, FeedError, Level};
use steadfast::postgres::PostgresProvider;

use super::checker::{Seen, Write};
use super::history;

const ORDERS: &str = "STEADFAST_FEED_CHILD";

/// Where the store is.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) enum Place {
    Database { url: String, schema: String },
    File(PathBuf),
}

/// What a process is to do.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Orders {
    pub(super) place: Place,
    pub(super) role: Role,
    /// Its record, to be appended to.
    pub(super) record: PathBuf,
    pub(super) parent: u32,
}

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) enum Role {
    /// So many operations on instances of its own.
    Writer { name: String, writes: u64 },
    /// Follows until it is killed.
    Reader,
}

/// A line of a writer's record.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) enum Did {
    Try(Write),
    Acknowledged(Write),
    Done,
}

/// A running process; killed when dropped.
pub(super) struct Process(Child);

impl Process {
    pub(super) fn start(orders: &Orders) -> Self {
        let output = std::fs::File::create(orders.record.with_extension("out")).expect("a file for its output");
        let child = Command::new(std::env::current_exe().expect("the path of this program"))
            .args(["--exact", "feed::child::entry", "--nocapture", "--test-threads=1"])
            .env(ORDERS, serde_json::to_string(orders).expect("orders"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("one more handle"))
            .stderr(output)
            .spawn();
        Self(child.expect("start a process"))
    }

    /// Ends it as the kernel does.
    pub(super) fn kill(&mut self) {
        let _ = self.0.kill();
        self.0.wait().expect("wait for the process");
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("look after the process").is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The whole lines of a record.
pub(super) fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // What was being written when the process was killed does not count.
    let whole = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    whole.collect()
}

impl Place {
    pub(super) async fn provider(&self, level: Level) -> Arc<dyn Provider> {
        match self {
            Self::Database { .. } => Arc::new(self.postgres(level).await),
            Self::File(path) => {
                let opened = EmbeddedProvider::builder(path).feed(level).open().await;
                Arc::new(opened.expect("open the file"))
            }
        }
    }

    async fn postgres(&self, level: Level) -> PostgresProvider {
        let Self::Database { url, schema } = self else {
            panic!("not a database")
        };
        loop {
            let opened = PostgresProvider::builder(url).schema(schema).pool_size(3).feed(level);
            match opened.connect().await {
                Ok(provider) => return provider,
                // The server may be down at this moment.
                Err(error) => tracing::debug!(%error, "not yet"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(super) async fn feed(&self) -> Feed {
        match self {
            Self::Database { .. } => self.postgres(Level::Off).await.feed(),
            Self::File(path) => EmbeddedProvider::open_feed(path).await.expect("open the file to read"),
        }
    }
}

struct Record(Mutex<std::fs::File>);

impl Record {
    fn say(&self, line: &impl serde::Serialize) {
        let text = format!("{}\n", serde_json::to_string(line).expect("a line"));
        self.0.lock().unwrap().write_all(text.as_bytes()).expect("record");
    }
}

/// The process's life; in the parent it is a test that passes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry() {
    let Ok(text) = std::env::var(ORDERS) else { return };
    let orders: Orders = serde_json::from_str(&text).expect("orders");
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&orders.record);
    let mut file = file.expect("open the record");
    // A line that a predecessor was writing when it was killed stays a line of its own.
    file.write_all(b"\n").expect("record");
    let record = Record(Mutex::new(file));
    let parent = PathBuf::from(format!("/proc/{}", orders.parent));
    tokio::spawn(async move {
        while parent.exists() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        std::process::exit(1);
    });
    match &orders.role {
        Role::Writer { name, writes } => {
            let provider = orders.place.provider(Level::History).await;
            write(provider.as_ref(), name, *writes, &record).await;
            drop(provider);
        }
        Role::Reader => {
            let feed = orders.place.feed().await;
            read(&feed, &lines::<Seen>(&orders.record), &record).await;
        }
    }
}

/// Operations of one to four events, on a handful of instances in turn, several at once.
async fn write(provider: &dyn Provider, name: &str, writes: u64, record: &Record) {
    const HANDS: u64 = 8;
    let hands = (0..HANDS).map(|hand| async move {
        let mut next = std::collections::HashMap::<u64, u64>::new();
        for n in 0..writes / HANDS {
            let instance = format!("{name}-{hand}-{}", n % 3);
            let from = *next.entry(n % 3).or_insert(1);
            let upto = from + (n * 7 + hand) % 4;
            let write = Write {
                instance: instance.clone(),
                from,
                upto,
            };
            record.say(&Did::Try(write.clone()));
            let events = history(&instance, from..=upto);
            match provider.append_with_execution(&instance, 1, events.clone()).await {
                Ok(()) => record.say(&Did::Acknowledged(write)),
                Err(error) => panic!("{write:?}: {error:?}"),
            }
            if n % 16 == 5 {
                // Refused, and nowhere to be seen.
                let again = provider.append_with_execution(&instance, 1, events).await;
                assert!(again.is_err(), "appended twice");
            }
            next.insert(n % 3, upto + 1);
        }
    });
    futures_util::future::join_all(hands).await;
    record.say(&Did::Done);
}

/// Follows from where the record ends.
async fn read(feed: &Feed, before: &[Seen], record: &Record) {
    let after = before.last().map_or(0, |line| match line {
        Seen::Event { sequence, .. } => *sequence,
        Seen::Trimmed { first, .. } => first - 1,
        Seen::Resumed { after } => *after,
    });
    record.say(&Seen::Resumed { after });
    let mut poller = ChangePoller::from_sequence(feed, after);
    loop {
        match poller.poll().await {
            Ok(batch) => {
                for event in batch.events {
                    record.say(&Seen::Event {
                        sequence: event.sequence,
                        instance: event.instance,
                        event_id: event.event_id.unwrap_or(0),
                        ends: event.ends_operation,
                    });
                }
            }
            Err(FeedError::Trimmed { cursor, first, .. }) => {
                record.say(&Seen::Trimmed { cursor, first });
                poller.seek(first - 1);
                continue;
            }
            Err(error) if error.is_retryable() => {}
            Err(error) => panic!("{error}"),
        }
        poller.wait(Duration::from_secs(5)).await;
    }
}
