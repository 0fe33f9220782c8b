//! Kind 13: A path that is no file is refused; a volume that was full works again.
//!
//! The volume is a real one, of two megabytes in memory: a test says so and passes where it may not mount one.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use duroxide::providers::Provider;
use steadfast::embedded::{EmbeddedProvider, OpenErrorKind};

use crate::op::scene::start;

/// Longer than anything here takes, and much shorter than for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// Everything that may lie at a path and is no file.
fn oddities(folder: &Path) -> Vec<PathBuf> {
    let at = |name: &str| folder.join(name);
    let made = Command::new("mkfifo").arg(at("pipe")).status().expect("run mkfifo");
    assert!(made.success(), "mkfifo");
    std::fs::create_dir(at("folder")).expect("a folder");
    // The socket stays when its listener goes.
    drop(UnixListener::bind(at("socket")).expect("a socket"));
    symlink(at("nowhere"), at("dangling")).expect("a link");
    symlink(at("pipe"), at("link to a pipe")).expect("a link");
    let mut found: Vec<_> = ["pipe", "folder", "socket", "dangling", "link to a pipe"]
        .map(at)
        .into();
    found.push(PathBuf::from("/dev/zero"));
    found
}

#[tokio::test]
async fn what_is_no_file_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    for path in oddities(folder.path()) {
        let opened = tokio::time::timeout(PATIENCE, EmbeddedProvider::open(&path)).await;
        let error = opened
            .unwrap_or_else(|_| panic!("{} is waited for", path.display()))
            .expect_err("it opened");
        assert_eq!(error.kind(), OpenErrorKind::NotAFile, "{error}");
        let looked = tokio::time::timeout(PATIENCE, EmbeddedProvider::builder(&path).open_read_only()).await;
        let error = looked.expect("it is waited for").expect_err("it opened");
        assert_eq!(error.kind(), OpenErrorKind::NotAFile, "{error}");
        let feed = tokio::time::timeout(PATIENCE, EmbeddedProvider::open_feed(&path)).await;
        let Err(error) = feed.expect("it is waited for") else {
            panic!("it opened")
        };
        assert_eq!(error.kind(), OpenErrorKind::NotAFile, "{error}");
    }
    assert!(!folder.path().join("nowhere").exists(), "the link's target was made");
}

#[tokio::test]
async fn a_pipe_beside_a_file_is_refused_at_once() {
    for ending in ["-wal", "-shm", "-journal"] {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        EmbeddedProvider::open(&path).await.expect("make it").close().await;
        let pipe = folder.path().join(format!("store.db{ending}"));
        assert!(Command::new("mkfifo").arg(pipe).status().expect("run mkfifo").success());
        let opened = tokio::time::timeout(PATIENCE, EmbeddedProvider::open(&path)).await;
        let error = opened.expect("it is waited for").expect_err("it opened");
        assert_eq!(error.kind(), OpenErrorKind::NotAFile, "{error}");
    }
}

/// A small volume, mounted for as long as this lives.
struct Volume(tempfile::TempDir);

impl Volume {
    fn mount(kilobytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "tmpfs"])
            .arg(folder.path())
            .output()
            .expect("run mount");
        if mounted.status.success() {
            return Some(Self(folder));
        }
        let why = String::from_utf8_lossy(&mounted.stderr).into_owned();
        eprintln!("SKIPPED: a small volume may not be mounted here: {}", why.trim());
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all space that is left.
    fn fill(&self) -> PathBuf {
        let filler = self.path().join("filler");
        let mut file = std::fs::File::create(&filler).expect("a filler");
        while std::io::Write::write(&mut file, &[7; 4096]).is_ok() {}
        filler
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn provider(volume: &Volume) -> steadfast::embedded::Builder {
    EmbeddedProvider::builder(volume.path().join("store.db")).trouble_timeout(Duration::from_secs(1))
}

async fn enqueue(provider: &EmbeddedProvider, instance: &str) -> bool {
    match provider.enqueue_for_orchestrator(start(instance), None).await {
        Ok(()) => true,
        Err(error) => {
            assert!(error.is_retryable(), "a full disk passes: {error:?}");
            false
        }
    }
}

/// As many calls as make a log that is larger than the volume: it is folded in time, whoever asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_does_not_fill_a_small_volume() {
    let Some(volume) = Volume::mount(2_048) else { return };
    let open = provider(&volume).open().await.expect("open");
    for n in 0..600 {
        // Messages of instances that nobody starts; the file itself stays small.
        assert!(enqueue(&open, &format!("i{}", n % 7)).await, "call {n} found no space");
    }
    open.close().await;
}

/// The volume is full, the process is killed, and there is room again: it goes on, also without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_was_full_works_again() {
    let Some(volume) = Volume::mount(4_096) else { return };
    let open = provider(&volume).open().await.expect("open");
    let mut kept = 0;
    while kept < 40 {
        assert!(enqueue(&open, &format!("before{kept}")).await);
        kept += 1;
    }
    let filler = volume.fill();
    let mut refused = 0;
    for n in 0..40 {
        refused += usize::from(!enqueue(&open, &format!("during{n}")).await);
        if refused > 1 {
            break;
        }
    }
    assert!(refused > 0, "the volume was not full");
    std::fs::remove_file(&filler).expect("make room");
    assert!(enqueue(&open, "after").await, "there is room again");
    open.close().await;

    // Full when it is opened, too.
    let filler = volume.fill();
    if let Ok(again) = provider(&volume).open().await {
        std::fs::remove_file(&filler).expect("make room");
        assert!(enqueue(&again, "again").await, "there is room again");
        again.close().await;
    } else {
        std::fs::remove_file(&filler).expect("make room");
    }
    let again = provider(&volume).open().await.expect("open with room");
    assert!(enqueue(&again, "last").await);
    again.close().await;
}
