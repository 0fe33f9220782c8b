//! Writers and readers under kills, held-open and prepared transactions, immediate restarts, backlogs and trims; then the
//! checker judges what they recorded.
//!
//! Short by default; `STEADFAST_FEED_EVENTS=1000000` makes a long run.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use private_postgres::{Cluster, Options};
use steadfast::feed::{Level, Retention};
use tokio_postgres::{Client, NoTls};

use super::checker::{Records, Seen, violations};
use super::child::{Did, Orders, Place, Process, Role, lines};

/// Events of a run, roughly.
fn events() -> u64 {
    let text = std::env::var("STEADFAST_FEED_EVENTS").ok();
    text.map_or(12_000, |text| text.parse().expect("STEADFAST_FEED_EVENTS is a number"))
}

struct Run {
    place: Place,
    directory: tempfile::TempDir,
    writers: Vec<(PathBuf, Process)>,
    readers: Vec<(PathBuf, Process)>,
    started: usize,
    writes_each: u64,
}

impl Run {
    fn new(place: Place) -> Self {
        Self {
            place,
            directory: tempfile::tempdir().expect("a folder for records"),
            writers: Vec::new(),
            readers: Vec::new(),
            started: 0,
            // 2.5 events per write; some writers are killed halfway and replaced.
            writes_each: events() / 10,
        }
    }

    fn start(&self, record: &Path, role: Role) -> Process {
        Process::start(&Orders {
            place: self.place.clone(),
            role,
            record: record.to_owned(),
            parent: std::process::id(),
        })
    }

    fn start_writer(&mut self) {
        self.started += 1;
        let name = format!("w{}", self.started);
        let record = self.directory.path().join(&name);
        let role = Role::Writer {
            name,
            writes: self.writes_each,
        };
        let process = self.start(&record, role);
        self.writers.push((record, process));
    }

    fn start_reader(&mut self, name: &str) {
        let record = self.directory.path().join(name);
        let process = self.start(&record, Role::Reader);
        self.readers.push((record, process));
    }

    /// Kills a reader and has another go on where its record ends.
    fn replace_reader(&mut self, n: usize) {
        self.readers[n].1.kill();
        let record = self.readers[n].0.clone();
        self.readers[n].1 = self.start(&record, Role::Reader);
    }

    fn records(&self) -> Records {
        let mut records = Records::default();
        for (path, _) in &self.writers {
            for line in lines::<Did>(path) {
                match line {
                    Did::Try(write) => drop(records.tried.insert(write)),
                    Did::Acknowledged(write) => drop(records.acknowledged.insert(write)),
                    Did::Done => {}
                }
            }
        }
        records.readers = self.readers.iter().map(|(path, _)| lines::<Seen>(path)).collect();
        records
    }

    async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(700)).await;
    }

    /// Waits until the writers have ended and the readers have all there is, then judges.
    async fn finish(mut self, what: &str) {
        let deadline = Instant::now() + Duration::from_secs(60 + events() / 2000);
        while !self.writers.iter_mut().all(|(_, process)| process.has_ended()) {
            assert!(Instant::now() < deadline, "the writers do not end");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (feed, mut last) = (self.place.feed().await, None);
        loop {
            let status = feed.status().await.expect("the feed's state");
            let ends = |(path, _): &(PathBuf, Process)| match lines::<Seen>(path).last() {
                Some(Seen::Event { sequence, .. }) => *sequence,
                Some(Seen::Trimmed { first, .. }) => first - 1,
                Some(Seen::Resumed { after }) => *after,
                None => 0,
            };
            let ends: Vec<u64> = self.readers.iter().map(ends).collect();
            if status.pending == 0 && ends.iter().all(|end| *end == status.last) && last == Some(status.last) {
                break;
            }
            last = Some(status.last);
            assert!(Instant::now() < deadline, "readers are at {ends:?} of {status:?}");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let records = self.records();
        let wrong = violations(&records);
        let trims = records
            .readers
            .iter()
            .flatten()
            .filter(|s| matches!(s, Seen::Trimmed { .. }))
            .count();
        let resumed = records
            .readers
            .iter()
            .flatten()
            .filter(|s| matches!(s, Seen::Resumed { .. }))
            .count();
        eprintln!(
            "feed {what}: {} events, {} writes acknowledged of {} tried by {} processes, {} readers begun {resumed} times, \
             {trims} losses told, {} violations",
            last.unwrap_or(0),
            records.acknowledged.len(),
            records.tried.len(),
            self.writers.len(),
            self.readers.len(),
            wrong.len(),
        );
        assert!(
            wrong.is_empty(),
            "{} violations: {:#?}",
            wrong.len(),
            &wrong[..wrong.len().min(10)]
        );
        assert!(!records.acknowledged.is_empty(), "nothing was written");
    }
}

async fn sql(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

/// Makes the store, and the writers and readers on it.
async fn begin(place: Place) -> Run {
    drop(place.provider(Level::History).await);
    let mut run = Run::new(place);
    for _ in 0..3 {
        run.start_writer();
    }
    run.start_reader("r1");
    run.start_reader("r2");
    run.pause().await;
    run
}

/// Kills a writer (which assigns, too) and a reader, again and again.
async fn kill_some(run: &mut Run) {
    for n in 0..3 {
        run.pause().await;
        run.writers[n].1.kill();
        run.start_writer();
        run.replace_reader(n % 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_reversed_in_a_file() {
    let directory = tempfile::tempdir().expect("a folder");
    let mut run = begin(Place::File(directory.path().join("store.db"))).await;
    kill_some(&mut run).await;
    run.finish("embedded").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losses_are_told_exactly_in_a_file() {
    let directory = tempfile::tempdir().expect("a folder");
    let place = Place::File(directory.path().join("store.db"));
    let trimmer = steadfast::embedded::EmbeddedProvider::open(directory.path().join("store.db"));
    let trimmer = trimmer.await.expect("open the file").feed().expect("its feed");
    let mut run = begin(place).await;
    trims(&mut run, &trimmer).await;
    kill_some(&mut run).await;
    trims(&mut run, &trimmer).await;
    run.finish("embedded, trimmed").await;
}

/// Trims what the readers have not seen, while they stand still.
async fn trims(run: &mut Run, feed: &steadfast::feed::Feed) {
    let few = Retention {
        max_age: None,
        max_events: Some(50),
        ..Retention::default()
    };
    for n in 0..3 {
        run.readers[n % 2].1.kill();
        run.pause().await;
        feed.trim(few).await.expect("trim");
        run.replace_reader(n % 2);
        run.pause().await;
    }
}

fn cluster() -> Cluster {
    let folder = std::env::temp_dir().join("steadfast-feed");
    let options = Options::under(folder).setting("max_prepared_transactions", "10");
    Cluster::start(options).expect("a cluster of its own")
}

/// A store on a server of its own, and the trouble that only a server can have.
async fn begin_in_a_database(cluster: &Cluster) -> Run {
    begin(Place::Database {
        url: cluster.url(),
        schema: "feed".to_owned(),
    })
    .await
}

/// Horizons held here and in another database, a prepared transaction that has written to the feed's tables, kills, a dead
/// listener, a crash of the server.
async fn trouble_in_a_database(run: &mut Run, cluster: &Cluster) {
    let here = sql(&cluster.url()).await;
    here.batch_execute("SET search_path TO feed; BEGIN; SELECT pg_current_xact_id(); SELECT count(*) FROM sf_feed")
        .await
        .expect("hold a transaction open");
    let beside = sql(&cluster.url()).await;
    beside
        .batch_execute("CREATE DATABASE beside")
        .await
        .expect("another database");
    let elsewhere = sql(&cluster.url_of("beside")).await;
    elsewhere
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()")
        .await
        .expect("hold a transaction open elsewhere");
    let append = "SET search_path TO feed; BEGIN;
        SELECT sf_append_with_execution(gen_random_uuid(), 60000, 'prepared', 1, '{1}', '{1}', ARRAY['{}'::bytea], '{1}');
        PREPARE TRANSACTION 'feed'";
    beside.batch_execute(append).await.expect("prepare a transaction");
    kill_some(run).await;
    // A listener dies.
    let killed = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND (query LIKE 'LISTEN%' OR query LIKE '%pg_notify%' OR query LIKE '%advisory%')";
    beside.batch_execute(killed).await.expect("kill listeners");
    drop(here);
    run.pause().await;
    cluster.stop_immediate().expect("stop at once");
    cluster.start_again().expect("start again");
    run.pause().await;
    let after = sql(&cluster.url()).await;
    after
        .batch_execute("COMMIT PREPARED 'feed'")
        .await
        .expect("commit what was prepared");
    let name = run.directory.path().join("prepared");
    let write = super::checker::Write {
        instance: "prepared".to_owned(),
        from: 1,
        upto: 1,
    };
    let lines = [Did::Try(write.clone()), Did::Acknowledged(write)];
    let lines = lines.map(|line| serde_json::to_string(&line).expect("a line"));
    std::fs::write(&name, lines.join("\n")).expect("record");
    let ended = run.start(
        &run.directory.path().join("none"),
        Role::Writer {
            name: "none".to_owned(),
            writes: 0,
        },
    );
    run.writers.push((name, ended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_doubled_or_reversed_in_a_database() {
    let cluster = cluster();
    let mut run = begin_in_a_database(&cluster).await;
    trouble_in_a_database(&mut run, &cluster).await;
    run.finish("postgres").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losses_are_told_exactly_in_a_database() {
    let cluster = cluster();
    let mut run = begin_in_a_database(&cluster).await;
    let feed = run.place.feed().await;
    trims(&mut run, &feed).await;
    trouble_in_a_database(&mut run, &cluster).await;
    trims(&mut run, &feed).await;
    run.finish("postgres, trimmed").await;
}
