//! What Steadfast costs on a real server: statements, commits and WAL per turn and per activity, and what it does when
//! idle. Run it against a server with `pg_stat_statements`:
//! `cargo xtask postgres -- cargo run --release -p steadfast-bench -- costs`.
//!
//! Invariant: figures come from the server's own counters, never from ours; each run has a schema of its own.
#![allow(clippy::print_stdout, reason = "the figures are this program's output")]

mod chaos;
mod chart;
mod compare;
mod contender;
mod counters;
mod feed;
mod report;
mod robustness;
mod server;
mod slow_network;
mod suite;
mod workload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use comfy_table::{Table, presets};
use duroxide::providers::Provider;
use steadfast::embedded::EmbeddedProvider;
use steadfast::postgres::PostgresProvider;
use steadfast_bench::memory::MemoryProvider;

use contender::Kind;
use counters::Counters;
use workload::{Slots, Workload};

#[derive(Parser)]
#[command(about = "Measures what Steadfast costs on a real PostgreSQL")]
struct Cli {
    /// Server to measure on; its pg_stat_statements is reset.
    #[arg(long, env = "DATABASE_URL", global = true)]
    database_url: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Statements, round trips, commits and WAL of a fan-out of 5 activities: one alone, then many at once.
    Costs {
        /// Orchestrations of the second run.
        #[arg(long, default_value_t = 200)]
        orchestrations: usize,
        /// Slots of each kind.
        #[arg(long, default_value_t = 32)]
        slots: usize,
    },
    /// Statements of an idle process with many waiting slots.
    Idle {
        /// Slots of both kinds together.
        #[arg(long, default_value_t = 64)]
        slots: usize,
        /// How long to watch.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// All providers side by side: throughput, latency and costs.
    Compare(compare::Options),
    /// Tries to make the store lose, double or stall work, and checks that it did not.
    Chaos(chaos::Options),
    /// A worker process of `chaos`.
    #[command(hide = true)]
    ChaosWorker,
    /// A client process of `chaos`.
    #[command(hide = true)]
    ChaosClient,
    /// The change feed: polls behind a long log, delivery to another process, throughput at each level.
    Feed(feed::Options),
    /// A reader process of `feed`.
    #[command(hide = true)]
    FeedReader(feed::ReaderOptions),
    /// Claims beside crowds of rows, throughput beside an open transaction and through a slow network.
    Robustness(robustness::Options),
    /// Draws throughput by slots from a results file.
    Chart {
        /// File that `compare` has written.
        #[arg(long, default_value = RESULTS)]
        results: PathBuf,
        /// SVG file to write.
        #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/throughput.svg"))]
        to: PathBuf,
    },
    /// Prints the last results as Markdown.
    Report {
        /// File that `compare` has written.
        #[arg(long, default_value = RESULTS)]
        results: PathBuf,
    },
    /// A measured process: `compare` starts it and speaks with it by lines.
    #[command(hide = true)]
    Child {
        #[arg(long)]
        provider: Kind,
    },
}

/// Where results are kept.
const RESULTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results/results.jsonl");

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "error".into()))
        .with_writer(std::io::stderr)
        .init();
    let cli = Cli::parse();
    let url = || {
        cli.database_url
            .as_deref()
            .context("a server is needed: --database-url, or cargo xtask postgres -- …")
    };
    match cli.command {
        Command::Costs { orchestrations, slots } => costs(url()?, orchestrations, slots).await,
        Command::Idle { slots, seconds } => idle(url()?, slots, Duration::from_secs(seconds)).await,
        Command::Compare(ref options) => {
            let results = compare::compare(url()?, options).await?;
            print(&results, false);
            Ok(())
        }
        Command::Chaos(ref options) => chaos::run(cli.database_url.as_deref(), options).await,
        Command::ChaosWorker => chaos::work().await,
        Command::ChaosClient => chaos::ask().await,
        Command::Feed(ref options) => feed::run(url()?, options).await,
        Command::FeedReader(ref options) => feed::read(cli.database_url.as_deref(), options).await,
        Command::Robustness(ref options) => robustness::run(url()?, options).await,
        Command::Chart { ref results, ref to } => chart::draw(&chart::read(results)?, to),
        Command::Report { ref results } => {
            print(&last_of_each(chart::read(results)?), true);
            Ok(())
        }
        Command::Child { provider } => child(provider).await,
    }
}

fn print(results: &[(suite::Row, Vec<compare::Line>)], markdown: bool) {
    if let Some(line) = results.iter().find_map(|(_, lines)| lines.first()) {
        println!(
            "{}; PostgreSQL {} ({}); commit {}, {}",
            line.machine,
            line.server.version,
            line.server.settings.join(", "),
            line.commit,
            line.date
        );
    }
    println!("\n{}\n", report::table(results, markdown));
    for verdict in report::verdicts(results) {
        println!("{}{verdict}", if markdown { "- " } else { "" });
    }
}

/// The last line of every scenario and provider, in the order of the suite.
fn last_of_each(lines: Vec<compare::Line>) -> Vec<(suite::Row, Vec<compare::Line>)> {
    let pick = |row: suite::Row| {
        let of = |kind: &Kind| {
            let same = |l: &&compare::Line| l.scenario == row.name && l.provider == *kind;
            lines.iter().rev().find(same).cloned()
        };
        let found: Vec<compare::Line> = row.contenders.iter().filter_map(of).collect();
        (!found.is_empty()).then_some((row, found))
    };
    suite::rows().into_iter().filter_map(pick).collect()
}

/// Serves one store of ours, by lines.
async fn child(kind: Kind) -> Result<()> {
    steadfast_bench::child::serve(move |store, schema| async move {
        let provider: Arc<dyn Provider> = match kind {
            Kind::Steadfast => Arc::new(PostgresProvider::builder(&store).schema(schema).connect().await?),
            Kind::Embedded => Arc::new(EmbeddedProvider::open(&store).await?),
            Kind::Memory => Arc::new(MemoryProvider::default()),
            peer => bail!("{} lives in the workspace peers", peer.name()),
        };
        Ok(provider)
    })
    .await
}

/// The same workload in two sizes.
async fn costs(url: &str, orchestrations: usize, slots: usize) -> Result<()> {
    for (title, count, slots) in [
        ("one fan-out of 5 alone", 1, Slots::both(slots)),
        ("many fan-outs of 5 at once", orchestrations, Slots::both(slots)),
    ] {
        let workload = Workload::open(url, slots).await?;
        workload.warm_up().await?;
        let counters = Counters::open(url).await?;
        counters.reset().await?;
        let before = counters.read().await?;
        let elapsed = workload.fan_outs(count).await?;
        let cost = counters.read().await?.since(&before);
        let turns = workload.turns();
        let activities = (count * 5) as f64;
        let mut table = Table::new();
        table
            .load_preset(presets::UTF8_FULL_CONDENSED)
            .set_header(["what", "total", "per turn", "per activity"]);
        for (what, total) in [
            ("calls (statements = round trips)", cost.calls),
            ("commits that write", cost.writing_commits),
            ("WAL KiB", cost.wal_bytes / 1024.0),
        ] {
            table.add_row([
                what.to_owned(),
                format!("{total:.0}"),
                format!("{:.2}", total / turns),
                format!("{:.2}", total / activities),
            ]);
        }
        println!(
            "\n{title}: {count} × 5 activities, {turns:.0} turns, slots {}/{}, {:.3} s, {:.0} activities/s",
            slots.orchestrations,
            slots.activities,
            elapsed.as_secs_f64(),
            activities / elapsed.as_secs_f64()
        );
        println!("{table}");
        println!("{}", cost.by_function());
        workload.close().await?;
    }
    Ok(())
}

async fn idle(url: &str, slots: usize, time: Duration) -> Result<()> {
    let workload = Workload::open(url, Slots::both(slots / 2)).await?;
    workload.warm_up().await?;
    // The longest lease of the warm-up (activities: 30 s) has ended, and with it the last reason to look.
    tokio::time::sleep(Duration::from_secs(40)).await;
    let counters = Counters::open(url).await?;
    counters.reset().await?;
    let before = counters.read().await.context("counters")?;
    tokio::time::sleep(time).await;
    let cost = counters.read().await?.since(&before);
    println!(
        "idle for {} s with {slots} waiting slots: {:.0} statements",
        time.as_secs(),
        cost.calls
    );
    println!("{}", cost.by_function());
    workload.close().await
}
