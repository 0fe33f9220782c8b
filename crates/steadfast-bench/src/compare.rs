//! The comparison: all contenders, the same workloads, one server, one run.
//!
//! Invariant: rounds alternate between the contenders, each in a store of its own that is gone afterwards; what fails is
//! shown as failed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use steadfast_bench::protocol::{Measure, Task};

use crate::contender::{Contender, Kind};
use crate::server::{Costs, Description, Server};
use crate::suite::{Row, Unit, rows};

/// What to compare.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Shorter runs and fewer rounds.
    #[arg(long)]
    quick: bool,
    /// Rounds per contender and scenario.
    #[arg(long)]
    rounds: Option<usize>,
    /// Only these scenarios.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these providers.
    #[arg(long, value_delimiter = ',')]
    providers: Vec<Kind>,
    /// Results are appended here, a JSON object a line.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results/results.jsonl"))]
    json: PathBuf,
}

/// One run of one contender.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) measure: Measure,
    pub(crate) costs: Option<Costs>,
    /// Updates and deletes per activity, warm-up included.
    pub(crate) dead_rows: Option<f64>,
    /// Serial commit latency just before, microseconds.
    pub(crate) commit_us: Option<f64>,
}

/// All runs of one contender in one scenario: a line of the results file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) machine: String,
    pub(crate) server: Description,
    pub(crate) scenario: String,
    pub(crate) slots: usize,
    pub(crate) processes: usize,
    pub(crate) provider: Kind,
    pub(crate) runs: Vec<Run>,
    pub(crate) failures: Vec<String>,
}

/// Runs everything; returns the lines in the order of the suite.
pub(crate) async fn compare(url: &str, options: &Options) -> Result<Vec<(Row, Vec<Line>)>> {
    let chosen: Vec<Row> = rows()
        .into_iter()
        .filter(|r| options.only.is_empty() || options.only.iter().any(|o| o == r.name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = rows().iter().map(|r| r.name).collect();
        bail!("no such scenario; there are {}", names.join(", "));
    }
    let wanted = |kind: &Kind| options.providers.is_empty() || options.providers.contains(kind);
    let kinds = |row: &Row| -> Vec<Kind> { row.contenders.iter().copied().filter(wanted).collect() };
    let peers = if chosen.iter().flat_map(kinds).any(Kind::is_peer) {
        Some(build_peers()?)
    } else {
        None
    };
    let rounds = options.rounds.unwrap_or(if options.quick { 2 } else { 3 }).max(1);
    let bench = Bench {
        url: url.to_owned(),
        server: Server::open(url).await?,
        peers,
        files: std::env::temp_dir().join(format!("steadfast-bench-{}", std::process::id())),
        seconds: if options.quick { 2.0 } else { 5.0 },
    };
    std::fs::create_dir_all(&bench.files)?;
    let total: usize = chosen.iter().map(|r| kinds(r).len() * rounds).sum();
    let bar = ProgressBar::new(total as u64)
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} {msg}")?);
    let mut results = Vec::new();
    for row in chosen {
        let lines = bench.row(&row, &kinds(&row), rounds, &bar).await?;
        append(&options.json, &lines)?;
        results.push((row, lines));
    }
    bar.finish_and_clear();
    let _ = std::fs::remove_dir_all(&bench.files);
    Ok(results)
}

struct Bench {
    url: String,
    server: Server,
    peers: Option<PathBuf>,
    files: PathBuf,
    /// How long a run should take.
    seconds: f64,
}

impl Bench {
    async fn row(&self, row: &Row, kinds: &[Kind], rounds: usize, bar: &ProgressBar) -> Result<Vec<Line>> {
        let description = self.server.describe().await?;
        let mut lines: BTreeMap<Kind, Line> = kinds
            .iter()
            .map(|kind| (*kind, Line::empty(row, *kind, description.clone())))
            .collect();
        let mut sizes: BTreeMap<Kind, usize> = BTreeMap::new();
        for round in 0..rounds {
            for kind in kinds {
                bar.set_message(format!("{} {} round {}", row.name, kind.name(), round + 1));
                let line = lines.get_mut(kind).context("a line per contender")?;
                // What failed twice will fail again.
                if line.failures.len() < 2 {
                    match self.run(row, *kind, &mut sizes).await {
                        Ok(run) => line.runs.push(run),
                        Err(error) => line.failures.push(format!("{error:#}")),
                    }
                }
                bar.inc(1);
            }
        }
        Ok(kinds.iter().filter_map(|k| lines.remove(k)).collect())
    }

    /// How many instances keep this contender busy for as long as a run should take: asked again with more of them, until
    /// the answer comes from a run that is long enough to tell (the first calls of every connection plan their statements).
    async fn size(&self, driver: &mut Contender, row: &Row, warm: &mut u64) -> Result<usize> {
        let most = 200_000 / row.probe.max(1);
        let mut size = row.probe;
        for _ in 0..4 {
            let probe = driver.run(&task(row, size)).await?;
            *warm += probe.activities;
            let wanted = (size as f64 * self.seconds / probe.seconds.max(0.001)).ceil() as usize;
            let enough = probe.seconds >= self.seconds / 4.0;
            size = wanted.clamp(row.probe, most);
            if enough || size == most {
                break;
            }
            // Half of it is enough to tell, and costs half the time.
            size = (size / 2).max(row.probe);
        }
        Ok(size)
    }

    /// One run in a store of its own.
    async fn run(&self, row: &Row, kind: Kind, sizes: &mut BTreeMap<Kind, usize>) -> Result<Run> {
        let name = format!("bench_{}_{}", std::process::id(), uuid());
        let file = self.files.join(&name);
        let store = if kind.needs_file() {
            file.to_string_lossy().into_owned()
        } else {
            self.url.clone()
        };
        let result = self.run_in(row, kind, sizes, &store, &name).await;
        if kind.needs_server() {
            self.server.drop_schema(&name).await?;
        } else if kind.needs_file() {
            for suffix in ["", "-wal", "-shm", "-lock"] {
                let _ = std::fs::remove_file(format!("{store}{suffix}"));
            }
        }
        result
    }

    async fn run_in(
        &self,
        row: &Row,
        kind: Kind,
        sizes: &mut BTreeMap<Kind, usize>,
        store: &str,
        schema: &str,
    ) -> Result<Run> {
        let start = |_| Contender::start(kind, self.peers.as_deref());
        let mut driver = start(0)?;
        let warm = driver.open(store, schema, row.slots, row.slots > 0).await?;
        let mut others = Vec::new();
        for n in 1..row.processes {
            let mut other = start(n)?;
            other.open(store, schema, row.slots, false).await?;
            others.push(other);
        }
        let mut warm = warm;
        let count = match (row.fixed, sizes.get(&kind)) {
            (Some(fixed), _) => fixed,
            (None, Some(size)) => *size,
            (None, None) => {
                let size = self.size(&mut driver, row, &mut warm).await?;
                *sizes.entry(kind).or_insert(size)
            }
        };
        let commit_us = if kind.needs_server() {
            self.server.checkpoint().await?;
            Some(self.server.commit_latency().await?.as_secs_f64() * 1e6)
        } else {
            None
        };
        tokio::time::sleep(Duration::from_millis(200)).await;
        let before = self.server.start().await?;
        let measure = driver.run(&task(row, count)).await?;
        let costs = self.server.since(&before).await?;
        for other in others {
            other.close().await?;
        }
        driver.close().await?;
        let dead_rows = if kind.needs_server() {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let activities = (measure.activities + warm).max(1) as f64;
            Some(self.server.dead_rows(schema).await? / activities)
        } else {
            None
        };
        Ok(Run {
            measure,
            costs: kind.needs_server().then_some(costs),
            dead_rows,
            commit_us,
        })
    }
}

fn task(row: &Row, count: usize) -> Task {
    Task {
        scenario: row.scenario,
        count,
    }
}

impl Line {
    fn empty(row: &Row, provider: Kind, server: Description) -> Self {
        Self {
            date: output("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            commit: output(
                "git",
                &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"],
            ),
            machine: machine(),
            server,
            scenario: row.name.to_owned(),
            slots: row.slots,
            processes: row.processes,
            provider,
            runs: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// The row's figure of each run, in order of size.
    pub(crate) fn figures(&self, unit: Unit) -> Vec<f64> {
        let mut figures: Vec<f64> = self.runs.iter().map(|run| figure(&run.measure, unit)).collect();
        figures.sort_by(f64::total_cmp);
        figures
    }
}

fn figure(measure: &Measure, unit: Unit) -> f64 {
    match unit {
        Unit::Activities => measure.activities as f64 / measure.seconds,
        Unit::Instances => measure.instances as f64 / measure.seconds,
        Unit::Latency => percentile(&measure.latencies_us, 0.50) / 1000.0,
    }
}

/// Nearest rank.
pub(crate) fn percentile(values: &[u64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map_or(f64::NAN, |v| *v as f64)
}

/// The middle one of sorted values.
pub(crate) fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

fn append(path: &Path, lines: &[Line]) -> Result<()> {
    use std::io::Write as _;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    for line in lines {
        serde_json::to_writer(&mut file, line)?;
        file.write_all(b"\n")?;
    }
    Ok(())
}

fn uuid() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// First line of a program's output; empty when there is no such program.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

fn machine() -> String {
    let read = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|l| l.starts_with(key));
        line.and_then(|l| l.split(':').nth(1)).unwrap_or("?").trim().to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{}, {cores} cores, {}",
        read("/proc/cpuinfo", "model name"),
        read("/proc/meminfo", "MemTotal")
    )
}

/// Builds the peers' program with the settings of this one.
fn build_peers() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../peers");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers"),
        |t| PathBuf::from(t).join("peers"),
    );
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = std::process::Command::new(cargo)
        .args(["build", "--release", "--quiet", "--locked", "--manifest-path"])
        .arg(folder.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()
        .context("cargo is needed to build the peers")?;
    if !status.success() {
        bail!("the peers do not build");
    }
    Ok(target.join("release/steadfast-bench-peers"))
}
