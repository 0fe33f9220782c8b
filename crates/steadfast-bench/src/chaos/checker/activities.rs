//! Runs of activities: at least one for each that a history shows completed, and a further one only when the lease of the
//! one before had passed.

use std::collections::{BTreeMap, HashSet};

use duroxide::EventKind;

use super::Violations;
use crate::chaos::evidence::Evidence;
use crate::chaos::ledger::{Fact, Line};
use crate::chaos::worker::WORK_LEASE;

/// A lease begins somewhat before its activity does.
const MARGIN_MS: u64 = 1_000;
/// So long after a trouble, a process may still begin what it claimed before.
const AFTERMATH_MS: u64 = 3_000;

/// A run: when it began, and by which process.
type Run = (u64, u32);

/// All runs of each activity, by instance and activity.
pub(crate) fn all_runs(evidence: &Evidence) -> BTreeMap<(&str, &str), Vec<Run>> {
    let mut runs: BTreeMap<(&str, &str), Vec<Run>> = BTreeMap::new();
    for line in &evidence.lines {
        if let Fact::Began { instance, activity } = &line.fact {
            runs.entry((instance, activity))
                .or_default()
                .push((line.at_ms, line.process));
        }
    }
    runs
}

pub(super) fn runs(evidence: &Evidence) -> Violations {
    let runs = all_runs(evidence);
    let mut wrong = missing(evidence);
    let excuses = Excuses::of(evidence);
    for ((instance, activity), runs) in &runs {
        for (earlier, later) in runs.iter().zip(runs.iter().skip(1)) {
            if !excuses.allow(*earlier, *later) {
                wrong.push(format!(
                    "{instance} {activity} ran in process {} and {} ms later in process {}",
                    earlier.1,
                    later.0 - earlier.0,
                    later.1
                ));
            }
        }
    }
    wrong
}

/// Completed activities that nobody ran.
fn missing(evidence: &Evidence) -> Violations {
    let mut ended: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
    for line in &evidence.lines {
        if let Fact::Finished { instance, activity } = &line.fact {
            ended.entry(instance).or_default().insert(activity);
        }
    }
    let mut wrong = Vec::new();
    for (id, instance) in &evidence.instances {
        let events = instance.executions.values().flat_map(|execution| &execution.events);
        let completed = |kind: &EventKind| {
            matches!(
                kind,
                EventKind::ActivityCompleted { .. } | EventKind::ActivityFailed { .. }
            )
        };
        let completed = events.filter(|event| completed(&event.kind)).count();
        let ran = ended.get(id.as_str()).map_or(0, HashSet::len);
        if ran < completed {
            wrong.push(format!(
                "{id} has {completed} completed activities, of which {ran} ran to their end"
            ));
        }
    }
    wrong
}

/// What makes an early second run right: a process was paused, or its connections held up, between a claim and the begin of
/// its run, so that the begins are closer than the claims.
struct Excuses(Vec<(Option<u32>, u64, u64)>);

impl Excuses {
    fn of(evidence: &Evidence) -> Self {
        let held_up = |at_ms: u64, process: Option<u32>, ms: u64| (process, at_ms, at_ms + ms + AFTERMATH_MS);
        let excuse = |line: &Line| match line.fact {
            Fact::Paused { process, pause_ms } => Some(held_up(line.at_ms, Some(process), pause_ms)),
            Fact::Trouble { process, lasts_ms, .. } => Some(held_up(line.at_ms, process, lasts_ms)),
            _ => None,
        };
        Self(evidence.lines.iter().filter_map(excuse).collect())
    }

    fn allow(&self, earlier: Run, later: Run) -> bool {
        let lease_ms = u64::try_from(WORK_LEASE.as_millis()).unwrap_or(u64::MAX);
        // Either may be the late one: whoever claimed first may have begun last, after its lease.
        let held_up = |(begun, by): Run| {
            let meets = |(process, from, to): &(Option<u32>, u64, u64)| {
                process.is_none_or(|process| process == by) && *from < begun && *to > begun
            };
            self.0.iter().any(meets)
        };
        later.0.saturating_sub(earlier.0) >= lease_ms - MARGIN_MS || held_up(earlier) || held_up(later)
    }
}
