//! What the change feed costs: reading behind a long log, the way from one process to another, and what workers pay.
//!
//! Invariant: the log is filled with rows such as writers make; levels are measured in turn, so that a slow minute of the
//! machine hits all of them.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;
use duroxide::providers::Provider;
use duroxide::{Event, EventKind};
use steadfast::embedded::EmbeddedProvider;
use steadfast::feed::{ChangePoller, Feed, Level};
use steadfast::postgres::PostgresProvider;
use tokio::io::{AsyncBufReadExt, BufReader};

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
    /// Orchestrations of one run at a level; none: this part is left out.
    #[arg(long, default_value_t = 400)]
    orchestrations: usize,
    /// Runs at each level.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
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
    polls("postgres, short log", &postgres, &postgres.feed(), options).await?;
    polls("embedded, short log", &embedded, &embedded.feed()?, options).await?;
    fill_postgres(url, &schema, options.rows).await?;
    fill_embedded(&path, options.rows)?;
    polls("postgres, long log", &postgres, &postgres.feed(), options).await?;
    polls("embedded, long log", &embedded, &embedded.feed()?, options).await?;
    postgres.cleanup_schema().await?;
    postgres.close().await;
    embedded.close().await;
    throughput(url, options).await
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

/// Orchestrations a second at each level, in turn.
async fn throughput(url: &str, options: &Options) -> Result<()> {
    if options.orchestrations == 0 {
        return Ok(());
    }
    let levels = [Level::Off, Level::Lifecycle, Level::History];
    let mut rates: [Vec<f64>; 3] = Default::default();
    let mut workloads = Vec::new();
    for level in levels {
        let workload = Workload::open_with(url, Slots::both(32), level).await?;
        workload.warm_up().await?;
        workloads.push(workload);
    }
    for round in 0..options.rounds {
        // Each level is first, second and third equally often.
        for n in 0..levels.len() {
            let which = (n + round) % levels.len();
            let took = workloads[which].fan_outs(options.orchestrations).await?;
            rates[which].push(options.orchestrations as f64 / took.as_secs_f64());
        }
    }
    let medians: Vec<f64> = rates
        .iter_mut()
        .map(|r| {
            r.sort_unstable_by(f64::total_cmp);
            r[r.len() / 2]
        })
        .collect();
    for (level, rate) in levels.iter().zip(&medians) {
        println!(
            "throughput at {level:?}: {rate:.0} fan-outs/s (median of {}), {:+.1} % of off",
            options.rounds,
            (rate / medians[0] - 1.0) * 100.0
        );
    }
    for workload in workloads {
        workload.close().await?;
    }
    Ok(())
}
