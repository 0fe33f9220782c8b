//! Processes killed in the midst of their work: whatever they were told is there, and nothing is there by halves. And two
//! processes that share a file and live.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use steadfast::embedded::{Durability, EmbeddedProvider};

use super::toil::{assert_sound, missing, toil};
use crate::locks::dice::Dice;

const ROLE: &str = "STEADFAST_TEST_TOIL";
/// Rounds with a file each; the next round goes on with what the last one left.
const ROUNDS_PER_FILE: u64 = 40;
/// Workers in a child.
const HANDS: u64 = 4;
/// Numbers of instances that one child may use.
const SPAN: u64 = 1_000_000;

/// Rounds in all: `STEADFAST_TEST_KILLS=20000 cargo xtask test -- -p steadfast --test it durability::kill` for a long run.
fn rounds() -> u64 {
    std::env::var("STEADFAST_TEST_KILLS").map_or(2_000, |text| text.parse().expect("a number of rounds"))
}

fn variable(name: &str) -> String {
    std::env::var(format!("{ROLE}_{name}")).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The child's life; in the parent it is a test that passes at once.
#[test]
fn entry() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let durability = match role.as_str() {
            "normal" => Durability::Normal,
            _ => Durability::Full,
        };
        let file = variable("FILE");
        let opened = EmbeddedProvider::builder(&file).durability(durability).open().await;
        let provider = opened.expect("open the file");
        let report = std::fs::OpenOptions::new().append(true).open(variable("REPORT"));
        let report = report.expect("open the report");
        // One write for one line: a process that is killed leaves it whole or not at all.
        let note = |mark: u64| (&report).write_all(format!("{mark}\n").as_bytes()).expect("report");
        let base: u64 = variable("BASE").parse().expect("a number");
        let last: u64 = variable("COUNT").parse().expect("a number");
        let (provider, note) = (&provider, &note);
        let hands = (0..HANDS).map(|hand| async move {
            let numbers = (0..last).map(move |n| base + n * HANDS + hand);
            toil(provider, numbers, note).await;
        });
        futures_util::future::join_all(hands).await;
        provider.close().await;
    });
}

fn child(role: &str, folder: &Path, base: u64, count: u64) -> Child {
    Command::new(std::env::current_exe().expect("the path of this program"))
        .args(["--exact", "durability::kill::entry", "--test-threads=1", "--nocapture"])
        .env(ROLE, role)
        .env(format!("{ROLE}_FILE"), file_in(folder))
        .env(format!("{ROLE}_REPORT"), folder.join("report"))
        .env(format!("{ROLE}_BASE"), base.to_string())
        .env(format!("{ROLE}_COUNT"), count.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("stderr")).expect("a file for complaints"))
        .spawn()
        .expect("start a child")
}

fn file_in(folder: &Path) -> PathBuf {
    folder.join("store.db")
}

fn marks(folder: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(folder.join("report")).expect("the report");
    text.lines().map(|line| line.parse().expect("a mark")).collect()
}

fn fresh_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("report"), "").expect("a report");
    folder
}

/// Kills children at random moments, their opening included, and looks at the file after each.
fn kill_again_and_again(role: &str, seed: u64, rounds: u64) -> u64 {
    println!("{role}: {rounds} rounds with seed {seed}");
    let mut dice = Dice::new(seed, 0);
    let mut acknowledged = 0;
    let mut folder = fresh_folder();
    for round in 0..rounds {
        if round % ROUNDS_PER_FILE == 0 {
            folder = fresh_folder();
        }
        let mut child = child(role, folder.path(), round * SPAN, SPAN / HANDS);
        std::thread::sleep(Duration::from_micros(dice.below(60_000)));
        let ended = child.try_wait().expect("look after the child");
        let complaints = || std::fs::read_to_string(folder.path().join("stderr")).unwrap_or_default();
        assert!(ended.is_none(), "round {round}: the child ended: {}", complaints());
        child.kill().expect("kill the child");
        child.wait().expect("wait for the child");
        let marks = marks(folder.path());
        if marks.is_empty() {
            continue;
        }
        let file = rusqlite::Connection::open(file_in(folder.path())).expect("open the file");
        let lost = missing(&file, &marks);
        assert_eq!(lost, [0; 0], "round {round}: acknowledged and not there");
        if round % ROUNDS_PER_FILE == ROUNDS_PER_FILE - 1 || round + 1 == rounds {
            assert_sound(&file);
            acknowledged += marks.len() as u64;
        }
    }
    println!("{role}: {acknowledged} acknowledged operations, none lost");
    acknowledged
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    let lanes = [("full", 0x5EED_0001), ("normal", 0x5EED_0002)].map(|(role, seed)| {
        // The end of a process loses nothing with `Normal` either.
        std::thread::spawn(move || kill_again_and_again(role, seed, rounds() / 2))
    });
    for lane in lanes {
        assert!(lane.join().expect("a lane") > 0, "no operation was ever acknowledged");
    }
}

#[test]
fn two_processes_work_on_one_file() {
    let folder = fresh_folder();
    let mut children = [0, 1].map(|n| child("full", folder.path(), n * SPAN, 40));
    for child in &mut children {
        let status = child.wait().expect("wait for the child");
        let complaints = std::fs::read_to_string(folder.path().join("stderr")).unwrap_or_default();
        assert!(status.success(), "{status}: {complaints}");
    }
    let file = rusqlite::Connection::open(file_in(folder.path())).expect("open the file");
    let marks = marks(folder.path());
    assert_eq!(
        marks.iter().filter(|mark| *mark % 8 == 1).count() as u64,
        2 * 40 * HANDS
    );
    assert_eq!(missing(&file, &marks), [0; 0]);
    let mut once = marks.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), marks.len(), "something was acknowledged twice");
    assert_sound(&file);
}
