//! Full disks, read-only places, files that are taken away, other writers: a clear error, and nothing lost.

use std::time::Duration;

use duroxide::providers::{Provider, TagFilter};
use power_loss_vfs::{Recorder, Trouble};
use steadfast::embedded::{Durability, EmbeddedProvider, OpenErrorKind};

use super::power::watched;
use crate::op::scene::{LONG, activity, start, turn};

async fn enqueue(provider: &EmbeddedProvider, instance: &str) -> Result<(), duroxide::providers::ProviderError> {
    provider.enqueue_for_orchestrator(start(instance), None).await
}

/// Everything that was acknowledged, and nothing else, can be taken.
async fn holds(provider: &EmbeddedProvider, instances: &[&str]) {
    let mut found = Vec::new();
    for _ in instances {
        found.push(turn(provider, LONG).await.0);
    }
    found.sort();
    assert_eq!(found, instances);
    let more = provider.fetch_orchestration_item(LONG, Duration::ZERO, None).await;
    assert!(more.expect("fetch").is_none(), "more than was acknowledged");
}

/// While the trouble lasts, calls fail as retryable; once it is over, everything goes on.
async fn passes(trouble: Trouble) {
    let (_folder, recorder, provider) = watched(Durability::Full, |builder| {
        builder.trouble_timeout(Duration::from_millis(300))
    })
    .await;
    enqueue(&provider, "before").await.expect("enqueue");
    recorder.set_trouble(trouble);
    let error = enqueue(&provider, "during").await.expect_err("there was trouble");
    assert!(error.is_retryable(), "{error:?}");
    assert!(provider.health().trouble.is_some(), "health says why");
    // A call that has patience outlives it.
    let patient = {
        let provider = provider.clone();
        tokio::spawn(async move { provider.enqueue_for_worker(activity("before", 2)).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    recorder.set_trouble(Trouble::None);
    patient.await.expect("no panic").expect("enqueue in the end");
    enqueue(&provider, "later").await.expect("enqueue");
    assert_eq!(provider.health().trouble, None);
    holds(&provider, &["before", "later"]).await;
    let work = provider.fetch_work_item(LONG, LONG, None, &TagFilter::default()).await;
    assert!(work.expect("fetch").is_some());
    provider.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing() {
    passes(Trouble::DiskFull).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_does_not_sync_loses_nothing() {
    passes(Trouble::SyncFails).await;
}

/// A store that was made while all was well.
async fn read_only(trouble: Trouble) {
    let (folder, recorder, provider) = watched(Durability::Full, |builder| builder).await;
    enqueue(&provider, "i").await.expect("enqueue");
    provider.close().await;
    recorder.set_trouble(trouble);
    let path = folder.path().join("store.db");
    let error = EmbeddedProvider::open(&path).await.expect_err("it opened");
    assert_eq!(error.kind(), OpenErrorKind::ReadOnly, "{error}");
    recorder.set_trouble(Trouble::None);
    let provider = EmbeddedProvider::open(&path).await.expect("open it again");
    holds(&provider, &["i"]).await;
    provider.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_file_is_named() {
    read_only(Trouble::ReadOnlyFile).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_folder_is_named() {
    read_only(Trouble::ReadOnlyFolder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_taken_away_is_noticed() {
    for ending in ["", "-wal"] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        let provider = EmbeddedProvider::open(&path).await.expect("open");
        enqueue(&provider, "before").await.expect("enqueue");
        std::fs::remove_file(format!("{}{ending}", path.display())).expect("take it away");
        let error = enqueue(&provider, "after").await.expect_err("nobody noticed");
        assert!(!error.is_retryable(), "{error:?}");
        assert!(error.message.contains("is gone"), "{error:?}");
        provider.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_writer_is_waited_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let builder = EmbeddedProvider::builder(&path).retry_timeout(Duration::from_millis(500));
    let provider = builder.open().await.expect("open");
    let other = rusqlite::Connection::open(&path).expect("another writer");
    other.execute_batch("BEGIN IMMEDIATE").expect("lock the file");
    let waiting = {
        let provider = provider.clone();
        tokio::spawn(async move { enqueue(&provider, "patient").await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    other.execute_batch("COMMIT").expect("let go");
    waiting.await.expect("no panic").expect("enqueue");
    other.execute_batch("BEGIN IMMEDIATE").expect("lock the file");
    let error = enqueue(&provider, "late").await.expect_err("the file is locked");
    assert!(error.is_retryable(), "{error:?}");
    other.execute_batch("COMMIT").expect("let go");
    holds(&provider, &["patient"]).await;
    provider.close().await;
}

/// What another provider writes wakes who waits here, well before the wait is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_made_elsewhere_wakes_who_waits() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let here = EmbeddedProvider::open(&path).await.expect("open");
    let there = EmbeddedProvider::open(&path).await.expect("open once more");
    let patience = Duration::from_secs(60);
    let waiting = {
        let here = here.clone();
        tokio::spawn(async move { here.fetch_orchestration_item(LONG, patience, None).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    enqueue(&there, "i").await.expect("enqueue");
    let woken = tokio::time::timeout(patience / 6, waiting).await.expect("it slept on");
    let (item, _, _) = woken.expect("no panic").expect("fetch").expect("a turn");
    assert_eq!(item.instance, "i");
    here.close().await;
    there.close().await;
}

/// The layer itself: nothing of this would be worth anything if it recorded nothing.
#[test]
fn the_layer_sees_what_sqlite_writes() {
    power_loss_vfs::install().expect("the layer is in place");
    let folder = tempfile::tempdir().expect("a folder");
    let recorder = Recorder::watch(folder.path());
    let file = rusqlite::Connection::open(folder.path().join("x.db")).expect("open");
    file.execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (1)")
        .expect("write");
    assert!(recorder.syncs("x.db") >= 2 && recorder.syncs("-journal") >= 2);
}
