//! The checker: whether anything was lost, doubled or left behind. Judges from the evidence alone.
//!
//! Invariant: pure. A new promise is one more function in [`CHECKS`]; each is shown a doctored run in which it is broken.

mod activities;
mod feed;
mod histories;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use super::evidence::Evidence;
use super::ledger::{Ask, Fact};
use super::workflows::{END, Kind};

pub(crate) use activities::all_runs;

/// What is wrong, one line each.
type Violations = Vec<String>;

/// A promise, in words, and what finds where it was broken.
type Promise = (&'static str, fn(&Evidence) -> Violations);

/// The promises.
pub(crate) const CHECKS: [Promise; 11] = [
    (
        "every acknowledged start ended exactly once, with the right result",
        starts,
    ),
    ("every acknowledged queued event was seen once, in order", signals),
    ("every acknowledged cancellation and deletion was carried out", endings),
    (
        "no orchestration was recorded failed by an infrastructure fault",
        failures,
    ),
    ("key-value counters are exact", values),
    ("histories are dense, ordered and replayable", histories::sound),
    (
        "each activity ran, and again only when its lease had passed",
        activities::runs,
    ),
    ("no lease outlived its time", leases),
    ("nothing is left in a queue", queues),
    ("an idle process found its work with every hint lost", found),
    ("the change feed agrees with all of it", feed::agrees),
];

/// One promise and what broke it.
pub(crate) struct Verdict {
    pub(crate) promise: &'static str,
    pub(crate) violations: Violations,
}

/// Judges.
pub(crate) fn judge(evidence: &Evidence) -> Vec<Verdict> {
    let judged = CHECKS.iter().map(|(promise, check)| Verdict {
        promise,
        violations: check(evidence),
    });
    judged.collect()
}

/// What a kind of question was answered, by instance: how often asked, how often promised; by its data.
fn asked(evidence: &Evidence, which: Ask) -> BTreeMap<&str, BTreeMap<&str, (usize, usize)>> {
    let mut all: BTreeMap<&str, BTreeMap<&str, (usize, usize)>> = BTreeMap::new();
    for line in &evidence.lines {
        match &line.fact {
            Fact::Intent { ask, instance, data } if *ask == which => {
                all.entry(instance).or_default().entry(data).or_default().0 += 1;
            }
            Fact::Acknowledged { ask, instance, data } if *ask == which => {
                all.entry(instance).or_default().entry(data).or_default().1 += 1;
            }
            _ => {}
        }
    }
    all
}

/// Instances for which this was promised.
fn promised(evidence: &Evidence, which: Ask) -> HashSet<String> {
    let all = asked(evidence, which).into_iter();
    let done = all.filter(|(_, data)| data.values().any(|(_, promised)| *promised > 0));
    done.map(|(instance, _)| instance.to_owned()).collect()
}

fn starts(evidence: &Evidence) -> Violations {
    let mut wrong = Vec::new();
    if !evidence.drained {
        wrong.push("the store did not come to rest in time".to_owned());
    }
    for id in promised(evidence, Ask::Start) {
        let Some((kind, number)) = Kind::of(&id) else { continue };
        if kind == Kind::Doomed {
            continue;
        }
        let Some(instance) = evidence.instances.get(&id) else {
            wrong.push(format!("{id} was started and is not there"));
            continue;
        };
        let status = if kind == Kind::Cancelled { "Failed" } else { "Completed" };
        if instance.status != status {
            wrong.push(format!(
                "{id} is {} instead of {status}: {:?}",
                instance.status, instance.output
            ));
        } else if let Some(output) = kind.output(number)
            && instance.output.as_ref() != Some(&output)
        {
            wrong.push(format!("{id} came to {:?} instead of {output}", instance.output));
        }
    }
    // Nobody else's: whatever is there was started by a client, or by one of its instances.
    let asked = asked(evidence, Ask::Start);
    for (id, instance) in &evidence.instances {
        if instance.parent.is_none() && !asked.contains_key(id.as_str()) && !id.starts_with("probe") {
            wrong.push(format!("{id} is there and nobody started it"));
        }
    }
    wrong
}

fn signals(evidence: &Evidence) -> Violations {
    let mut wrong = Vec::new();
    for (id, data) in asked(evidence, Ask::Signal) {
        let Some(instance) = evidence.instances.get(id) else {
            continue;
        };
        let seen: Vec<String> = instance
            .output
            .as_deref()
            .map_or(Ok(Vec::new()), serde_json::from_str)
            .unwrap_or_default();
        for (order, (asked, promised)) in data.iter().filter(|(order, _)| **order != END) {
            let count = seen.iter().filter(|seen| seen == order).count();
            // Asked twice because nobody answered, it may have been heard twice.
            if count > *asked || (*promised > 0 && count == 0) {
                wrong.push(format!(
                    "{id} saw {order:?} {count} times; it was sent {asked} times, promised {promised} times"
                ));
            }
        }
        let mut firsts: Vec<&String> = Vec::new();
        for order in &seen {
            if !firsts.contains(&order) {
                firsts.push(order);
            }
        }
        if !firsts.is_sorted() {
            wrong.push(format!("{id} saw them out of order: {seen:?}"));
        }
    }
    wrong
}

fn endings(evidence: &Evidence) -> Violations {
    let mut wrong = Vec::new();
    for id in promised(evidence, Ask::Delete) {
        if evidence.instances.contains_key(&id) {
            wrong.push(format!("{id} was deleted and is there"));
        }
    }
    for id in promised(evidence, Ask::Cancel) {
        let output = evidence
            .instances
            .get(&id)
            .and_then(|instance| instance.output.as_ref());
        if !output.is_some_and(|output| output.contains("chaos")) {
            wrong.push(format!("{id} was cancelled and came to {output:?}"));
        }
    }
    wrong
}

fn failures(evidence: &Evidence) -> Violations {
    let meant = |id: &str, parent: Option<&str>| {
        let root = parent.unwrap_or(id).split("::").next().unwrap_or_default();
        Kind::of(root).is_some_and(|(kind, _)| matches!(kind, Kind::Cancelled | Kind::Doomed))
    };
    let failed = evidence
        .instances
        .iter()
        .filter(|(_, instance)| instance.status == "Failed");
    let unmeant = failed.filter(|(id, instance)| !meant(id, instance.parent.as_deref()));
    unmeant
        .map(|(id, instance)| format!("{id} failed: {:?}", instance.output))
        .collect()
}

fn values(evidence: &Evidence) -> Violations {
    let mut wrong = Vec::new();
    for (id, instance) in &evidence.instances {
        let counts = Kind::of(id).is_some_and(|(kind, _)| kind == Kind::Count);
        let expected = if counts {
            BTreeMap::from([("count".to_owned(), "6".to_owned())])
        } else {
            BTreeMap::new()
        };
        if instance.values != expected {
            wrong.push(format!(
                "{id} has the values {:?} instead of {expected:?}",
                instance.values
            ));
        }
    }
    wrong
}

fn leases(evidence: &Evidence) -> Violations {
    let overdue = evidence.lines.iter().filter_map(|line| match &line.fact {
        Fact::Overdue { what } => Some(what.clone()),
        _ => None,
    });
    let mut counts: HashMap<String, usize> = HashMap::new();
    for what in overdue {
        *counts.entry(what).or_default() += 1;
    }
    counts
        .into_iter()
        .map(|(what, count)| format!("{what} ({count} times)"))
        .collect()
}

fn found(evidence: &Evidence) -> Violations {
    let runs = all_runs(evidence);
    let mut wrong = Vec::new();
    for line in &evidence.lines {
        let Fact::Expected { instance, within_ms } = &line.fact else {
            continue;
        };
        let first = runs.get(&(instance.as_str(), "1/0")).and_then(|runs| runs.first());
        let waited = first.map(|(begun, _)| begun.saturating_sub(line.at_ms));
        if waited.is_none_or(|waited| waited > *within_ms) {
            let lay = waited.map_or_else(|| "and was never begun".to_owned(), |ms| format!("for {ms} ms"));
            wrong.push(format!(
                "{instance} lay in an idle store {lay}: it was to begin within {within_ms} ms"
            ));
        }
    }
    wrong
}

fn queues(evidence: &Evidence) -> Violations {
    let deleted = asked(evidence, Ask::Delete);
    let cancelled = asked(evidence, Ask::Cancel);
    let excused = |to: &str| {
        let root = to.split("::").next().unwrap_or_default();
        // A parent that is cancelled in its first turn cancels a child that it then never starts.
        let unborn = root != to && !evidence.instances.contains_key(to);
        deleted.contains_key(root) || (unborn && cancelled.contains_key(root))
    };
    let left = evidence.queued.iter().filter(|(_, to)| !excused(to));
    left.map(|(what, to)| format!("{what} for {to}")).collect()
}
