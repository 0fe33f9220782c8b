//! `chaos`: several worker and client processes on one store run a mix of workflows while a nemesis acts; then the store is
//! healed and drained, and a checker judges the ledgers and what the store holds.
//!
//! Invariant: everything random comes from a seed that is printed; a violation, or a store that does not come to rest, makes
//! the command fail.

mod checker;
mod crew;
mod evidence;
mod figures;
mod follow;
mod idle;
mod ledger;
mod nemesis;
mod place;
mod plant;
mod report;
mod server;
mod worker;
mod workflows;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use duroxide::providers::Provider;

use checker::Verdict;
use crew::{Member, Plan, Role};
use evidence::Evidence;
use figures::Figures;
use follow::{Feed, Follower, Reading};
use ledger::{Fact, Ledger};
use nemesis::Nemesis;
use place::{Place, Settings};
use plant::Plant;
use server::Server;
use worker::Word;

pub(crate) use worker::{ask, work};

/// Where the store lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EngineChoice {
    Postgres,
    Embedded,
    Both,
}

/// What to do.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[arg(long, value_enum, default_value = "both")]
    engine: EngineChoice,
    /// How long the nemesis acts, on each engine.
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// What everything random comes from; drawn and printed where it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Writes a report in Markdown.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Worker processes.
    #[arg(long, default_value_t = 3)]
    workers: usize,
    /// Client processes.
    #[arg(long, default_value_t = 2)]
    clients: usize,
    /// Workflows that each client starts per second.
    #[arg(long, default_value_t = 6.0)]
    rate: f64,
    /// How often an idle process looks by itself, in case a hint was lost.
    #[arg(long, default_value_t = 15_000)]
    safety_poll_ms: u64,
    /// Plants a defect, to see that the checker finds it.
    #[arg(long, value_enum)]
    plant: Option<Plant>,
    /// Longest time from the last fault to a store at rest: leases, and timers of clocks that were wrong.
    #[arg(long, default_value_t = 120)]
    drain_seconds: u64,
    /// Leaves the recovery figures out.
    #[arg(long)]
    no_figures: bool,
}

/// How a run on one engine went.
pub(crate) struct Outcome {
    pub(crate) engine: &'static str,
    pub(crate) seed: u64,
    pub(crate) lasted: Duration,
    pub(crate) drained_in: Duration,
    pub(crate) faults: BTreeMap<&'static str, usize>,
    pub(crate) operations: BTreeMap<&'static str, usize>,
    pub(crate) figures: Figures,
    pub(crate) verdicts: Vec<Verdict>,
}

/// Runs on one engine or both. `url`: a server that is not ours, which is not stopped.
pub(crate) async fn run(url: Option<&str>, options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let mut outcomes = Vec::new();
    for (choice, name) in [
        (EngineChoice::Postgres, "postgres"),
        (EngineChoice::Embedded, "embedded"),
    ] {
        if options.engine != choice && options.engine != EngineChoice::Both {
            continue;
        }
        let outcome = Run::new(name, url, options, seed).await?.conduct(options).await?;
        println!("{}", report::of(&outcome));
        outcomes.push(outcome);
    }
    if let Some(path) = &options.report {
        let texts: Vec<String> = outcomes.iter().map(report::of).collect();
        std::fs::write(path, report::document(options, seed, &texts))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    let violations: usize = outcomes
        .iter()
        .flat_map(|o| &o.verdicts)
        .map(|v| v.violations.len())
        .sum();
    if violations > 0 {
        bail!("{violations} violations (seed {seed})");
    }
    println!("no violation (seed {seed})");
    Ok(())
}

/// A run on one engine.
pub(crate) struct Run {
    engine: &'static str,
    seed: u64,
    dir: tempfile::TempDir,
    server: Option<Server>,
    place: Place,
    crew: Vec<Member>,
    ledger: Ledger,
}

impl Run {
    async fn new(engine: &'static str, url: Option<&str>, options: &Options, seed: u64) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("steadfast-chaos-").tempdir()?;
        let (server, place) = if engine == "postgres" {
            let server = Server::new(url, &format!("chaos_{seed:016x}_{}", std::process::id()))?;
            let place = Place::Postgres {
                url: server.url.clone(),
                schema: server.schema.clone(),
            };
            (Some(server), place)
        } else {
            (None, Place::File(dir.path().join("store.db")))
        };
        // Installed before anything can go wrong.
        place.open(&Settings::default()).await?.provider.close().await;
        if let (Some(server), Some(plant)) = (&server, options.plant) {
            plant.into_store(server).await?;
        }
        let plan = Plan {
            dir: dir.path().to_owned(),
            seed,
            rate: options.rate,
        };
        let mut crew = Vec::new();
        for slot in 0..options.workers {
            let mut settings = Settings {
                // One reads its histories again and again.
                cache_bytes: (slot == 1).then_some(20_000),
                fallback_ms: Some(options.safety_poll_ms),
                ..Settings::default()
            };
            if let Some(plant) = options.plant {
                plant.into_worker(slot, &mut settings);
            }
            crew.push(Member::new(Role::Worker, slot, &place, settings, &plan).await);
        }
        for slot in 0..options.clients {
            crew.push(Member::new(Role::Client, slot, &place, Settings::default(), &plan).await);
        }
        let ledger = Ledger::open(&dir.path().join("conductor-0.jsonl"))?;
        Ok(Self {
            engine,
            seed,
            dir,
            server,
            place,
            crew,
            ledger,
        })
    }

    async fn conduct(mut self, options: &Options) -> Result<Outcome> {
        let mut figures = Figures::default();
        let follower = Follower::start(self.place.clone());
        idle::work(&mut self, Duration::from_millis(options.safety_poll_ms)).await?;
        if !options.no_figures {
            figures.dead_listener(&mut self).await?;
        }
        for member in &mut self.crew {
            if member.active().is_none() {
                member.start()?;
            }
        }
        if !options.no_figures {
            figures.opening(&mut self).await?;
        }
        let begun = Instant::now();
        let mut nemesis = Nemesis::new(self.seed);
        let mut looked = Instant::now();
        while begun.elapsed() < Duration::from_secs_f64(options.minutes * 60.0) {
            nemesis.act(&mut self.crew, self.server.as_ref(), &self.ledger).await?;
            self.crew.iter_mut().try_for_each(Member::require_alive)?;
            if looked.elapsed() > Duration::from_secs(1) {
                looked = Instant::now();
                self.look_at_leases().await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        nemesis.heal(&mut self.crew, self.server.as_ref()).await?;
        let lasted = begun.elapsed();
        let healed = Instant::now();
        let drained = self.drain(healed + Duration::from_secs(options.drain_seconds)).await;
        if let Err(error) = &drained {
            println!("not drained: {error:#}");
        }
        let drained_in = healed.elapsed();
        for member in &mut self.crew {
            member.stop().await?;
        }
        let followed = follower.finish().await?;
        let evidence = self.evidence(drained.is_ok(), followed).await?;
        figures.complete(&evidence);
        let outcome = Outcome {
            engine: self.engine,
            seed: self.seed,
            lasted,
            drained_in,
            faults: nemesis.done,
            operations: report::operations(&evidence),
            figures,
            verdicts: checker::judge(&evidence),
        };
        if outcome.verdicts.iter().any(|verdict| !verdict.violations.is_empty()) {
            // For whoever looks into it.
            println!("ledgers and logs: {}", self.dir.keep().display());
        }
        Ok(outcome)
    }

    /// Notes leases that reach too far; while the server is down there is nothing to see.
    async fn look_at_leases(&self) {
        let Some(server) = &self.server else { return };
        for what in server.overdue().await.unwrap_or_default() {
            self.ledger.note(Fact::Overdue { what });
        }
    }

    /// Lets the clients finish, then waits until nothing runs and nothing is queued.
    async fn drain(&mut self, until: Instant) -> Result<()> {
        for member in self.crew.iter_mut().filter(|member| member.role == Role::Client) {
            member.say(&Word::Finish).await?;
        }
        for member in self.crew.iter_mut().filter(|member| member.role == Role::Client) {
            member.done(until.saturating_duration_since(Instant::now())).await?;
        }
        let store = self.place.open_patiently(&Settings::default()).await?;
        let rest = loop {
            let mut running = store.provider.list_instances_by_status("Running").await?;
            running.extend(store.provider.list_instances_by_status("ContinuedAsNew").await?);
            running.retain(|id| !may_be_left(id));
            if running.is_empty() {
                break Ok(());
            }
            if Instant::now() > until {
                running.truncate(5);
                break Err(anyhow::anyhow!("still running: {running:?} …"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        store.provider.close().await;
        rest?;
        while self.queued().await?.iter().any(|(_, to)| !may_be_left(to)) {
            if Instant::now() > until {
                bail!("still queued");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// What is queued or leased.
    async fn queued(&self) -> Result<Vec<(String, String)>> {
        if let Some(server) = &self.server {
            return server.queued().await;
        }
        let Place::File(path) = &self.place else {
            bail!("a store without a place")
        };
        queued_in_file(path).context("looking into the file")
    }

    async fn evidence(&self, drained: bool, followed: Reading) -> Result<Evidence> {
        let store = self.place.open_patiently(&Settings::default()).await?;
        let evidence = Evidence {
            lines: ledger::read(&ledger::files(self.dir.path(), "")?)?,
            instances: evidence::instances(&store.provider).await?,
            queued: self.queued().await?,
            feed: Feed {
                followed,
                afterwards: follow::everything(&self.place).await,
            },
            drained,
        };
        store.provider.close().await;
        Ok(evidence)
    }

    /// A client of the store that nothing is done to.
    async fn bystander(&self) -> Result<(place::Opened, duroxide::Client)> {
        let store = self.place.open_patiently(&Settings::default()).await?;
        let client = duroxide::Client::new(Arc::clone(&store.provider) as Arc<dyn Provider>);
        Ok((store, client))
    }
}

/// Whether something may be left for this instance or run in it, until the checker has looked closer: trees that were
/// deleted while children were being born, and cancelled before a child was.
fn may_be_left(id: &str) -> bool {
    id.contains("-doomed") || id.contains("-cancelled::")
}

/// What is queued or leased in a store of the embedded engine, and whom it is for.
fn queued_in_file(path: &std::path::Path) -> rusqlite::Result<Vec<(String, String)>> {
    let file = rusqlite::Connection::open(path)?;
    file.busy_timeout(Duration::from_secs(10))?;
    let mut look = file.prepare(
        "SELECT 'an activity', i.instance_id FROM sf_work JOIN sf_instance i USING (instance_key)
         UNION ALL SELECT 'a message', i.instance_id FROM sf_message JOIN sf_instance i USING (instance_key)
         UNION ALL SELECT 'a lease', i.instance_id FROM sf_turn t JOIN sf_instance i USING (instance_key)
                   WHERE t.claim IS NOT NULL
         UNION ALL SELECT 'something set aside', instance_id FROM sf_quarantine",
    )?;
    let rows = look.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}
