//! The same for a file: a full disk, a table that is not there.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::{Provider, WorkItem};
use duroxide::runtime::RuntimeOptions;
use steadfast::embedded::EmbeddedProvider;

use crate::field::errors::load::Load;

const LEASE: Duration = Duration::from_secs(4);
const LONGER: Duration = Duration::from_millis(5500);

/// Leases shorter than the trouble, and one attempt.
fn hasty() -> RuntimeOptions {
    RuntimeOptions {
        orchestrator_lock_timeout: LEASE,
        worker_lock_timeout: LEASE,
        max_attempts: 1,
        ..RuntimeOptions::default()
    }
}

/// A small volume of its own; unmounted with the value.
struct Volume {
    folder: tempfile::TempDir,
}

impl Volume {
    /// `None` where it cannot be had.
    fn mount(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self { folder })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

/// Fills what is left of a volume, with a file that grows.
fn fill(path: &Path) {
    use std::io::Write;
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let mut file = file.expect("a file");
    while file.write_all(&[1; 65_536]).is_ok() {}
    while file.write_all(&[1; 512]).is_ok() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_nothing() {
    let Some(volume) = Volume::mount(64) else {
        println!("skipped: a tmpfs cannot be mounted here");
        return;
    };
    let provider = EmbeddedProvider::open(volume.path().join("store.db"))
        .await
        .expect("open");
    let load = Load::begin(Arc::new(provider.clone()), hasty(), Duration::from_millis(20)).await;
    load.reached(20).await;
    let filler = volume.path().join("filler");
    fill(&filler);
    while provider.health().trouble.is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(LONGER).await;
    std::fs::remove_file(&filler).expect("make room");
    let verdict = load.settle().await;
    assert_eq!(provider.health().trouble, None);
    provider.close().await;
    println!(
        "a full disk: {} acknowledged, {} not completed",
        verdict.acknowledged,
        verdict.failed.len()
    );
    verdict.assert_sound("a full disk");
}

/// Each table, one after the other, is not there for longer than the leases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_table_fails_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    EmbeddedProvider::open(&path).await.expect("make it").close().await;
    let hand = rusqlite::Connection::open(&path).expect("open by hand");
    let query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name";
    let tables: Vec<String> = {
        let mut statement = hand.prepare(query).expect("ask");
        let rows = statement.query_map([], |row| row.get(0)).expect("ask");
        rows.collect::<Result<_, _>>().expect("read")
    };
    drop(hand);
    let lanes = 6;
    let cells = (0..lanes).map(|lane| {
        let mine: Vec<String> = tables.iter().skip(lane).step_by(lanes).cloned().collect();
        tokio::spawn(tables_go(mine))
    });
    for cell in futures_util::future::join_all(cells).await {
        cell.expect("no panic");
    }
}

async fn tables_go(tables: Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let provider = EmbeddedProvider::open(&path).await.expect("open");
    let load = Load::begin(Arc::new(provider.clone()), hasty(), Duration::from_millis(50)).await;
    load.reached(10).await;
    for table in &tables {
        let rename = |from: &str, to: &str| {
            let hand = rusqlite::Connection::open(&path).expect("open by hand");
            hand.busy_timeout(Duration::from_secs(20)).expect("wait");
            // Nothing else is to be rewritten by it.
            hand.execute_batch("PRAGMA legacy_alter_table = on").expect("settings");
            hand.execute_batch(&format!("ALTER TABLE {from} RENAME TO {to}"))
                .expect("rename");
        };
        let away = format!("{table}_away");
        rename(table, &away);
        tokio::time::sleep(LONGER).await;
        rename(&away, table);
    }
    let verdict = load.settle().await;
    provider.close().await;
    println!(
        "{tables:?}: {} acknowledged, {} not completed",
        verdict.acknowledged,
        verdict.failed.len()
    );
    verdict.assert_sound(&format!("{tables:?}"));
}

/// A message for nobody, of a mebibyte.
fn large_signal() -> WorkItem {
    WorkItem::ExternalRaised {
        instance: "nobody".to_owned(),
        name: "large".to_owned(),
        data: "x".repeat(1 << 20),
    }
}

/// Where it outlasts what callers wait for, they are told; afterwards all completes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_is_told_when_trouble_lasts_too_long() {
    let Some(volume) = Volume::mount(32) else {
        println!("skipped: a tmpfs cannot be mounted here");
        return;
    };
    let builder = EmbeddedProvider::builder(volume.path().join("store.db")).trouble_timeout(Duration::from_secs(1));
    let provider = builder.open().await.expect("open");
    let load = Load::begin(
        Arc::new(provider.clone()),
        RuntimeOptions::default(),
        Duration::from_millis(20),
    )
    .await;
    load.reached(20).await;
    let filler = volume.path().join("filler");
    fill(&filler);
    // The store makes room as long as it can: its log is folded.
    while provider.health().trouble.is_none() {
        fill(&filler);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = tokio::time::timeout(
        Duration::from_secs(30),
        provider.enqueue_for_orchestrator(large_signal(), None),
    );
    let told = told.await.expect("it was not told").expect_err("there is no room");
    assert!(told.is_retryable(), "{told:?}");
    tokio::time::sleep(Duration::from_secs(4)).await;
    std::fs::remove_file(&filler).expect("make room");
    let verdict = load.settle().await;
    provider.close().await;
    verdict.assert_sound("longer than callers wait");
}
