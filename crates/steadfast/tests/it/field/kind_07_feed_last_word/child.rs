//! A process of its own that does as it is told, a line at a time: this test binary again.
//!
//! Commands come on its standard input, and it ends where that ends: nothing outlives the test. What it reports begins with
//! `@` (the test harness prints, too); times are microseconds since 1970, as all processes share the machine's clock.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use duroxide::providers::TagFilter;
use duroxide::{Event, EventKind};
use steadfast::embedded::EmbeddedProvider;
use steadfast::feed::Level;
use steadfast::inspect::Inspect;
use steadfast::postgres::PostgresProvider;
use tokio::sync::mpsc;

use crate::op::scene::{activity, start, started};

const PLACE: &str = "STEADFAST_FIELD_CHILD";

/// Where a store is, and how it is opened.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) enum Place {
    Postgres { url: String, schema: String },
    Embedded(PathBuf),
}

impl Place {
    pub(crate) async fn open(&self) -> Arc<dyn Inspect> {
        match self {
            Self::Postgres { url, schema } => {
                let builder = PostgresProvider::builder(url).schema(schema).pool_size(3);
                Arc::new(builder.feed(Level::History).connect().await.expect("open the schema"))
            }
            Self::Embedded(path) => {
                let builder = EmbeddedProvider::builder(path).feed(Level::History);
                Arc::new(builder.open().await.expect("open the file"))
            }
        }
    }
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It stays, and does nothing any more.
    Stays,
    /// The provider is closed.
    Close,
    /// The last handle of the provider is dropped, then the runtime, then `main` ends.
    DropProvider,
    /// The runtime is dropped while somebody has the provider, then `main` ends.
    DropRuntime,
    /// `exit` in the middle of everything.
    Exit,
    /// As the kernel ends it.
    Killed,
}

impl Ending {
    fn word(self) -> &'static str {
        match self {
            Self::Stays => "stay",
            Self::Close => "close",
            Self::DropProvider => "drop-provider",
            Self::DropRuntime => "drop-runtime",
            Self::Exit => "exit",
            Self::Killed => "kill",
        }
    }
}

/// A running process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    commands: ChildStdin,
    reports: mpsc::UnboundedReceiver<String>,
}

impl Process {
    pub(crate) async fn start(place: &Place) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("the path of this program"))
            .args([
                "--exact",
                "field::kind_07_feed_last_word::child::entry",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(PLACE, serde_json::to_string(place).expect("a place"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start a process");
        let (told, reports) = mpsc::unbounded_channel();
        let output = BufReader::new(child.stdout.take().expect("its output"));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The harness begins the line on which a test reports.
                if let Some((_, report)) = line.split_once('@')
                    && told.send(report.to_owned()).is_err()
                {
                    return;
                }
            }
        });
        let commands = child.stdin.take().expect("its input");
        let mut process = Self {
            child,
            commands,
            reports,
        };
        process.report("ready").await;
        process
    }

    pub(crate) fn tell(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("tell a process");
    }

    /// Its next report, which begins so; returns the rest.
    pub(crate) async fn report(&mut self, start: &str) -> String {
        const PATIENCE: Duration = Duration::from_secs(90);
        let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        let report = report.unwrap_or_else(|_| panic!("no {start:?}"));
        let report = report.unwrap_or_else(|| panic!("it ended without {start:?}"));
        let rest = report.strip_prefix(start);
        rest.unwrap_or_else(|| panic!("{report:?} instead of {start:?}"))
            .trim()
            .to_owned()
    }

    /// Does `command` and ends so at once; returns the report.
    pub(crate) async fn last(&mut self, command: &str, ending: Ending, report: &str) -> String {
        self.tell(&format!("{} {command}", ending.word()));
        let said = self.report(report).await;
        if ending != Ending::Stays {
            while !matches!(self.child.try_wait(), Ok(Some(_))) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        said
    }
}

impl Process {
    /// Ends it as the kernel does, whatever it is doing.
    pub(crate) fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Microseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_micros()).expect("in this millennium")
}

fn say(report: &str) {
    // Not by a macro: those are the harness's to capture.
    let mut stdout = std::io::stdout();
    writeln!(stdout, "@{report}")
        .and_then(|()| stdout.flush())
        .expect("report");
}

/// The process's life; in the parent it is a test that passes at once.
#[test]
fn entry() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let place: Place = serde_json::from_str(&place).expect("a place");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let provider = runtime.block_on(place.open());
    say("ready");
    let mut waiters = Vec::new();
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let (ending, command) = line.split_once(' ').unwrap_or((&line, ""));
        if ending == "wait" {
            let provider = Arc::clone(&provider);
            waiters.push(runtime.spawn(wait(provider)));
            say("waits");
            continue;
        }
        runtime.block_on(obey(&*provider, command));
        match ending {
            "stay" => {}
            "close" => return runtime.block_on(provider.close()),
            "drop-provider" => {
                let context = runtime.enter();
                drop(provider);
                drop(context);
                return drop(runtime);
            }
            "drop-runtime" => {
                drop(runtime);
                return drop(provider);
            }
            "exit" => std::process::exit(0),
            _ => std::process::abort(),
        }
    }
    std::process::exit(0);
}

async fn wait(provider: Arc<dyn Inspect>) {
    const PATIENCE: Duration = Duration::from_secs(120);
    let turns = provider.fetch_orchestration_item(PATIENCE, PATIENCE, None);
    let tags = TagFilter::default();
    let works = provider.fetch_work_item(PATIENCE, PATIENCE, None, &tags);
    let _ = tokio::join!(turns, works);
}

/// `write NAME COUNT`, `start NAME`, `work NAME`, `delete NAME`, or nothing.
async fn obey(provider: &dyn Inspect, command: &str) {
    let mut words = command.split(' ');
    let (verb, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    match verb {
        "write" => {
            let count = words.next().expect("how many").parse().expect("a number");
            write(provider, name, count).await;
        }
        "start" => provider
            .enqueue_for_orchestrator(start(name), None)
            .await
            .expect("start"),
        "work" => provider.enqueue_for_worker(activity(name, 2)).await.expect("queue"),
        "delete" => {
            provider
                .as_management_capability()
                .expect("tools")
                .delete_instance(name, true)
                .await
                .expect("delete");
        }
        other => panic!("nobody can {other:?}"),
    }
    say(&format!("done {}", now()));
}

/// So many events of four instances, each in an operation of its own.
async fn write(provider: &dyn Inspect, name: &str, count: u64) {
    let hands = (0..4).map(|hand| async move {
        let instance = format!("{name}-{hand}");
        for id in 1..=count / 4 {
            let done = provider
                .append_with_execution(&instance, 1, vec![event(&instance, id)])
                .await;
            done.expect("append an event");
        }
    });
    futures_util::future::join_all(hands).await;
}

fn event(instance: &str, id: u64) -> Event {
    if id == 1 {
        return started(instance, 1);
    }
    let kind = EventKind::ActivityScheduled {
        name: "a".to_owned(),
        input: "i".to_owned(),
        session_id: None,
        tag: None,
    };
    Event::with_event_id(id, instance, 1, None, kind)
}
