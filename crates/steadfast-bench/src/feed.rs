//! What the change feed costs: reading behind a long log, the way from one process to another, and what workers pay.
//!
//! Invariant: the log is filled with rows such as writers make; levels are measured in turn, each run on a fresh store, so that
//! a slow minute of the machine hits all of them.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;
use cpu_time::ProcessTime;
use duroxide::providers::Provider;
use duroxide::{Event, EventKind};
use steadfast::embedded::EmbeddedProvider;
use steadfast::feed::{ChangePoller, Feed, Level};
use steadfast::postgres::PostgresProvider;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::server::Server;
use crate::workload::{Slots, Workload};

/// How much to measure.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Rows of the long log.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u32,
    /// Polls, and deliveries, that are measured.
    #[arg(long, default_value_t = 300)]
    samples: usize,
    /// Seconds for which a reader waits while nothing happens.
    #[arg(long, default_value_t = 60)]
    idle_seconds: u64,
    /// Orchestrations of one run at a level; none: this part is left out.
    #[arg(long, default_value_t = 2_000)]
    orchestrations: usize,
    /// Runs at each level.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Only what workers pay.
    #[arg(long)]
    only_throughput: bool,
}

/// Where the workload runs.
#[derive(Clone, Copy, Debug)]
enum Engine {
    Postgres,
    Embedded,
}

/// A reader process: prints the time of each delivery.
#[derive(Args, Debug)]
pub(crate) struct ReaderOptions {
    /// The store's schema.
    #[arg(long)]
    schema: Option<String>,
    /// The store's file.
    #[arg(long)]
    file: Option<PathBuf>,
}

/// New events of one poll.
const POLL: NonZeroU32 = match NonZeroU32::new(100) {
    Some(limit) => limit,
    None => NonZeroU32::MIN,
};

pub(crate) async fn run(url: &str, options: &Options) -> Result<()> {
    if !options.only_throughput {
        reading(url, options).await?;
    }
    if options.orchestrations > 0 {
        throughput(url, options, Engine::Postgres).await?;
        throughput(url, options, Engine::Embedded).await?;
    }
    Ok(())
}

/// Polls behind logs of two lengths, and the way to another process.
async fn reading(url: &str, options: &Options) -> Result<()> {
    let schema = format!("bench_feed_{}", std::process::id());
    let postgres = PostgresProvider::builder(url)
        .schema(&schema)
        .feed(Level::History)
        .connect()
        .await?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("store.db");
    let embedded = EmbeddedProvider::builder(&path).feed(Level::History).open().await?;
    delivery("postgres", &postgres, &["--schema", &schema], url, options).await?;
    delivery(
        "embedded",
        &embedded,
        &["--file", &path.to_string_lossy()],
        url,
        options,
    )
    .await?;
    idle(url, &schema, Duration::from_secs(options.idle_seconds)).await?;
    polls("postgres, short log", &postgres, &postgres.feed(), options).await?;
    polls("embedded, short log", &embedded, &embedded.feed()?, options).await?;
    fill_postgres(url, &schema, options.rows).await?;
    fill_embedded(&path, options.rows)?;
    polls("postgres, long log", &postgres, &postgres.feed(), options).await?;
    polls("embedded, long log", &embedded, &embedded.feed()?, options).await?;
    postgres.cleanup_schema().await?;
    postgres.close().await;
    embedded.close().await;
    Ok(())
}

fn scheduled(instance: &str, id: u64) -> Event {
    let kind = EventKind::ActivityScheduled {
        name: "a".to_owned(),
        input: "i".to_owned(),
        session_id: None,
        tag: None,
    };
    Event::with_event_id(id, instance, 1, None, kind)
}

async fn append(provider: &dyn Provider, instance: &str, from: u64, count: u64) -> Result<()> {
    let events = (from..from + count).map(|id| scheduled(instance, id)).collect();
    Ok(provider.append_with_execution(instance, 1, events).await?)
}

fn percentiles(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |share: f64| {
        times
            .get(((times.len() - 1) as f64 * share) as usize)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{what}: p50 {:.2} ms, p99 {:.2} ms, {} samples",
        at(0.5).as_secs_f64() * 1e3,
        at(0.99).as_secs_f64() * 1e3,
        times.len()
    );
}

/// A hundred new events behind whatever there is, read in one poll.
async fn polls(what: &str, provider: &dyn Provider, feed: &Feed, options: &Options) -> Result<()> {
    let mut poller = ChangePoller::from_now(feed).await?;
    poller.with_batch_limit(POLL);
    let mut times = Vec::with_capacity(options.samples);
    let last = feed.status().await?.last;
    for n in 0..options.samples {
        for part in 0..20 {
            append(provider, &format!("poll-{last}-{n}-{part}"), 1, 5).await?;
        }
        // Until all of them have a place.
        while feed.status().await?.last < last + 100 * (n as u64 + 1) {
            ChangePoller::from_now(feed).await?.poll().await?;
        }
        let begun = Instant::now();
        let batch = poller.poll().await?;
        times.push(begun.elapsed());
        ensure!(batch.events.len() == 100, "{} events in a poll", batch.events.len());
    }
    percentiles(
        &format!("poll of 100 new events, {what} ({} events)", feed.status().await?.last),
        &mut times,
    );
    Ok(())
}

/// What a reader of its own costs the server while nothing happens.
async fn idle(url: &str, schema: &str, time: Duration) -> Result<()> {
    let feed = PostgresProvider::builder(url).schema(schema).open_feed().await?;
    let mut poller = ChangePoller::from_now(&feed).await?;
    // The listener begins to listen.
    poller.wait(Duration::from_secs(2)).await;
    while !poller.poll().await?.caught_up {}
    let server = Server::open(url).await?;
    let (before, begun) = (server.start().await?, Instant::now());
    let mut polls = 0;
    while let Some(left) = time.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
        poller.wait(left).await;
        poller.poll().await?;
        polls += 1;
    }
    let statements = server.since(&before).await?.statements.unwrap_or(f64::NAN);
    println!(
        "{} s without events: {polls} polls, {statements} statements",
        time.as_secs()
    );
    feed.close().await;
    Ok(())
}

async fn fill_postgres(url: &str, schema: &str, rows: u32) -> Result<()> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let fill = format!(
        "SET search_path TO \"{schema}\";
         INSERT INTO sf_feed SELECT l.last + n, n, now(), 1, 'filled-' || n % 5000, 1, 'fan_out', ARRAY[n], '{{10}}'
         FROM generate_series(1, {rows}) n, (SELECT max(last_sequence) AS last FROM sf_feed) l"
    );
    client.batch_execute(&fill).await?;
    client.batch_execute("VACUUM ANALYZE sf_feed").await?;
    Ok(())
}

fn fill_embedded(path: &Path, rows: u32) -> Result<()> {
    let connection = rusqlite::Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(30))?;
    connection.execute(
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?1)
         INSERT INTO sf_feed SELECT (SELECT max(last_sequence) FROM sf_feed) + n, 1, n, 0, 1, 'filled-' || (n % 5000), 1,
             'fan_out', '[' || n || ',10]' FROM c",
        [rows],
    )?;
    Ok(())
}

fn now_us() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros()
}

/// From an acknowledged write here to its delivery in another process.
async fn delivery(what: &str, provider: &dyn Provider, place: &[&str], url: &str, options: &Options) -> Result<()> {
    let mut child = tokio::process::Command::new(std::env::current_exe()?)
        .arg("feed-reader")
        .args(place)
        .env("DATABASE_URL", url)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    ensure!(
        lines.next_line().await?.as_deref() == Some("ready"),
        "the reader did not begin"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut times = Vec::with_capacity(options.samples);
    for n in 0..options.samples {
        append(provider, "delivered", n as u64 + 1, 1).await?;
        let done = now_us();
        let line = lines.next_line().await?.context("the reader ended")?;
        times.push(Duration::from_micros(line.parse::<u128>()?.saturating_sub(done) as u64));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    child.kill().await?;
    percentiles(&format!("from commit to another process, {what}"), &mut times);
    Ok(())
}

pub(crate) async fn read(url: Option<&str>, options: &ReaderOptions) -> Result<()> {
    let feed = match (&options.file, &options.schema) {
        (Some(path), _) => EmbeddedProvider::open_feed(path).await?,
        (None, schema) => {
            let builder = PostgresProvider::builder(url.context("a server is needed")?);
            builder
                .schema(schema.as_deref().unwrap_or_default())
                .open_feed()
                .await?
        }
    };
    let mut poller = ChangePoller::from_now(&feed).await?;
    println!("ready");
    loop {
        for _ in poller.poll().await?.events {
            println!("{}", now_us());
        }
        poller.wait(Duration::from_secs(60)).await;
    }
}

/// What one run at a level came to.
#[derive(Clone, Copy)]
struct Paid {
    /// Orchestrations a second.
    rate: f64,
    /// CPU time for one, in µs: the server's, or that of this process where the store is within.
    cpu_us: f64,
    /// Transactions that wrote, for one; on a server only.
    commits: f64,
}

const LEVELS: [Level; 3] = [Level::Off, Level::Lifecycle, Level::History];

/// Every order of the levels: none is always behind the same other one, whose leavings it would pay for.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1], [2, 0, 1], [1, 0, 2]];

/// What workers pay at each level, in turn.
async fn throughput(url: &str, options: &Options, engine: Engine) -> Result<()> {
    let mut paid: [Vec<Paid>; 3] = Default::default();
    let server = Server::open(url).await?;
    for order in ORDERS.iter().cycle().take(options.rounds) {
        for &which in order {
            paid[which].push(paid_at(url, options, engine, LEVELS[which], &server).await?);
        }
    }
    for (level, runs) in LEVELS.iter().zip(&paid) {
        let change = |what: fn(&Paid) -> f64| (median(runs, what) / median(&paid[0], what) - 1.0) * 100.0;
        println!(
            "{engine:?} at {level:?}: {:.0} fan-outs/s ({:+.1} %; {}), {:.0} us CPU each ({:+.1} %; {}), {:.2} writing transactions each",
            median(runs, |p| p.rate),
            change(|p| p.rate),
            range(runs, |p| p.rate),
            median(runs, |p| p.cpu_us),
            change(|p| p.cpu_us),
            range(runs, |p| p.cpu_us),
            median(runs, |p| p.commits),
        );
    }
    Ok(())
}

/// One run, on a store of its own: tables that have grown, and statistics about them, are no matter of the level.
async fn paid_at(url: &str, options: &Options, engine: Engine, level: Level, server: &Server) -> Result<Paid> {
    let workload = match engine {
        Engine::Postgres => Workload::open_with(url, Slots::both(32), level).await?,
        Engine::Embedded => Workload::open_embedded(Slots::both(32), level).await?,
    };
    workload.warm_up().await?;
    server.checkpoint().await?;
    let (before, own) = (server.start().await?, ProcessTime::now());
    let took = workload.fan_outs(options.orchestrations).await?;
    // What is assigned after the last commit belongs to it, too.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (costs, count) = (server.since(&before).await?, options.orchestrations as f64);
    let cpu = match engine {
        Engine::Postgres => costs.server_cpu_seconds.unwrap_or(f64::NAN),
        Engine::Embedded => own.elapsed().as_secs_f64(),
    };
    workload.close().await?;
    Ok(Paid {
        rate: count / took.as_secs_f64(),
        cpu_us: cpu * 1e6 / count,
        commits: costs.writing_transactions / count,
    })
}

fn range(runs: &[Paid], what: fn(&Paid) -> f64) -> String {
    let values = || runs.iter().map(what);
    let (least, most) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    format!("{least:.0} to {most:.0}")
}

fn median(runs: &[Paid], what: fn(&Paid) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(what).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
