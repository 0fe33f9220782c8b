//! A measured process from the outside: starts it, gives it orders, makes sure that it ends.
//!
//! Invariant: a contender that dies, hangs or refuses is an error with its reason; no process outlives its handle.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use steadfast_bench::protocol::{Answer, Measure, Order, Task};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// A provider that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Steadfast on PostgreSQL.
    Steadfast,
    /// duroxide-pg 0.1.38.
    Pg,
    /// duroxide-pg-opt 0.1.28.
    PgOpt,
    /// Steadfast on an SQLite file.
    Embedded,
    /// duroxide's SQLite provider.
    Sqlite,
    /// Nothing is stored: the runtime's ceiling.
    Memory,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steadfast => "steadfast",
            Self::Pg => "pg",
            Self::PgOpt => "pg-opt",
            Self::Embedded => "embedded",
            Self::Sqlite => "sqlite",
            Self::Memory => "memory",
        }
    }

    /// Not ours: lives in the workspace `peers`.
    pub(crate) fn is_peer(self) -> bool {
        matches!(self, Self::Pg | Self::PgOpt | Self::Sqlite)
    }

    pub(crate) fn needs_server(self) -> bool {
        matches!(self, Self::Steadfast | Self::Pg | Self::PgOpt)
    }

    pub(crate) fn needs_file(self) -> bool {
        matches!(self, Self::Embedded | Self::Sqlite)
    }
}

/// Longest time that an order may take.
const PATIENCE: Duration = Duration::from_secs(360);

/// A running measured process.
pub(crate) struct Contender {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Contender {
    /// Starts a process for `kind`; `peers` is the program of the peers.
    pub(crate) fn start(kind: Kind, peers: Option<&Path>) -> Result<Self> {
        let program: PathBuf = if kind.is_peer() {
            peers.context("the peers were not built")?.to_owned()
        } else {
            std::env::current_exe()?
        };
        let mut command = Command::new(program);
        if !kind.is_peer() {
            command.arg("child");
        }
        let mut child = command
            .args(["--provider", kind.name()])
            .env("RUST_LOG", "off")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", kind.name()))?;
        let orders = child.stdin.take().context("no input")?;
        let answers = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Self { child, orders, answers })
    }

    /// Opens a store; returns how many activities the warm-up ran.
    pub(crate) async fn open(&mut self, store: &str, schema: &str, slots: usize, warm_up: bool) -> Result<u64> {
        let order = Order::Open {
            store: store.to_owned(),
            schema: schema.to_owned(),
            slots,
            warm_up,
        };
        match self.ask(&order).await? {
            Answer::Ready { activities } => Ok(activities),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    pub(crate) async fn run(&mut self, task: &Task) -> Result<Measure> {
        match self.ask(&Order::Run(task.clone())).await? {
            Answer::Done(measure) => Ok(measure),
            other => bail!("unexpected answer {other:?}"),
        }
    }

    pub(crate) async fn close(mut self) -> Result<()> {
        self.ask(&Order::Close).await?;
        let _ = tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await;
        Ok(())
    }

    async fn ask(&mut self, order: &Order) -> Result<Answer> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        self.orders.write_all(&line).await?;
        loop {
            let line = tokio::time::timeout(PATIENCE, self.answers.next_line())
                .await
                .context("it hangs")??
                .context("it died")?;
            // A provider may print something of its own.
            match serde_json::from_str(&line) {
                Ok(Answer::Failed { reason }) => bail!(reason),
                Ok(answer) => return Ok(answer),
                Err(_) if !line.starts_with('{') => {}
                Err(error) => return Err(error).context("not an answer"),
            }
        }
    }
}
