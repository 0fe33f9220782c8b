//! The processes of a run: started, killed, paused, spoken to.
//!
//! Invariant: no process outlives the run (they end with their standard input, and are killed when dropped); each has a
//! line of its own to the server.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use faulty_proxy::Proxy;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};

use super::place::{Place, Settings};
use super::worker::{ORDERS, Orders, Word};

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Worker,
    Client,
}

/// One member and its line.
pub(crate) struct Member {
    pub(crate) role: Role,
    orders: Orders,
    pub(crate) proxy: Option<Proxy>,
    living: Option<(Child, ChildStdin)>,
    paused: bool,
}

impl Member {
    /// A member that does not live yet. Its line to a server goes through a proxy.
    pub(crate) async fn new(role: Role, slot: usize, place: &Place, settings: Settings, plan: &Plan) -> Self {
        let (place, proxy) = match place {
            Place::Postgres { url, schema } => {
                let proxy = Proxy::start(url).await;
                let place = Place::Postgres {
                    url: proxy.url(url),
                    schema: schema.clone(),
                };
                (place, Some(proxy))
            }
            file => (file.clone(), None),
        };
        let orders = Orders {
            place,
            settings,
            dir: plan.dir.clone(),
            slot,
            life: 0,
            seed: plan.seed,
            rate: plan.rate,
        };
        Self {
            role,
            orders,
            proxy,
            living: None,
            paused: false,
        }
    }

    /// Starts it: this program once more.
    pub(crate) fn start(&mut self) -> Result<()> {
        let name = match self.role {
            Role::Worker => "chaos-worker",
            Role::Client => "chaos-client",
        };
        let log = self
            .orders
            .dir
            .join(format!("{name}-{}-{}.log", self.orders.slot, self.orders.life));
        let log = std::fs::File::create(&log).with_context(|| format!("writing {}", log.display()))?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(name)
            .env(ORDERS, serde_json::to_string(&self.orders)?)
            .env(
                "RUST_LOG",
                std::env::var("STEADFAST_CHAOS_LOG").unwrap_or_else(|_| "error".to_owned()),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let input = child.stdin.take().context("no input")?;
        self.orders.life += 1;
        self.living = Some((child, input));
        self.paused = false;
        Ok(())
    }

    /// Its process id, while it lives and is not paused.
    pub(crate) fn active(&self) -> Option<u32> {
        let (child, _) = self.living.as_ref().filter(|_| !self.paused)?;
        child.id()
    }

    pub(crate) fn name(&self) -> String {
        format!("{:?} {}", self.role, self.orders.slot).to_lowercase()
    }

    /// SIGKILL; returns when it is gone.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        if let Some((mut child, _)) = self.living.take() {
            child.kill().await?;
        }
        Ok(())
    }

    pub(crate) fn pause(&mut self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        self.paused = true;
        Ok(())
    }

    pub(crate) fn resume(&mut self) -> Result<()> {
        self.paused = false;
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.living.as_ref().and_then(|(child, _)| child.id());
        if let Some(id) = id {
            kill(Pid::from_raw(i32::try_from(id)?), signal)?;
        }
        Ok(())
    }

    /// Says a word to it; a process that is going cannot hear it.
    pub(crate) async fn say(&mut self, word: &Word) -> Result<()> {
        let mut line = serde_json::to_vec(word)?;
        line.push(b'\n');
        if let Some((_, input)) = &mut self.living {
            let _ = input.write_all(&line).await;
        }
        Ok(())
    }

    /// Waits until it ends by itself.
    pub(crate) async fn done(&mut self, within: Duration) -> Result<()> {
        let Some((child, _)) = &mut self.living else {
            return Ok(());
        };
        match tokio::time::timeout(within, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(_) => bail!("{} ended badly", self.name()),
            Err(_) => bail!("{} did not end within {within:?}", self.name()),
        }
    }

    /// Fails when it has ended without having been told to.
    pub(crate) fn require_alive(&mut self) -> Result<()> {
        let name = self.name();
        if let Some((child, _)) = &mut self.living
            && let Some(status) = child.try_wait()?
        {
            bail!("{name} ended by itself: {status}");
        }
        Ok(())
    }

    /// Lets it finish, and end.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        if let Some((mut child, input)) = self.living.take() {
            drop(input);
            if tokio::time::timeout(Duration::from_secs(15), child.wait())
                .await
                .is_err()
            {
                child.kill().await?;
            }
        }
        Ok(())
    }

    /// Nothing stands on its line any more.
    pub(crate) fn heal_line(&self) {
        if let Some(proxy) = &self.proxy {
            proxy.disarm();
            proxy.delay(Duration::ZERO);
            proxy.accept();
            proxy.thaw();
        }
    }
}

/// What every member is started with.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) dir: PathBuf,
    pub(crate) seed: u64,
    pub(crate) rate: f64,
}
