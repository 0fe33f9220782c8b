//! Whether the kill cost anything: judged from the ledger and the snapshots alone.
//!
//! Invariant: pure; whatever is wrong is in [`Verdict::faults`], and an empty list means that all of it holds.

use std::collections::{BTreeMap, HashSet};

use crate::demo::{
    job,
    ledger::{Entry, Mark, Task},
};

/// What the verdict is made from.
#[derive(Debug)]
pub(crate) struct Evidence<'a> {
    /// The whole ledger.
    pub(crate) entries: &'a [Entry],
    /// The worker that was killed.
    pub(crate) killed: u32,
    /// The worker that went on.
    pub(crate) successor: u32,
    pub(crate) killed_at_ms: u64,
    /// A pause longer than this, in ms, is no work: a worker that waits for leases to end.
    pub(crate) pause_ms: u64,
    /// Activities whose completion was in a history when the worker was dead.
    pub(crate) completed_at_kill: &'a HashSet<Task>,
}

/// What came out.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Different activities.
    pub(crate) tasks: usize,
    /// Executions of activities: lines `start`.
    pub(crate) runs: usize,
    /// Activities in flight at the kill: started by the killed worker, not ended. They must run again.
    pub(crate) interrupted: usize,
    /// Activities that ran twice although the killed worker had ended them: it died before that was acknowledged. They
    /// may run again.
    pub(crate) unacknowledged: usize,
    pub(crate) turns_before: usize,
    pub(crate) turns_after: usize,
    /// Files per second of the killed worker, pauses not counted.
    pub(crate) rate_before: f64,
    /// The same of its successor.
    pub(crate) rate_after: f64,
    /// From the kill to the first sign of the successor.
    pub(crate) first_sign_ms: u64,
    /// From the kill to the start of the last activity that was taken over, if any had to be.
    pub(crate) takeover_ms: Option<u64>,
    /// Everything that must not be.
    pub(crate) faults: Vec<String>,
}

/// What the ledger says of one activity: starts in their order, and who ended it.
#[derive(Debug, Default)]
struct Life {
    starts: Vec<(u32, u64)>,
    ends: Vec<(u32, u64)>,
}

impl Life {
    fn started_by(&self, pid: u32) -> bool {
        self.starts.iter().any(|(by, _)| *by == pid)
    }

    fn ended_by(&self, pid: u32) -> bool {
        self.ends.iter().any(|(by, _)| *by == pid)
    }
}

/// Judges.
pub(crate) fn judge(evidence: &Evidence<'_>) -> Verdict {
    let lives = lives(evidence.entries);
    let mut verdict = Verdict {
        tasks: lives.len(),
        runs: lives.values().map(|life| life.starts.len()).sum(),
        ..Verdict::default()
    };
    for (task, life) in &lives {
        judge_one(evidence, task, life, &mut verdict);
    }
    let turns = |pid: u32| {
        evidence
            .entries
            .iter()
            .filter(|entry| entry.mark == Mark::Turn && entry.pid == pid)
            .count()
    };
    verdict.turns_before = turns(evidence.killed);
    verdict.turns_after = turns(evidence.successor);
    measure(evidence, &lives, &mut verdict);
    verdict
}

fn lives(entries: &[Entry]) -> BTreeMap<&Task, Life> {
    let mut lives: BTreeMap<&Task, Life> = BTreeMap::new();
    for entry in entries {
        match entry.mark {
            Mark::Start => lives
                .entry(&entry.task)
                .or_default()
                .starts
                .push((entry.pid, entry.at_ms)),
            Mark::End => lives
                .entry(&entry.task)
                .or_default()
                .ends
                .push((entry.pid, entry.at_ms)),
            Mark::Turn => {}
        }
    }
    lives
}

/// The rules, for one activity.
fn judge_one(evidence: &Evidence<'_>, task: &Task, life: &Life, verdict: &mut Verdict) {
    let Evidence { killed, successor, .. } = *evidence;
    let name = format!("{} {:?}", task.name, task.key);
    let mut fault = |text: &str| verdict.faults.push(format!("{name} {text}"));
    if life.ends.is_empty() {
        fault("never ended");
    }
    let interrupted = life.started_by(killed) && !life.ended_by(killed);
    if interrupted && !life.ended_by(successor) {
        fault("was in flight at the kill and did not run again");
    }
    let again = life.starts.len() > 1;
    if again {
        if evidence.completed_at_kill.contains(task) {
            fault("was completed in the history at the kill, and ran again");
        }
        let by: Vec<u32> = life.starts.iter().map(|(pid, _)| *pid).collect();
        if by != [killed, successor] {
            fault(&format!(
                "was started by the processes {by:?}, not once by the killed worker and once by the next"
            ));
        }
    }
    verdict.interrupted += usize::from(interrupted);
    verdict.unacknowledged += usize::from(again && !interrupted);
}

fn measure(evidence: &Evidence<'_>, lives: &BTreeMap<&Task, Life>, verdict: &mut Verdict) {
    let Evidence {
        killed,
        successor,
        killed_at_ms,
        ..
    } = *evidence;
    verdict.rate_before = rate(evidence, killed);
    verdict.rate_after = rate(evidence, successor);
    let signs = evidence.entries.iter().filter(|entry| entry.pid == successor);
    let first = signs.map(|entry| entry.at_ms).min().unwrap_or(killed_at_ms);
    verdict.first_sign_ms = first.saturating_sub(killed_at_ms);
    let taken_over = lives
        .values()
        .filter(|life| life.started_by(killed))
        .flat_map(|life| &life.starts);
    let last = taken_over.filter(|(pid, _)| *pid == successor).map(|(_, at)| *at).max();
    verdict.takeover_ms = last.map(|at| at.saturating_sub(killed_at_ms));
}

/// Files that this process ended, per second in which it worked on files.
fn rate(evidence: &Evidence<'_>, pid: u32) -> f64 {
    let mine = |entry: &&Entry| entry.pid == pid && entry.mark != Mark::Turn && entry.task.name == job::HASH_FILE;
    let entries = || evidence.entries.iter().filter(mine);
    let count = entries().filter(|entry| entry.mark == Mark::End).count();
    let mut times: Vec<u64> = entries().map(|entry| entry.at_ms).collect();
    times.sort_unstable();
    let gaps = times
        .iter()
        .zip(times.iter().skip(1))
        .map(|(earlier, later)| later - earlier);
    let busy_ms: u64 = gaps.filter(|gap| *gap <= evidence.pause_ms).sum();
    let whole = |number: u64| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    whole(count as u64) * 1_000.0 / whole(busy_ms.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: u32 = 10;
    const NEXT: u32 = 20;

    fn entry(mark: Mark, pid: u32, at_ms: u64, key: &str) -> Entry {
        Entry {
            mark,
            pid,
            at_ms,
            task: Task::new(job::HASH_FILE, key),
        }
    }

    /// `a` done before the kill, `b` in flight, `c` ended but not acknowledged, `d` new.
    fn ledger() -> Vec<Entry> {
        vec![
            entry(Mark::Start, KILLED, 0, "a"),
            entry(Mark::End, KILLED, 10, "a"),
            entry(Mark::Start, KILLED, 10, "b"),
            entry(Mark::Start, KILLED, 10, "c"),
            entry(Mark::End, KILLED, 20, "c"),
            entry(Mark::Turn, NEXT, 150, "i"),
            entry(Mark::Start, NEXT, 200, "d"),
            entry(Mark::End, NEXT, 210, "d"),
            entry(Mark::Start, NEXT, 2_000, "b"),
            entry(Mark::End, NEXT, 2_010, "b"),
            entry(Mark::Start, NEXT, 2_100, "c"),
            entry(Mark::End, NEXT, 2_110, "c"),
        ]
    }

    fn judged(entries: &[Entry], completed: &[&str]) -> Verdict {
        let completed_at_kill = completed.iter().map(|key| Task::new(job::HASH_FILE, *key)).collect();
        judge(&Evidence {
            entries,
            killed: KILLED,
            successor: NEXT,
            killed_at_ms: 100,
            pause_ms: 500,
            completed_at_kill: &completed_at_kill,
        })
    }

    #[test]
    fn a_clean_takeover_has_no_faults() {
        let verdict = judged(&ledger(), &["a"]);
        assert_eq!(verdict.faults, [] as [&str; 0]);
        assert_eq!((verdict.tasks, verdict.runs), (4, 6));
        assert_eq!((verdict.interrupted, verdict.unacknowledged), (1, 1));
        assert_eq!((verdict.first_sign_ms, verdict.takeover_ms), (50, Some(2_000)));
        assert_eq!((verdict.turns_before, verdict.turns_after), (0, 1));
        assert!((verdict.rate_before - 100.0).abs() < 0.01, "{}", verdict.rate_before);
        assert!((verdict.rate_after - 25.0).abs() < 0.01, "{}", verdict.rate_after);
    }

    #[test]
    fn running_again_after_completion_is_a_fault() {
        let faults = judged(&ledger(), &["a", "c"]).faults;
        assert_eq!(
            faults,
            ["HashFile \"c\" was completed in the history at the kill, and ran again"]
        );
    }

    #[test]
    fn running_twice_in_one_process_is_a_fault() {
        let mut entries = ledger();
        entries.push(entry(Mark::Start, NEXT, 2_200, "d"));
        let faults = judged(&entries, &["a"]).faults;
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains("[20, 20]"), "{faults:?}");
    }

    #[test]
    fn what_was_in_flight_must_run_again() {
        let entries: Vec<Entry> = ledger()
            .into_iter()
            .filter(|entry| entry.pid == KILLED || entry.task.key != "b")
            .collect();
        let faults = judged(&entries, &["a"]).faults;
        assert_eq!(
            faults,
            [
                "HashFile \"b\" never ended",
                "HashFile \"b\" was in flight at the kill and did not run again"
            ]
        );
    }
}
