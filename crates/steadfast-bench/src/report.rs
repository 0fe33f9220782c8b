//! The comparison as a table: for people at the terminal, in Markdown for the README.
//!
//! Invariant: every figure is a median of what was measured, with its range; what failed says so; a ratio is to the better
//! peer of its row.

use comfy_table::{ContentArrangement, Table, presets};

use crate::compare::{Line, median, percentile};
use crate::contender::Kind;
use crate::suite::{Row, Unit};

/// A table of one line per scenario and contender.
pub(crate) fn table(results: &[(Row, Vec<Line>)], markdown: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(if markdown {
        presets::ASCII_MARKDOWN
    } else {
        presets::UTF8_HORIZONTAL_ONLY
    });
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "scenario",
        "slots",
        "provider",
        "figure",
        "median",
        "min – max",
        "ratio",
        "statements",
        "writing commits",
        "WAL KiB",
        "dead rows",
        "CPU µs client",
        "CPU µs server",
    ]);
    for (row, lines) in results {
        for line in lines {
            table.add_row(cells(row, line, lines));
        }
    }
    table
}

fn cells(row: &Row, line: &Line, lines: &[Line]) -> Vec<String> {
    let figures = line.figures(row.unit);
    let slots = if row.processes > 1 {
        format!("{} × {}", row.processes, row.slots)
    } else {
        row.slots.to_string()
    };
    let mut cells = vec![
        row.name.to_owned(),
        slots,
        line.provider.name().to_owned(),
        match row.unit {
            Unit::Activities => "activities/s".to_owned(),
            Unit::Instances => "instances/s".to_owned(),
            Unit::Latency => "p50 ms".to_owned(),
        },
    ];
    let (Some(middle), Some(first), Some(last)) = (median(&figures), figures.first(), figures.last()) else {
        let reason = line.failures.first().map_or("not run", String::as_str);
        cells.push(format!("failed: {reason:.80}"));
        return cells;
    };
    cells.push(number(middle));
    cells.push(format!("{} – {}", number(*first), number(*last)));
    cells.push(ratio(row, line.provider, lines).map_or(String::new(), |r| format!("{r:.1}×")));
    cells.extend(costs(line));
    cells
}

/// How many times better than the better peer of its kind: a server's for a server, SQLite's for a file.
pub(crate) fn ratio(row: &Row, provider: Kind, lines: &[Line]) -> Option<f64> {
    let peers: &[Kind] = match provider {
        Kind::Steadfast => &[Kind::Pg, Kind::PgOpt],
        Kind::Embedded => &[Kind::Sqlite],
        _ => return None,
    };
    let figure = |kind: Kind| {
        let line = lines.iter().find(|l| l.provider == kind)?;
        median(&line.figures(row.unit))
    };
    let ours = figure(provider)?;
    let theirs = peers.iter().filter_map(|p| figure(*p));
    Some(match row.unit {
        Unit::Latency => theirs.min_by(f64::total_cmp)? / ours,
        Unit::Activities | Unit::Instances => ours / theirs.max_by(f64::total_cmp)?,
    })
}

/// Costs per activity (per instance where there are no activities), medians over the runs.
fn costs(line: &Line) -> Vec<String> {
    let per = |value: &dyn Fn(&crate::compare::Run) -> Option<f64>| -> String {
        let mut values: Vec<f64> = line.runs.iter().filter_map(value).collect();
        values.sort_by(f64::total_cmp);
        median(&values).map_or(String::new(), |v| {
            if v >= 100.0 {
                format!("{v:.0}")
            } else {
                format!("{v:.2}")
            }
        })
    };
    let units = |run: &crate::compare::Run| run.measure.activities.max(run.measure.instances).max(1) as f64;
    vec![
        per(&|r| Some(r.costs.as_ref()?.statements? / units(r))),
        per(&|r| Some(r.costs.as_ref()?.writing_transactions / units(r))),
        per(&|r| Some(r.costs.as_ref()?.wal_bytes / 1024.0 / units(r))),
        per(&|r| r.dead_rows),
        per(&|r| Some(r.measure.cpu_seconds * 1e6 / units(r))),
        per(&|r| Some(r.costs.as_ref()?.server_cpu_seconds? * 1e6 / units(r))),
    ]
}

fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

/// One line per goal: met or not, beside the floor of the run.
pub(crate) fn verdicts(results: &[(Row, Vec<Line>)]) -> Vec<String> {
    let mut verdicts = Vec::new();
    for (row, lines) in results {
        if let (Some((requirement, goal)), Some(ratio)) = (row.goal, ratio(row, Kind::Steadfast, lines)) {
            let verdict = if ratio >= goal { "met" } else { "MISSED" };
            verdicts.push(format!(
                "{requirement} {}: {ratio:.1}× of {goal}× {verdict}{}",
                row.name,
                floor(row, lines).map_or(String::new(), |f| format!("; {f}"))
            ));
        }
        if let Some(ratio) = ratio(row, Kind::Embedded, lines) {
            verdicts.push(format!("D8 {}: embedded {ratio:.1}× duroxide's SQLite", row.name));
        }
        if row.unit == Unit::Latency {
            for line in lines {
                let all: Vec<u64> = line.runs.iter().flat_map(|r| r.measure.latencies_us.clone()).collect();
                verdicts.push(format!(
                    "{} {}: p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms of {} starts",
                    row.name,
                    line.provider.name(),
                    percentile(&all, 0.50) / 1000.0,
                    percentile(&all, 0.95) / 1000.0,
                    percentile(&all, 0.99) / 1000.0,
                    all.len()
                ));
            }
        }
    }
    verdicts
}

/// The floor of a row: commits that must follow each other, at the latency measured in that run, plus the runtime's own
/// CPU as the memory provider shows it. A step of a chain needs two commits in sequence (its turn, its activity's
/// completion), a chain of three on an idle system eight; at saturation commits are shared and only the CPU counts.
fn floor(row: &Row, lines: &[Line]) -> Option<String> {
    let ours = lines.iter().find(|l| l.provider == Kind::Steadfast)?;
    let mut commits: Vec<f64> = ours.runs.iter().filter_map(|r| r.commit_us).collect();
    commits.sort_by(f64::total_cmp);
    let commit_us = median(&commits)?;
    let memory = lines.iter().find(|l| l.provider == Kind::Memory)?;
    let middle = median(&memory.figures(row.unit))?;
    let text = match row.unit {
        Unit::Latency => {
            let floor_ms = 8.0 * commit_us / 1000.0 + middle;
            format!("floor 8 commits × {commit_us:.0} µs + runtime {middle:.2} ms = {floor_ms:.2} ms")
        }
        _ if row.name.starts_with("chain-") => {
            let step_us = 2.0 * commit_us + 1e6 / middle;
            format!(
                "floor per step 2 commits × {commit_us:.0} µs + runtime {:.0} µs: {:.0} activities/s at most",
                1e6 / middle,
                1e6 / step_us
            )
        }
        _ => format!("runtime alone {middle:.0}/s, commit {commit_us:.0} µs"),
    };
    Some(text)
}
