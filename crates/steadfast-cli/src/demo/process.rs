//! A worker as a child process: started, killed, or told to end.
//!
//! Invariant: it is gone when this is dropped (and when we are killed: its standard input ends then).

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::process::{Child, Command};

use crate::{error::CliError, store::Place};

/// How long a worker may take to end when told to.
const PATIENCE: Duration = Duration::from_secs(5);

/// What every worker of one demo is started with.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) place: Place,
    pub(crate) dir: PathBuf,
    /// Holds the ledger, the manifest and the workers' logs.
    pub(crate) desk: PathBuf,
    pub(crate) pace_ms: u64,
    pub(crate) slots: usize,
    pub(crate) lease_ms: u64,
}

impl Plan {
    pub(crate) fn ledger(&self) -> PathBuf {
        self.desk.join("ledger.txt")
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.desk.join("manifest.sha256")
    }

    fn log(&self, number: u32) -> PathBuf {
        self.desk.join(format!("worker-{number}.log"))
    }
}

/// A running worker.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    pid: u32,
    log: PathBuf,
}

impl Worker {
    /// Starts a worker: this executable once more.
    pub(crate) fn start(plan: &Plan, number: u32) -> Result<Self, CliError> {
        let program = std::env::current_exe().map_err(CliError::while_trying("find this executable"))?;
        let log = plan.log(number);
        let file = File::create(&log).map_err(CliError::while_trying(format!("write {}", log.display())))?;
        let copy = file.try_clone().map_err(CliError::while_trying("share the log"))?;
        let mut command = Command::new(program);
        match &plan.place {
            // Not as arguments: everybody on the machine can read those, and a URL may hold a password.
            Place::Database { url, schema, access } => command
                .env("DATABASE_URL", url)
                .env("STEADFAST_SCHEMA", schema)
                .env("STEADFAST_POOLER", access.pooler.name()),
            Place::File(path) => command
                .env_remove("DATABASE_URL")
                .args(["--file".as_ref(), path.as_os_str()]),
        };
        let child = command
            .arg("demo-worker")
            .args(["--pace-ms", &plan.pace_ms.to_string()])
            .args(["--slots", &plan.slots.to_string()])
            .args(["--lease-ms", &plan.lease_ms.to_string()])
            .args(["--dir".as_ref(), plan.dir.as_os_str()])
            .args(["--ledger".as_ref(), plan.ledger().as_os_str()])
            .args(["--manifest".as_ref(), plan.manifest().as_os_str()])
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(file)
            .stderr(copy)
            .kill_on_drop(true)
            .spawn()
            .map_err(CliError::while_trying("start the worker"))?;
        let pid = child.id().unwrap_or_default();
        Ok(Self { child, pid, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Fails when the worker has ended by itself.
    pub(crate) fn require_alive(&mut self) -> Result<(), CliError> {
        let status = self
            .child
            .try_wait()
            .map_err(CliError::while_trying("watch the worker"))?;
        status.map_or(Ok(()), |status| Err(self.ended(status)))
    }

    fn ended(&self, status: ExitStatus) -> CliError {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last = log
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("its log is empty");
        CliError::Refused(format!("the worker ended by itself ({status}): {}", last.trim()))
    }

    /// SIGKILL; returns when the process is gone.
    pub(crate) async fn kill(mut self) -> Result<(), CliError> {
        self.child
            .kill()
            .await
            .map_err(CliError::while_trying("kill the worker"))
    }

    /// Lets the worker finish what it has in hand, and end.
    pub(crate) async fn stop(mut self) {
        drop(self.child.stdin.take());
        if tokio::time::timeout(PATIENCE, self.child.wait()).await.is_err() {
            // It is dropped, and killed, next; there is nothing left to lose.
            let _ = self.child.kill().await;
        }
    }
}
