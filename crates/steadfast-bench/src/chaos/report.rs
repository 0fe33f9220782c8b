//! A run in Markdown.
//!
//! Invariant: says what was done and what was found, also where nothing was.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::evidence::Evidence;
use super::ledger::{Ask, Fact};
use super::{Options, Outcome};

/// What the processes did, by kind.
pub(crate) fn operations(evidence: &Evidence) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for line in &evidence.lines {
        let kind = match &line.fact {
            Fact::Acknowledged { ask: Ask::Start, .. } => "starts acknowledged",
            Fact::Acknowledged { ask: Ask::Signal, .. } => "queued events acknowledged",
            Fact::Acknowledged { ask: Ask::Cancel, .. } => "cancellations acknowledged",
            Fact::Acknowledged { ask: Ask::Delete, .. } => "live trees deleted",
            Fact::Acknowledged { ask: Ask::Prune, .. } => "prunes acknowledged",
            Fact::Refused { .. } => "calls that clients saw fail, and made again",
            Fact::Began { .. } => "runs of activities",
            _ => continue,
        };
        *counts.entry(kind).or_default() += 1;
    }
    let executions = evidence.instances.values().map(|instance| &instance.executions);
    let events = executions
        .flat_map(BTreeMap::values)
        .map(|execution| execution.events.len());
    counts.insert("instances checked", evidence.instances.len());
    counts.insert("events checked", events.sum());
    let runs = super::checker::all_runs(evidence);
    let again = runs.values().map(|runs| runs.len().saturating_sub(1)).sum();
    counts.insert("runs of activities that were repetitions", again);
    counts
}

/// The report of one run.
pub(crate) fn of(outcome: &Outcome) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_run(&mut text, outcome);
    text
}

fn write_run(text: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let faults: usize = outcome.faults.values().sum();
    writeln!(text, "## {}, seed {}\n", outcome.engine, outcome.seed)?;
    writeln!(
        text,
        "{:.1} minutes under faults, then at rest within {:.1} s.\n",
        outcome.lasted.as_secs_f64() / 60.0,
        outcome.drained_in.as_secs_f64()
    )?;
    writeln!(text, "| operations | |\n|---|---:|")?;
    for (what, count) in &outcome.operations {
        writeln!(text, "| {what} | {count} |")?;
    }
    writeln!(text, "\n| faults | {faults} |\n|---|---:|")?;
    for (what, count) in &outcome.faults {
        writeln!(text, "| {what} | {count} |")?;
    }
    writeln!(text, "\n| promise | violations |\n|---|---:|")?;
    for verdict in &outcome.verdicts {
        writeln!(text, "| {} | {} |", verdict.promise, verdict.violations.len())?;
    }
    for violation in outcome
        .verdicts
        .iter()
        .flat_map(|verdict| verdict.violations.iter().take(10))
    {
        writeln!(text, "\n- {violation}")?;
    }
    write_figures(text, outcome)
}

fn write_figures(text: &mut String, outcome: &Outcome) -> std::fmt::Result {
    let figures = &outcome.figures;
    writeln!(text, "\n| recovery | |\n|---|---:|")?;
    let takeovers = &figures.takeovers_ms;
    if let (Some(median), Some(longest)) = (takeovers.get(takeovers.len() / 2), takeovers.last()) {
        writeln!(
            text,
            "| kill -9 of a worker until an activity it had in hand runs elsewhere (lease 5 s, other faults meanwhile): \
             median, longest of {} | {median} ms, {longest} ms |",
            takeovers.len()
        )?;
    }
    if let (Some(ms), Some(before)) = (figures.full_after_restart_ms, figures.before_per_second) {
        writeln!(
            text,
            "| PostgreSQL up again until a window of 250 ms has 80 % of the throughput before ({before} activities/s) | {ms} ms |"
        )?;
    }
    if let (Some(ms), Some(slowest)) = (figures.prompt_after_dead_listener_ms, figures.slowest_pickup_ms) {
        writeln!(
            text,
            "| listeners' lines silently dead until every start is picked up within 400 ms again | {ms} ms |\n\
             | slowest pick-up of a start meanwhile | {slowest} ms |"
        )?;
    }
    Ok(())
}

/// The file.
pub(crate) fn document(options: &Options, seed: u64, runs: &[String]) -> String {
    let engine = match options.engine {
        super::EngineChoice::Postgres => "postgres",
        super::EngineChoice::Embedded => "embedded",
        super::EngineChoice::Both => "both",
    };
    let features = if cfg!(feature = "faults") {
        " --features faults"
    } else {
        ""
    };
    let without = if cfg!(feature = "faults") {
        ""
    } else {
        "Built without the feature `faults`: no wrong clocks, no lost hints.\n\n"
    };
    format!(
        "# Chaos\n\n`cargo run --release -p steadfast-bench{features} -- chaos --engine {engine} --minutes {} --seed {seed} \
         --rate {}`\n\n{without}{} workers and {} clients, each a process.\n\n{}",
        options.minutes,
        options.rate,
        options.workers,
        options.clients,
        runs.join("\n")
    )
}
