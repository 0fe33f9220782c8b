//! Kind 18: A store knows its own log, and refuses a stranger's: a restored file stays restored. What a crash leaves is
//! never refused (that is what `durability::power` opens by the thousand, and the kills here).

use std::path::{Path, PathBuf};

use duroxide::providers::Provider;
use steadfast::embedded::{EmbeddedProvider, OpenErrorKind};

use crate::op::scene::start;

async fn open(path: &Path) -> EmbeddedProvider {
    EmbeddedProvider::open(path)
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

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

/// What lies on the disk while a provider has the file open: what kill -9 leaves.
fn killed(path: &Path, to: &Path) -> PathBuf {
    let target = to.join("store.db");
    for ending in ["", "-wal", "-shm"] {
        let (from, to) = (name(path, ending), name(&target, ending));
        std::fs::copy(&from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
    target
}

fn name(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", path.display()))
}

/// Both ways of opening refuse it, name what to remove, and leave it; without the log it is what was restored.
async fn refused_and_then_restored(path: &Path, restored: u64) {
    let before = std::fs::read(name(path, "-wal")).expect("read the log");
    for error in [
        EmbeddedProvider::open(path).await.err(),
        EmbeddedProvider::builder(path).open_read_only().await.err(),
    ] {
        let error = error.expect("the stranger's log was taken");
        assert_eq!(error.kind(), OpenErrorKind::StrangersLog, "{error}");
        assert!(error.to_string().contains("store.db-wal"), "{error}");
        assert!(error.to_string().contains("store.db-shm"), "{error}");
    }
    assert_eq!(std::fs::read(name(path, "-wal")).expect("read the log"), before);
    for ending in ["-wal", "-shm"] {
        // As the error says.
        let _ = std::fs::remove_file(name(path, ending));
    }
    let provider = open(path).await;
    assert_eq!(waiting(&provider).await, restored);
    provider.close().await;
}

/// The three ways to make a backup that the documentation names, or that people use.
#[derive(Debug, Clone, Copy)]
enum Backup {
    Closed,
    VacuumInto,
    Online,
}

async fn restored_over_a_leftover_log(backup: Backup, later: bool) {
    eprintln!("{backup:?}, the log begun anew since: {later}");
    let live = tempfile::tempdir().expect("a folder");
    let (path, copy) = (live.path().join("store.db"), live.path().join("backup.db"));
    let provider = open(&path).await;
    enqueue(&provider, "old").await;
    let provider = match backup {
        Backup::Closed => {
            provider.close().await;
            std::fs::copy(&path, &copy).expect("copy");
            open(&path).await
        }
        Backup::VacuumInto | Backup::Online => {
            // As `sqlite3 store.db ".backup …"` does it.
            let file = rusqlite::Connection::open(&path).expect("open");
            let way = match backup {
                Backup::VacuumInto => format!("VACUUM INTO '{}'", copy.display()),
                _ => String::new(),
            };
            if way.is_empty() {
                let mut to = rusqlite::Connection::open(&copy).expect("open");
                let whole = rusqlite::backup::Backup::new(&file, &mut to).expect("begin");
                whole
                    .run_to_completion(1_000, std::time::Duration::ZERO, None)
                    .expect("copy");
            } else {
                file.execute_batch(&way).expect("copy");
            }
            provider
        }
    };
    if later {
        let file = rusqlite::Connection::open(&path).expect("open");
        file.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))
            .expect("fold");
    }
    for n in 0..20 {
        enqueue(&provider, &format!("new{n}")).await;
    }
    let place = tempfile::tempdir().expect("a folder");
    let target = killed(&path, place.path());
    provider.close().await;
    // Legit as it is.
    let legit = tempfile::tempdir().expect("a folder");
    let as_it_was = open(&killed(&target, legit.path())).await;
    assert_eq!(waiting(&as_it_was).await, 21);
    as_it_was.close().await;
    // And now somebody restores.
    std::fs::copy(&copy, &target).expect("restore");
    refused_and_then_restored(&target, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_file_stays_restored() {
    for backup in [Backup::Closed, Backup::VacuumInto, Backup::Online] {
        for later in [false, true] {
            restored_over_a_leftover_log(backup, later).await;
        }
    }
}

/// Another store's file altogether, and none at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_stores_log_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, second) = (folder.path().join("first.db"), folder.path().join("second.db"));
    let provider = open(&first).await;
    enqueue(&provider, "of the first").await;
    let other = open(&second).await;
    enqueue(&other, "of the second").await;
    other.close().await;
    let place = tempfile::tempdir().expect("a folder");
    let target = killed(&first, place.path());
    std::fs::copy(&second, &target).expect("restore");
    refused_and_then_restored(&target, 1).await;

    let place = tempfile::tempdir().expect("a folder");
    let target = killed(&first, place.path());
    std::fs::remove_file(&target).expect("remove");
    refused_and_then_restored(&target, 0).await;
    provider.close().await;
}

/// Killed at every commit of a life in which the log is begun anew in each of SQLite's ways, and by SQLite itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_never_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let mut expected = 0;
    let mut provider = open(&path).await;
    for round in 0..3 {
        for (n, way) in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"].into_iter().enumerate() {
            for step in 0..3 {
                enqueue(&provider, &format!("i{round}-{n}-{step}")).await;
                expected += 1;
                let place = tempfile::tempdir().expect("a folder");
                let left = open(&killed(&path, place.path())).await;
                assert_eq!(waiting(&left).await, expected, "{round} {way} {step}");
                left.close().await;
            }
            let file = rusqlite::Connection::open(&path).expect("open");
            let fold = format!("PRAGMA wal_checkpoint({way})");
            file.query_row(&fold, [], |_| Ok(())).expect("fold");
            let place = tempfile::tempdir().expect("a folder");
            let left = open(&killed(&path, place.path())).await;
            assert_eq!(waiting(&left).await, expected, "{round} {way} folded");
            left.close().await;
        }
        provider.close().await;
        provider = open(&path).await;
    }
    provider.close().await;
}

/// A crash, then somebody looks with SQLite's own tools, which fold the log and remove it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_another_tool_folded_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let provider = open(&path).await;
    enqueue(&provider, "i").await;
    let place = tempfile::tempdir().expect("a folder");
    let target = killed(&path, place.path());
    provider.close().await;
    let file = rusqlite::Connection::open(&target).expect("open");
    let count: i64 = file
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .expect("look");
    assert!(count > 0);
    file.close().expect("close");
    assert!(!name(&target, "-wal").exists(), "the tool has folded it");
    let provider = open(&target).await;
    assert_eq!(waiting(&provider).await, 1);
    provider.close().await;
}
