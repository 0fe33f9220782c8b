//! How fast the store recovers: measured in an opening of the run, where one thing at a time is done, and from the ledgers.
//!
//! Invariant: a figure is a time between two lines of the ledgers, all written by this machine's clock.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::Run;
use super::crew::{Member, Role};
use super::evidence::Evidence;
use super::ledger::{Fact, now_ms};
use super::workflows;

/// Throughput is counted in windows of this length.
const WINDOW_MS: u64 = 250;
/// The load before the server is stopped.
const CALM: Duration = Duration::from_secs(8);

/// What was measured; `None`: not on this engine, or not in this run.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// From kill -9 of a worker to the next begin of each activity that it had in hand, in ms, ascending.
    pub(crate) takeovers_ms: Vec<u64>,
    /// From the moment the server took connections again to a window with 80 % of the throughput before.
    pub(crate) full_after_restart_ms: Option<u64>,
    /// Activities per second before that.
    pub(crate) before_per_second: Option<u64>,
    /// From the death of the listeners' lines to the first workflow since which all are picked up promptly.
    pub(crate) prompt_after_dead_listener_ms: Option<u64>,
    /// The slowest pick-up meanwhile.
    pub(crate) slowest_pickup_ms: Option<u64>,
    stopped_at_ms: Option<u64>,
    started_at_ms: Option<u64>,
    dead_at_ms: Option<u64>,
    probes: BTreeMap<String, u64>,
}

impl Figures {
    /// On a store where nothing else happens, and whose workers are up: the lines of all listeners die, and workflows are started meanwhile.
    pub(crate) async fn dead_listener(&mut self, run: &mut Run) -> Result<()> {
        if run.server.is_none() {
            return Ok(());
        }
        let (store, client) = run.bystander().await?;
        // Time to listen again.
        tokio::time::sleep(Duration::from_secs(4)).await;
        let lines = || run.crew.iter().filter_map(|member| member.proxy.as_ref());
        self.dead_at_ms = Some(now_ms());
        lines().for_each(faulty_proxy::Proxy::freeze_listeners);
        for number in 0..80 {
            let id = format!("probe-{number}");
            self.probes.insert(id.clone(), now_ms());
            client.start_orchestration(&id, "child", workflows::input(1)).await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        lines().for_each(faulty_proxy::Proxy::thaw);
        store.provider.close().await;
        Ok(())
    }

    /// Under load: the server stops and starts; then a worker is killed.
    pub(crate) async fn opening(&mut self, run: &mut Run) -> Result<()> {
        tokio::time::sleep(CALM).await;
        if let Some(server) = run.server.as_ref().filter(|server| server.is_ours()) {
            self.stopped_at_ms = Some(now_ms());
            let what = "opening: server stopped (immediate) and started".to_owned();
            run.ledger.note(Fact::Trouble {
                what,
                process: None,
                lasts_ms: 5_000,
            });
            server.stop(true).await?;
            server.start().await?;
            self.started_at_ms = Some(now_ms());
            tokio::time::sleep(CALM).await;
        }
        for victim in run.crew.iter_mut().filter(|member| member.role == Role::Worker).take(2) {
            if let Some(process) = victim.active() {
                run.ledger.note(Fact::Killed { process });
            }
            victim.kill().await?;
            tokio::time::sleep(CALM).await;
            Member::start(victim)?;
        }
        Ok(())
    }

    /// Reads the rest from the ledgers.
    pub(crate) fn complete(&mut self, evidence: &Evidence) {
        let runs = super::checker::all_runs(evidence);
        let mut killed: BTreeMap<u32, u64> = BTreeMap::new();
        let mut finished = std::collections::HashSet::new();
        for line in &evidence.lines {
            match &line.fact {
                Fact::Killed { process } => {
                    killed.insert(*process, line.at_ms);
                }
                Fact::Finished { instance, activity } => {
                    finished.insert((instance.as_str(), activity.as_str(), line.process));
                }
                _ => {}
            }
        }
        for ((instance, activity), runs) in &runs {
            for (earlier, later) in runs.iter().zip(runs.iter().skip(1)) {
                let cut_short = !finished.contains(&(*instance, *activity, earlier.1));
                if let Some(at) = killed.get(&earlier.1).filter(|_| cut_short) {
                    self.takeovers_ms.push(later.0.saturating_sub(*at));
                }
            }
        }
        self.takeovers_ms.sort_unstable();
        self.pickups(&runs);
        self.throughput(evidence);
    }

    fn pickups(&mut self, runs: &BTreeMap<(&str, &str), Vec<(u64, u32)>>) {
        const PROMPT_MS: u64 = 400;
        let Some(dead_at) = self.dead_at_ms else { return };
        let pickup = |(id, started): (&String, &u64)| {
            let first = runs.get(&(id.as_str(), "1/0")).and_then(|runs| runs.first());
            Some((*started, first?.0.saturating_sub(*started)))
        };
        let mut pickups: Vec<(u64, u64)> = self.probes.iter().filter_map(pickup).collect();
        pickups.sort_unstable();
        self.slowest_pickup_ms = pickups.iter().map(|(_, waited)| *waited).max();
        let late = pickups.iter().rposition(|(_, waited)| *waited > PROMPT_MS);
        let prompt = late.map_or(pickups.first(), |late| pickups.get(late + 1));
        self.prompt_after_dead_listener_ms = prompt.map(|(started, _)| started.saturating_sub(dead_at));
    }

    fn throughput(&mut self, evidence: &Evidence) {
        let (Some(stopped), Some(started)) = (self.stopped_at_ms, self.started_at_ms) else {
            return;
        };
        let count = |from: u64, to: u64| {
            let within = |line: &&super::ledger::Line| {
                matches!(line.fact, Fact::Finished { .. }) && (from..to).contains(&line.at_ms)
            };
            evidence.lines.iter().filter(within).count() as u64
        };
        let before = count(stopped.saturating_sub(4_000), stopped) / 4;
        self.before_per_second = Some(before);
        let windows = (0..60).map(|n| started + n * WINDOW_MS);
        let mut full = windows.filter(|from| count(*from, from + WINDOW_MS) * 1_000 / WINDOW_MS * 10 >= before * 8);
        self.full_after_restart_ms = full.next().map(|from| from + WINDOW_MS - started);
    }
}
