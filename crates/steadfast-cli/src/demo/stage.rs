//! The story: start the job, kill the worker half-way, start another, release, compare.
//!
//! Invariant: at most one worker runs at a time, and none when this returns.

use std::{fs, time::Duration};

use duroxide::{Client, OrchestrationStatus};
use tokio::time::{Instant, sleep};

use crate::{
    clock,
    demo::{
        job::{self, Sealed},
        ledger::Reader,
        manifest,
        process::{Plan, Worker},
        progress::Progress,
        report::{Findings, Report},
        snapshot::Snapshot,
        verdict::{self, Evidence},
    },
    error::CliError,
    store::Store,
};

/// Percent of the files after which the worker is killed.
const KILL_AT: usize = 45;
/// How often the ledger is read while we wait for that moment.
const WATCH: Duration = Duration::from_millis(2);
/// How often the store is asked afterwards.
const LOOK: Duration = Duration::from_millis(50);
/// Without any new line in the ledger for so long, something is wrong.
const STALLED: Duration = Duration::from_secs(60);
/// A worker that has touched no file for longer than this, and than a file takes, waits for leases to end.
const PAUSE_MS: u64 = 100;
/// What is left after the release is one activity.
const SEALED_WITHIN: Duration = Duration::from_secs(60);

/// Everything the story is played with.
pub(crate) struct Stage<'a> {
    store: &'a Store,
    plan: &'a Plan,
    client: Client,
    ledger: Reader,
    progress: Progress,
    total: usize,
    /// When the ledger last grew, and to how many lines.
    alive: (Instant, usize),
}

/// The moment of the kill.
struct Kill {
    pid: u32,
    at_ms: u64,
    snapshot: Snapshot,
}

impl<'a> Stage<'a> {
    /// Sets it up for a tree of so many files.
    pub(crate) fn new(store: &'a Store, plan: &'a Plan, total: usize) -> Result<Self, CliError> {
        let ledger = Reader::open(&plan.ledger()).map_err(CliError::while_trying("open the ledger"))?;
        Ok(Self {
            store,
            plan,
            client: store.client(),
            ledger,
            progress: Progress::new(total),
            total,
            alive: (Instant::now(), 0),
        })
    }

    /// Plays it.
    pub(crate) async fn play(mut self) -> Result<Report, CliError> {
        self.client.start_orchestration(job::ROOT, job::MANIFEST, "").await?;
        let kill = self.first_act().await?;
        let (successor, sealed) = self.second_act().await?;
        self.progress.stage("comparing");
        self.poll()?;
        let after = Snapshot::take(self.store.provider.as_ref()).await?;
        let dir = self.plan.dir.clone();
        let computed = tokio::task::spawn_blocking(move || manifest::compute(&dir))
            .await
            .map_err(|error| CliError::Refused(error.to_string()))?
            .map_err(|error| CliError::Refused(error.to_string()))?;
        let written = fs::read_to_string(self.plan.manifest()).map_err(CliError::while_trying("read the manifest"))?;
        let verdict = verdict::judge(&Evidence {
            entries: self.ledger.entries(),
            killed: kill.pid,
            successor,
            killed_at_ms: kill.at_ms,
            pause_ms: PAUSE_MS + 2 * self.plan.pace_ms,
            completed_at_kill: &kill.snapshot.completed,
        });
        let findings = Findings {
            before: &kill.snapshot,
            after: &after,
            sealed: &sealed,
            written: &written,
            computed: &computed,
        };
        let directory = self.plan.dir.display().to_string();
        Ok(Report::new(directory, self.plan.place.describe(), verdict, &findings))
    }

    /// The first worker, until it is dead.
    async fn first_act(&mut self) -> Result<Kill, CliError> {
        let mut worker = Worker::start(self.plan, 1)?;
        let pid = worker.pid();
        self.progress.stage("first worker");
        self.progress.note(&format!("worker 1 is process {pid}"));
        let enough = (self.total * KILL_AT).div_ceil(100);
        while self.ledger.ended(job::HASH_FILE) < enough {
            sleep(WATCH).await;
            self.poll()?;
            worker.require_alive()?;
        }
        let at_ms = clock::now_ms();
        worker.kill().await?;
        self.poll()?;
        let done = self.ledger.ended(job::HASH_FILE);
        self.progress.note(&format!(
            "killed process {pid} (SIGKILL) when {done} of {} files were hashed",
            self.total
        ));
        if done >= self.total {
            let hint = "the worker was done before it could be killed; slow it down: --pace-ms";
            return Err(CliError::Refused(hint.to_owned()));
        }
        let snapshot = Snapshot::take(self.store.provider.as_ref()).await?;
        Ok(Kill { pid, at_ms, snapshot })
    }

    /// The second worker, until the job is done.
    async fn second_act(&mut self) -> Result<(u32, Sealed), CliError> {
        let mut worker = Worker::start(self.plan, 2)?;
        let pid = worker.pid();
        self.progress.stage("second worker");
        self.progress.note(&format!(
            "worker 2 is process {pid}; leases of the dead one end by themselves"
        ));
        while !self.is_waiting().await? {
            sleep(LOOK).await;
            self.poll()?;
            worker.require_alive()?;
        }
        self.progress.stage("released");
        self.progress
            .note(&format!("all files are hashed; sending the event `{}`", job::RELEASE));
        self.client.raise_event(job::ROOT, job::RELEASE, "null").await?;
        let status = self.client.wait_for_orchestration(job::ROOT, SEALED_WITHIN).await?;
        worker.stop().await;
        let sealed = match status {
            OrchestrationStatus::Completed { output, .. } => serde_json::from_str(&output).ok(),
            _ => None,
        };
        match sealed {
            Some(sealed) => Ok((pid, sealed)),
            None => Err(self.failure().await?),
        }
    }

    /// Whether the root instance waits for the event; an error when it has failed.
    async fn is_waiting(&self) -> Result<bool, CliError> {
        match self.store.provider.instance(job::ROOT).await? {
            Some(detail) if detail.summary.status == "Running" => {
                Ok(detail.custom_status.as_deref() == Some(job::WAITING))
            }
            Some(_) => Err(self.failure().await?),
            None => Ok(false),
        }
    }

    /// Why the root instance did not complete.
    async fn failure(&self) -> Result<CliError, CliError> {
        let detail = self.store.provider.instance(job::ROOT).await?;
        let output = detail.and_then(|detail| detail.output).unwrap_or_default();
        let text = format!("the job did not complete: {}", crate::error::one_line(&output));
        Ok(CliError::Refused(text))
    }

    /// Reads the ledger on, and shows where we are.
    fn poll(&mut self) -> Result<(), CliError> {
        self.ledger.poll().map_err(CliError::while_trying("read the ledger"))?;
        self.progress.set(self.ledger.ended(job::HASH_FILE));
        let lines = self.ledger.entries().len();
        if lines > self.alive.1 {
            self.alive = (Instant::now(), lines);
        } else if self.alive.0.elapsed() > STALLED {
            let seconds = STALLED.as_secs();
            return Err(CliError::Refused(format!("the worker did nothing for {seconds} s")));
        }
        Ok(())
    }
}
