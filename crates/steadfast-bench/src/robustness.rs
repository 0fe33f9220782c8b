//! What a claim costs beside a crowd (D5), what an open transaction costs (D6), and what a slow network costs (D7).
//!
//! Invariant: each figure stands beside its own baseline, taken in the same run on the same server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use comfy_table::{Table, presets};
use duroxide::providers::{DispatcherCapabilityFilter, Provider, SemverRange, TagFilter, WorkItem};
use steadfast::postgres::PostgresProvider;
use tokio_postgres::{Client, NoTls};

use crate::compare::median;
use crate::slow_network;
use crate::workload::{Slots, Workload};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rows of the largest crowd.
    #[arg(long, default_value_t = 1_000_000)]
    crowd: i64,
    /// How long the transaction is held open.
    #[arg(long, default_value_t = 120)]
    held_seconds: u64,
    /// Only these parts: claims, held, network.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

pub(crate) async fn run(url: &str, options: &Options) -> Result<()> {
    let wanted = |part: &str| options.only.is_empty() || options.only.iter().any(|o| o == part);
    if wanted("claims") {
        claims(url, options.crowd).await?;
    }
    if wanted("held") {
        held(url, options.held_seconds).await?;
    }
    if wanted("network") {
        network(url).await?;
    }
    Ok(())
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(header);
    table
}

/// A provider on a fresh schema, and raw SQL beside it.
struct Scene {
    provider: PostgresProvider,
    sql: Client,
}

/// Claims per figure.
const CLAIMS: usize = 200;
const TRIES: usize = 100;
const LEASE: Duration = Duration::from_secs(600);

impl Scene {
    async fn open(url: &str, name: &str) -> Result<Self> {
        let schema = format!("bench_claims_{}_{name}", std::process::id());
        let provider = PostgresProvider::builder(url).schema(&schema).connect().await?;
        let (sql, connection) = tokio_postgres::connect(url, NoTls).await.context("cannot connect")?;
        tokio::spawn(connection);
        sql.batch_execute(&format!(
            "SET search_path = {schema};
             INSERT INTO sf_instance (instance_id, orchestration_name, orchestration_version) VALUES ('crowd', 'o', '1')"
        ))
        .await?;
        Ok(Self { provider, sql })
    }

    async fn put(&self, statement: &str, rows: i64) -> Result<()> {
        self.sql
            .batch_execute(&statement.replace("ROWS", &rows.to_string()))
            .await?;
        Ok(())
    }

    /// Median time of a claim of an activity and of a turn, both there to be had, in microseconds.
    async fn claim_us(&self) -> Result<(f64, f64)> {
        let range = SemverRange::new(semver(0, 0, 0), semver(99, 0, 0));
        let filter = DispatcherCapabilityFilter {
            supported_duroxide_versions: vec![range],
        };
        let (mut works, mut turns) = (Vec::new(), Vec::new());
        for n in 0..CLAIMS {
            let instance = format!(
                "mine-{n}-{}",
                self.sql
                    .query_one("SELECT clock_timestamp()::text", &[])
                    .await?
                    .get::<_, String>(0)
            );
            self.provider.enqueue_for_worker(activity(&instance)).await?;
            self.provider.enqueue_for_orchestrator(start(&instance), None).await?;
            let begun = Instant::now();
            let token = self.claim_work().await?;
            works.push(begun.elapsed().as_secs_f64() * 1e6);
            self.provider.ack_work_item(&token, None).await?;
            let begun = Instant::now();
            let token = self.claim_turn(&filter).await?;
            turns.push(begun.elapsed().as_secs_f64() * 1e6);
            self.provider
                .ack_orchestration_item(
                    &token,
                    1,
                    Vec::new(),
                    Vec::new(),
                    Vec::new(),
                    Default::default(),
                    Vec::new(),
                )
                .await?;
        }
        works.sort_by(f64::total_cmp);
        turns.sort_by(f64::total_cmp);
        Ok((median(&works).unwrap_or(f64::NAN), median(&turns).unwrap_or(f64::NAN)))
    }

    /// A claim that may not wait can come back without what lies behind a crowd that it has just moved aside: then it is
    /// made again, and all of it is the time that it took.
    async fn claim_work(&self) -> Result<String> {
        for _ in 0..TRIES {
            let claimed = self
                .provider
                .fetch_work_item(LEASE, Duration::ZERO, None, &TagFilter::tags(["mine"]))
                .await?;
            if let Some((_, token, _)) = claimed {
                return Ok(token);
            }
        }
        bail!("no activity to claim")
    }

    async fn claim_turn(&self, filter: &DispatcherCapabilityFilter) -> Result<String> {
        for _ in 0..TRIES {
            let claimed = self
                .provider
                .fetch_orchestration_item(LEASE, Duration::ZERO, Some(filter))
                .await?;
            if let Some((_, token, _)) = claimed {
                return Ok(token);
            }
        }
        bail!("no turn to claim")
    }

    async fn close(self) -> Result<()> {
        self.provider.cleanup_schema().await?;
        self.provider.close().await;
        Ok(())
    }
}

fn semver(major: u64, minor: u64, patch: u64) -> semver::Version {
    semver::Version::new(major, minor, patch)
}

fn activity(instance: &str) -> WorkItem {
    WorkItem::ActivityExecute {
        instance: instance.to_owned(),
        execution_id: 1,
        id: 2,
        name: "a".to_owned(),
        input: String::new(),
        session_id: None,
        tag: Some("mine".to_owned()),
    }
}

fn start(instance: &str) -> WorkItem {
    WorkItem::StartOrchestration {
        instance: instance.to_owned(),
        orchestration: "o".to_owned(),
        version: Some("1.0.0".to_owned()),
        input: String::new(),
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        execution_id: 1,
    }
}

const WORK: &str = "INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, SESSION available_at, payload)
    SELECT i.instance_key, 1, g, TAG, KEY DUE, PAYLOAD FROM generate_series(1, ROWS) g, sf_instance i WHERE i.instance_id = 'crowd'";

/// Every crowd, and what it is.
fn crowds(most: i64) -> Result<Vec<(String, i64, String)>> {
    // One that can be handed out: where the crowd is in order, it is what a claim takes.
    let payload = format!("'{}'", serde_json::to_string(&activity("crowd"))?.replace('\'', "''"));
    let queue = WORK.replace("PAYLOAD", &payload);
    let work = |tag: &str, due: &str| {
        let plain = queue.replace("TAG", tag).replace("DUE", due);
        plain.replace("SESSION", "").replace("KEY", "")
    };
    let earlier = "now() - interval '1 hour'";
    let mut all = Vec::new();
    let mut n = 1_000;
    while n <= most {
        all.push((format!("{n} rows queued"), n, work("'=mine'", earlier)));
        n *= 10;
    }
    let timers = "INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
        SELECT 'crowd', now() + interval '1 hour', 4, 'm' FROM generate_series(1, ROWS) g";
    let locked = "INSERT INTO sf_turn (instance_key, lane, available_at, claim, leased_at, lease_ms)
        SELECT i.instance_key, 0, now() + interval '1 hour', 1, now(), 3600000 FROM sf_instance i WHERE i.instance_id = 'crowd';
        INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
        SELECT 'crowd', now() - interval '1 hour', 7, 'm' FROM generate_series(1, ROWS) g";
    let incompatible = "INSERT INTO sf_instance (instance_id, orchestration_name, replay_version)
        SELECT 'pinned' || g, 'o', 9000000000000000 FROM generate_series(1, ROWS) g;
        INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
        SELECT 'pinned' || g, now() - interval '1 hour', 7, 'm' FROM generate_series(1, ROWS) g";
    let sessions = format!(
        "INSERT INTO sf_session (session_key, owner, locked_until)
         SELECT ('s' || g)::bytea, 'other', now() + interval '1 hour' FROM generate_series(1, 500) g; {}",
        queue
            .replace("TAG", "'=mine'")
            .replace("SESSION", "session_key,")
            .replace("KEY", "('s' || 1 + g % 500)::bytea,")
            .replace("DUE", earlier)
    );
    for (what, statement) in [
        ("50,000 of another tag", work("'=theirs'", earlier)),
        ("50,000 future timers", timers.to_owned()),
        ("50,000 messages on one locked instance", locked.to_owned()),
        ("50,000 of an incompatible version", incompatible.to_owned()),
        ("50,000 in sessions of others", sessions),
    ] {
        all.push((what.to_owned(), 50_000, statement));
    }
    Ok(all)
}

/// D5.
async fn claims(url: &str, most: i64) -> Result<()> {
    let mut table = table(&["beside", "activity, µs", "ratio", "turn, µs", "ratio", "within 1.5"]);
    let base = Scene::open(url, "base").await?;
    base.claim_us().await?;
    let (work, turn) = base.claim_us().await?;
    base.close().await?;
    table.add_row([
        "nothing".to_owned(),
        format!("{work:.0}"),
        "1".into(),
        format!("{turn:.0}"),
        "1".into(),
        String::new(),
    ]);
    for (n, (what, rows, statement)) in crowds(most)?.into_iter().enumerate() {
        let scene = Scene::open(url, &n.to_string()).await?;
        scene.put(&statement, rows).await?;
        // The first claims move what is in everybody's way aside.
        scene.claim_us().await?;
        let (w, t) = scene.claim_us().await?;
        scene.close().await?;
        let fine = w <= 1.5 * work && t <= 1.5 * turn;
        table.add_row([
            what,
            format!("{w:.0}"),
            format!("{:.2}", w / work),
            format!("{t:.0}"),
            format!("{:.2}", t / turn),
            if fine { "yes" } else { "no" }.to_owned(),
        ]);
    }
    println!("D5: median of {CLAIMS} claims, a commit included\n{table}");
    Ok(())
}

/// D6: throughput in windows, before, during and after a transaction that is held open elsewhere.
async fn held(url: &str, seconds: u64) -> Result<()> {
    let workload = Workload::open(url, Slots::both(32)).await?;
    workload.warm_up().await?;
    let rate = async |time: Duration| -> Result<f64> {
        let (begun, mut done) = (Instant::now(), 0usize);
        while begun.elapsed() < time {
            workload.fan_outs(400).await?;
            done += 400 * 5;
        }
        Ok(done as f64 / begun.elapsed().as_secs_f64())
    };
    let window = Duration::from_secs(10);
    let before = rate(window * 2).await?;
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    client
        .batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE TEMP TABLE held (n int); SELECT pg_current_xact_id()",
        )
        .await?;
    let mut table = table(&["held for, s", "activities/s", "of before"]);
    table.add_row(["0 (before)".to_owned(), format!("{before:.0}"), "1".to_owned()]);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        let now = rate(window).await?;
        let at = begun.elapsed().as_secs();
        table.add_row([at.to_string(), format!("{now:.0}"), format!("{:.2}", now / before)]);
    }
    client.batch_execute("ROLLBACK").await?;
    let after = rate(window).await?;
    table.add_row([
        "released".to_owned(),
        format!("{after:.0}"),
        format!("{:.2}", after / before),
    ]);
    println!("D6: fan-out of 5 at 32/32 slots beside a transaction held open\n{table}");
    workload.close().await
}

/// D7: throughput through a delaying proxy, by slots.
async fn network(url: &str) -> Result<()> {
    let mut table = table(&[
        "round trip, ms",
        "slots",
        "activities/s",
        "fan-out of 5 alone, ms",
        "of these round trips",
    ]);
    for delay_ms in [0u64, 1, 10, 50] {
        let proxy = Arc::new(slow_network::Proxy::start(url, Duration::from_millis(delay_ms) / 2).await?);
        for slots in [2usize, 8, 32, 128] {
            let workload = Workload::open(&proxy.url, Slots::both(slots)).await?;
            workload.warm_up().await?;
            let count = (if delay_ms >= 10 { 6 } else { 20 }) * slots.max(8);
            let took = workload.fan_outs_at_once(count, 2 * slots).await?;
            let mut alone: Vec<f64> = Vec::new();
            for _ in 0..5 {
                alone.push(workload.fan_outs(1).await?.as_secs_f64() * 1000.0);
            }
            alone.sort_by(f64::total_cmp);
            let alone = median(&alone).unwrap_or(f64::NAN);
            let trips = if delay_ms == 0 {
                "-".to_owned()
            } else {
                format!("{:.1}", alone / delay_ms as f64)
            };
            table.add_row([
                delay_ms.to_string(),
                slots.to_string(),
                format!("{:.0}", (count * 5) as f64 / took.as_secs_f64()),
                format!("{alone:.1}"),
                trips,
            ]);
            workload.close().await?;
        }
    }
    println!("D7: through a proxy that delays, ten connections whatever the slots\n{table}");
    Ok(())
}
