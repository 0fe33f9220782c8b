//! Commits take 30 ms longer: whoever assigns holds the lock with a snapshot that is older than what others have committed
//! meanwhile.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use private_postgres::{Cluster, Options};
use steadfast::feed::Feed;
use steadfast::postgres::PostgresProvider;

use super::child::{Ending, Place, Process};
use super::patience;
use super::reader::Reader;
use crate::field::form::{is_long, report};
use crate::op::scene::client;

const SHIM: &str = "#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int)) dlsym(RTLD_NEXT, \"fdatasync\");
    usleep(30000);
    return real(fd);
}
";

/// A server on a disk that is slow to sync.
pub(super) struct SlowServer {
    pub(super) cluster: Cluster,
    _shim: tempfile::TempDir,
}

impl SlowServer {
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder for the shim");
        // The server runs as another user.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("open the folder");
        let (source, shim) = (folder.path().join("slow.c"), folder.path().join("slow.so"));
        std::fs::write(&source, SHIM).expect("write the shim");
        let mut compiler = Command::new("cc");
        compiler
            .args(["-shared", "-fPIC", "-o"])
            .arg(&shim)
            .arg(&source)
            .arg("-ldl");
        assert!(compiler.status().expect("run cc").success(), "compile the shim");
        let options = Options::under(std::env::temp_dir().join("steadfast-slow"))
            .variable("LD_PRELOAD", shim.to_str().expect("a path"))
            .setting("autovacuum", "off");
        Self {
            cluster: Cluster::start(options).expect("a server of its own"),
            _shim: folder,
        }
    }

    pub(super) fn place(&self) -> Place {
        Place::Postgres {
            url: self.cluster.url(),
            schema: "slow".to_owned(),
        }
    }

    /// Somebody who may write, and somebody who may only read, under the grants of docs/operations.md.
    pub(super) async fn readers(&self) -> [Reader; 2] {
        let sql = client(&self.cluster.url()).await;
        sql.batch_execute("CREATE ROLE feed_reader LOGIN")
            .await
            .expect("a role");
        let grants = crate::field::kind_24_tests_can_fail::feed_reader_grants("slow");
        sql.batch_execute(&grants).await.expect("the documented grants");
        let only_reads = self.cluster.url().replace("postgres@", "feed_reader@");
        [
            Reader::follow("may write", feed(&self.cluster.url()).await),
            Reader::follow("may only read", feed(&only_reads).await),
        ]
    }
}

async fn feed(url: &str) -> Feed {
    let reader = PostgresProvider::builder(url).schema("slow");
    reader.open_feed().await.expect("open the feed")
}

/// A commit must really be slow, or this tests nothing.
async fn proves_slow(server: &SlowServer) {
    let sql = client(&server.cluster.url()).await;
    sql.batch_execute("CREATE TABLE proof (n int)").await.expect("a table");
    let started = std::time::Instant::now();
    for _ in 0..5 {
        sql.batch_execute("INSERT INTO proof VALUES (1)").await.expect("commit");
    }
    assert!(
        started.elapsed() >= Duration::from_millis(150),
        "{:?}",
        started.elapsed()
    );
}

/// Short loads by two to four processes. What one of them writes last may be committed while another one assigns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_event_is_seen_although_commits_are_slow() {
    const WRITES: u64 = 16;
    let server = SlowServer::start();
    let place = server.place();
    place.open().await.close().await;
    proves_slow(&server).await;
    let readers = server.readers().await;
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(idle(&place).await);
    }
    let rounds = if is_long() { 50 } else { 5 };
    let (mut late, endings) = (Vec::new(), [Ending::Stays, Ending::Killed, Ending::Close]);
    for round in 0..rounds {
        let (count, ending) = (2 + round % 3, endings[round / 2 % 3]);
        let loads = workers
            .iter_mut()
            .take(count)
            .enumerate()
            .map(|(n, worker)| async move {
                let command = format!("write r{round}w{n} {WRITES}");
                // One of them ends, the others stay, as they do when one is deployed anew.
                let ending = if n == 0 { ending } else { Ending::Stays };
                worker
                    .last(&command, ending, "done")
                    .await
                    .parse::<u64>()
                    .expect("a time")
            });
        let last = futures_util::future::join_all(loads)
            .await
            .into_iter()
            .max()
            .expect("a load");
        let wanted: Vec<(String, u64)> = (0..count)
            .flat_map(|n| (0..4).map(move |hand| (format!("r{round}w{n}-{hand}"), WRITES / 4)))
            .collect();
        for reader in &readers {
            late.push(reader.has(&wanted, last, patience()).await);
        }
        if ending != Ending::Stays {
            workers[0] = idle(&place).await;
        }
    }
    late.sort_unstable();
    report(&format!(
        "| slow fdatasync, 2 to 4 processes | {rounds} rounds, 2 readers | last event visible after: p50 {} ms, max {} ms |",
        late[late.len() / 2],
        late[late.len() - 1]
    ));
    if is_long() {
        assert!(late.iter().all(|ms| *ms < 1000), "{late:?}");
    }
}

/// A process that waits for work meanwhile, as workers do.
async fn idle(place: &Place) -> Process {
    let mut worker = Process::start(place).await;
    worker.tell("wait");
    worker.report("waits").await;
    worker
}

/// A role that may only connect looks which locks there are, and holds those that come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_only_connect_cannot_hold_it_up() {
    let server = SlowServer::start();
    let place = server.place();
    place.open().await.close().await;
    let readers = server.readers().await;
    let sql = client(&server.cluster.url()).await;
    sql.batch_execute("CREATE ROLE nobody LOGIN").await.expect("a role");
    let mut worker = Process::start(&place).await;
    // Whatever is locked twice is no random number of one call.
    let watch = client(&server.cluster.url()).await;
    let watching = tokio::spawn(async move {
        let look = "SELECT classid::bigint << 32 | objid::bigint FROM pg_locks
            WHERE locktype = 'advisory' AND objsubid = 1 AND granted";
        let mut seen = std::collections::HashMap::<i64, usize>::new();
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_secs(4) {
            for row in watch.query(look, &[]).await.expect("look at the locks") {
                *seen.entry(row.get(0)).or_default() += 1;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        seen.into_iter()
            .filter(|(_, times)| *times > 1)
            .map(|(key, _)| key)
            .collect::<Vec<i64>>()
    });
    for round in 0..6 {
        worker
            .last(&format!("write watched{round} 40"), Ending::Stays, "done")
            .await;
    }
    let keys = watching.await.expect("look at the locks");
    let thief = client(&server.cluster.url().replace("postgres@", "nobody@")).await;
    for key in &keys {
        thief
            .query("SELECT pg_advisory_lock($1)", &[key])
            .await
            .expect("take a lock");
    }
    let last = worker.last("write robbed 16", Ending::Stays, "done").await;
    let wanted: Vec<(String, u64)> = (0..4).map(|hand| (format!("robbed-{hand}"), 4)).collect();
    for reader in &readers {
        let late = reader.has(&wanted, last.parse().expect("a time"), patience()).await;
        report(&format!(
            "| {} locks held by a role that may only connect | 1 round | {late} ms |",
            keys.len()
        ));
    }
    drop(thief);
}
