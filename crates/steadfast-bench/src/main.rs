//! What Steadfast costs on a real server: statements, commits and WAL per turn and per activity, and what it does when
//! idle. Run it against a server with `pg_stat_statements`:
//! `cargo xtask postgres -- cargo run --release -p steadfast-bench -- costs`.
//!
//! Invariant: figures come from the server's own counters, never from ours; each run has a schema of its own.
#![allow(clippy::print_stdout, reason = "the figures are this program's output")]

mod counters;
mod workload;

use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use comfy_table::{Table, presets};

use counters::Counters;
use workload::{Slots, Workload};

#[derive(Parser)]
#[command(about = "Measures what Steadfast costs on a real PostgreSQL")]
struct Cli {
    /// Server to measure on; its pg_stat_statements is reset.
    #[arg(long, env = "DATABASE_URL")]
    database_url: String,
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
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "error".into()))
        .with_writer(std::io::stderr)
        .init();
    let cli = Cli::parse();
    match cli.command {
        Command::Costs { orchestrations, slots } => costs(&cli.database_url, orchestrations, slots).await,
        Command::Idle { slots, seconds } => idle(&cli.database_url, slots, Duration::from_secs(seconds)).await,
    }
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
