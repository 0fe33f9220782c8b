//! Kind 17: Reading never writes, and needs no right to.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use duroxide::providers::{Provider, ProviderAdmin};
use steadfast::embedded::{EmbeddedProvider, OpenErrorKind};
use steadfast::feed::ChangePoller;
use steadfast::inspect::InstanceQuery;

use crate::op::scene::{LONG, start};

/// Names, permissions, lengths and digests of all that is in a folder.
fn everything(folder: &Path) -> BTreeMap<String, (u32, usize, u64)> {
    std::fs::read_dir(folder)
        .expect("list the folder")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let mode = path.metadata().expect("look").permissions().mode();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let content = std::fs::read(&path).expect("read");
            let mut hasher = std::hash::DefaultHasher::new();
            content.hash(&mut hasher);
            (name, (mode, content.len(), hasher.finish()))
        })
        .collect()
}

fn all() -> InstanceQuery {
    InstanceQuery {
        limit: 100,
        ..InstanceQuery::default()
    }
}

/// A message waits in it: what a look must see.
async fn enqueue(provider: &EmbeddedProvider, instance: &str) {
    provider
        .enqueue_for_orchestrator(start(instance), None)
        .await
        .expect("enqueue");
}

async fn waiting(provider: &EmbeddedProvider) -> u64 {
    let queues = provider.queues().await.expect("queues");
    let found = queues.iter().find(|queue| queue.queue == "orchestrator");
    found.expect("the queue").ready
}

async fn look(path: &Path) -> EmbeddedProvider {
    EmbeddedProvider::builder(path)
        .open_read_only()
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Every way to read.
async fn read_all(provider: &EmbeddedProvider) {
    provider.instances(all()).await.expect("list");
    provider.instance("nobody").await.expect("look");
    provider.executions("nobody").await.expect("look");
    provider.get_queue_depths().await.expect("depths");
    provider.get_system_metrics().await.expect("metrics");
    provider.read("nobody").await.expect("read");
    let feed = provider.feed().expect("the feed");
    ChangePoller::from_sequence(&feed, 0).poll().await.expect("poll");
    feed.status().await.expect("status");
    assert_eq!(provider.health().trouble, None, "health");
}

async fn left_by_a_dead_process(folder: &Path) -> Vec<u8> {
    // What kill -9 leaves: the file and its log, as they are while it is open.
    let live = tempfile::tempdir().expect("a folder");
    let path = live.path().join("store.db");
    let provider = EmbeddedProvider::open(&path).await.expect("open");
    enqueue(&provider, "in the log").await;
    for ending in ["", "-wal"] {
        let name = format!("store.db{ending}");
        std::fs::copy(live.path().join(&name), folder.join(&name)).expect("copy");
    }
    let alone = std::fs::read(&path).expect("read");
    provider.close().await;
    alone
}

#[tokio::test]
async fn a_closed_file_is_read_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let provider = EmbeddedProvider::open(&path).await.expect("open");
    enqueue(&provider, "i").await;
    provider.close().await;
    let before = everything(folder.path());
    assert_eq!(before.keys().collect::<Vec<_>>(), ["store.db"]);
    let reader = look(&path).await;
    read_all(&reader).await;
    assert_eq!(waiting(&reader).await, 1);
    assert!(!reader.health().may_lack_its_log);
    reader.close().await;
    assert_eq!(everything(folder.path()), before);
}

#[tokio::test]
async fn a_log_that_was_left_is_read_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    left_by_a_dead_process(folder.path()).await;
    let before = everything(folder.path());
    let reader = look(&folder.path().join("store.db")).await;
    read_all(&reader).await;
    assert_eq!(waiting(&reader).await, 1, "what is in the log is seen");
    reader.close().await;
    assert_eq!(everything(folder.path()), before);
}

#[tokio::test]
async fn what_is_only_looked_at_refuses_writes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    EmbeddedProvider::open(&path).await.expect("open").close().await;
    let reader = look(&path).await;
    let refused = [
        reader.enqueue_for_orchestrator(start("i"), None).await.err(),
        reader.delete_instance("i", true).await.err(),
        reader.fetch_orchestration_item(LONG, Duration::ZERO, None).await.err(),
        reader
            .fetch_work_item(LONG, Duration::ZERO, None, &duroxide::providers::TagFilter::default())
            .await
            .err(),
    ];
    for (n, error) in refused.into_iter().enumerate() {
        let error = error.unwrap_or_else(|| panic!("call {n} was done"));
        assert!(!error.is_retryable(), "{error:?}");
    }
}

/// Whoever looks sees what others commit: from before they open the file until after they have closed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_sees_what_others_do_meanwhile() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    EmbeddedProvider::open(&path).await.expect("open").close().await;
    let reader = look(&path).await;
    assert_eq!(waiting(&reader).await, 0);
    let writer = EmbeddedProvider::open(&path).await.expect("open");
    enqueue(&writer, "a").await;
    assert_eq!(waiting(&reader).await, 1);
    enqueue(&writer, "b").await;
    assert_eq!(waiting(&reader).await, 2);
    let second = look(&path).await;
    assert_eq!(waiting(&second).await, 2, "a look at a file that is open");
    second.close().await;
    drop(second);
    writer.close().await;
    drop(writer);
    assert_eq!(waiting(&reader).await, 2);
}

#[tokio::test]
async fn what_is_no_store_yet_is_not_made_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let missing = EmbeddedProvider::builder(&path).open_read_only().await;
    assert_eq!(missing.expect_err("it opened").kind(), OpenErrorKind::Missing);
    std::fs::write(&path, "").expect("an empty file");
    let empty = EmbeddedProvider::builder(&path).open_read_only().await;
    assert_eq!(empty.expect_err("it opened").kind(), OpenErrorKind::Missing);
    let before = everything(folder.path());
    assert_eq!(before.len(), 1);
    assert_eq!(before["store.db"].1, 0);
}

#[tokio::test]
async fn a_copy_without_its_log_is_no_copy() {
    let folder = tempfile::tempdir().expect("a folder");
    let alone = left_by_a_dead_process(folder.path()).await;
    let copy = tempfile::tempdir().expect("a folder");
    let path = copy.path().join("copy.db");
    std::fs::write(&path, alone).expect("copy");
    let looked = EmbeddedProvider::builder(&path).open_read_only().await;
    assert_eq!(looked.expect_err("it opened").kind(), OpenErrorKind::LogMissing);
    let opened = EmbeddedProvider::open(&path).await;
    assert_eq!(opened.expect_err("it opened").kind(), OpenErrorKind::LogMissing);
    assert_eq!(everything(copy.path()).len(), 1, "nothing was made beside it");
}

/// What was folded later lacks whatever came after that; whether anything did cannot be known, and is said.
#[tokio::test]
async fn a_later_copy_without_its_log_is_doubted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let provider = EmbeddedProvider::open(&path).await.expect("open");
    enqueue(&provider, "i").await;
    let other = rusqlite::Connection::open(&path).expect("open");
    let fold = "PRAGMA wal_checkpoint(TRUNCATE)";
    other.query_row(fold, [], |_| Ok(())).expect("fold the log");
    let copy = folder.path().join("copy.db");
    std::fs::copy(&path, &copy).expect("copy");
    provider.close().await;
    assert!(look(&copy).await.health().may_lack_its_log);
}

#[tokio::test]
async fn a_copy_that_sqlite_made_is_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let provider = EmbeddedProvider::open(&path).await.expect("open");
    enqueue(&provider, "i").await;
    let other = rusqlite::Connection::open(&path).expect("open");
    let copy = folder.path().join("copy.db");
    other
        .execute("VACUUM INTO ?1", [copy.to_str().expect("a name")])
        .expect("copy");
    let reader = look(&copy).await;
    assert!(!reader.health().may_lack_its_log);
    assert_eq!(waiting(&reader).await, 1);
    reader.close().await;
    drop(reader);
    let opened = EmbeddedProvider::open(&copy).await.expect("open the copy");
    assert_eq!(waiting(&opened).await, 1);
    opened.close().await;
    provider.close().await;
}

#[tokio::test]
async fn what_is_made_is_its_owners_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let provider = EmbeddedProvider::open(&path).await.expect("open");
    enqueue(&provider, "i").await;
    let found = everything(folder.path());
    assert_eq!(found.len(), 3, "{:?}", found.keys());
    for (name, (mode, ..)) in found {
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    provider.close().await;
}

/// Two providers in one process, one of which goes: the other keeps its locks. (Closing any descriptor of a file drops all
/// locks that a process has on it.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_does_not_take_its_neighbours_locks_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let provider = EmbeddedProvider::open(&path).await.expect("open");
    enqueue(&provider, "a").await;
    drop(look(&path).await);
    drop(EmbeddedProvider::open_feed(&path).await.expect("the feed"));
    EmbeddedProvider::open(&path).await.expect("again").close().await;
    // Another process, the last one as it believes if it sees no lock, would fold the log and remove it.
    let python =
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM sf_state'); c.close()";
    let other = std::process::Command::new("python3")
        .args(["-c", python])
        .arg(&path)
        .status();
    match other {
        Ok(status) => assert!(status.success(), "the other process failed"),
        Err(error) => eprintln!("SKIPPED: no python3 to be the other process: {error}"),
    }
    enqueue(&provider, "b").await;
    assert_eq!(waiting(&provider).await, 2);
    provider.close().await;
}
