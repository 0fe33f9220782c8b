//! The nemesis: what is done to the processes, the lines and the server while they work.
//!
//! Invariant: every action and its length is drawn from the seed; whatever was done is undone by [`Nemesis::heal`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use fastrand::Rng;
use faulty_proxy::Fault;
use tokio_postgres::Client;

use super::crew::{Member, Role};
use super::ledger::{Fact, Ledger};
use super::place::Inner;
use super::server::Server;
use super::worker::Word;

/// What can be done, how often, and where: `S` needs a server, `O` one of our own, `F` the feature `faults`.
const ACTIONS: [(Action, usize, &str); 21] = [
    (Action::Kill, 8, ""),
    (Action::Pause, 6, ""),
    (Action::Burst, 2, ""),
    (Action::Clock, 3, "F"),
    (Action::LoseHints, 2, "SF"),
    (Action::Terminate, 4, "S"),
    (Action::StopImmediate, 3, "SO"),
    (Action::StopFast, 1, "SO"),
    (Action::Exhaust, 2, "SO"),
    (Action::Cut, 4, "S"),
    (Action::Refuse, 2, "S"),
    (Action::Delay, 4, "S"),
    (Action::Freeze, 3, "S"),
    (Action::HalfClose, 3, "S"),
    (Action::DeadListener, 3, "S"),
    (Action::DropRequest, 4, "S"),
    (Action::DropAnswer, 6, "S"),
    (Action::CutMidway, 6, "S"),
    (Action::Hurry, 2, "SO"),
    (Action::Hold, 3, "S"),
    (Action::DropListener, 1, "SF"),
];

/// Calls around whose commit a line is cut.
const CALLS: [&str; 8] = [
    ".sf_ack_orchestration_item(",
    ".sf_ack_work_item(",
    ".sf_fetch_orchestration_item(",
    ".sf_fetch_work_item(",
    ".sf_enqueue_for_orchestrator(",
    ".sf_renew_work_item_lock(",
    ".sf_abandon_work_item(",
    ".sf_delete_instances(",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Pause,
    Burst,
    Clock,
    LoseHints,
    DropListener,
    Terminate,
    StopImmediate,
    StopFast,
    Exhaust,
    Cut,
    Refuse,
    Delay,
    Freeze,
    HalfClose,
    DeadListener,
    DropRequest,
    DropAnswer,
    CutMidway,
    Hurry,
    Hold,
}

impl Action {
    /// In words, for the report.
    fn words(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of a process",
            Self::Pause => "pause of a process (SIGSTOP)",
            Self::Burst => "backlog burst",
            Self::Clock => "clock of a process wrong by minutes",
            Self::LoseHints => "hints lost",
            Self::DropListener => "listener's connection broken",
            Self::Terminate => "backends terminated",
            Self::StopImmediate => "server stopped (immediate) and started",
            Self::StopFast => "server stopped (fast) and started",
            Self::Exhaust => "connections exhausted",
            Self::Cut => "lines cut",
            Self::Refuse => "lines cut and new ones refused",
            Self::Delay => "lines delayed",
            Self::Freeze => "lines silently dead",
            Self::HalfClose => "lines half closed",
            Self::DeadListener => "listener's line silently dead",
            Self::DropRequest => "cut before a commit",
            Self::DropAnswer => "cut after a commit, answer lost",
            Self::CutMidway => "cut during a commit",
            Self::Hurry => "statement and lock timeouts of 40 ms",
            Self::Hold => "transaction held open over locked instances",
        }
    }
}

/// What undoes an action.
enum Cure {
    Start(usize),
    Resume(usize),
    Line(usize),
    Word(usize, Word),
    Server,
    Calm,
    Release(#[allow(dead_code, reason = "held until dropped")] Vec<Client>),
}

/// The nemesis of a run.
pub(crate) struct Nemesis {
    dice: Rng,
    cures: Vec<(Instant, Cure)>,
    next: Instant,
    server_down: bool,
    /// How often each was done.
    pub(crate) done: BTreeMap<&'static str, usize>,
}

impl Nemesis {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            dice: Rng::with_seed(seed),
            cures: Vec::new(),
            next: Instant::now(),
            server_down: false,
            done: BTreeMap::new(),
        }
    }

    /// Undoes what has lasted long enough, and does something new when it is time.
    pub(crate) async fn act(&mut self, crew: &mut [Member], server: Option<&Server>, ledger: &Ledger) -> Result<()> {
        self.cure(crew, server, Instant::now()).await?;
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next = Instant::now() + Duration::from_millis(self.dice.u64(300..2_500));
        let possible = |needs: &str| {
            (!needs.contains('S') || server.is_some())
                && (!needs.contains('O') || server.is_some_and(Server::is_ours))
                && (!needs.contains('F') || cfg!(feature = "faults"))
        };
        let actions: Vec<_> = ACTIONS.iter().filter(|(.., needs)| possible(needs)).collect();
        let mut ball = self
            .dice
            .usize(..actions.iter().map(|(_, weight, _)| *weight).sum::<usize>());
        for (action, weight, _) in actions {
            match ball.checked_sub(*weight) {
                Some(rest) => ball = rest,
                None => return self.perform(*action, crew, server, ledger).await,
            }
        }
        Ok(())
    }

    async fn perform(
        &mut self,
        action: Action,
        crew: &mut [Member],
        server: Option<&Server>,
        ledger: &Ledger,
    ) -> Result<()> {
        let victim = self.dice.usize(..crew.len());
        let lasts = Duration::from_millis(self.dice.u64(500..8_000));
        let performed = match action {
            Action::Kill | Action::Pause | Action::Burst | Action::Clock | Action::LoseHints | Action::DropListener => {
                self.strike_process(action, crew, victim, lasts, ledger).await?
            }
            Action::Terminate
            | Action::StopImmediate
            | Action::StopFast
            | Action::Exhaust
            | Action::Hurry
            | Action::Hold => match server.filter(|_| !self.server_down) {
                Some(server) => self.strike_server(action, server, lasts, ledger).await,
                None => false,
            },
            _ => self.strike_line(action, crew, victim, lasts, ledger),
        };
        if performed {
            *self.done.entry(action.words()).or_default() += 1;
        }
        Ok(())
    }

    async fn strike_process(
        &mut self,
        action: Action,
        crew: &mut [Member],
        victim: usize,
        lasts: Duration,
        ledger: &Ledger,
    ) -> Result<bool> {
        let Some(member) = crew.get_mut(victim) else {
            return Ok(false);
        };
        let Some(process) = member.active() else {
            return Ok(false);
        };
        match action {
            Action::Kill => {
                ledger.note(Fact::Killed { process });
                member.kill().await?;
                self.later(lasts / 4, Cure::Start(victim));
            }
            Action::Pause => {
                // Often longer than a lease.
                let lasts = lasts + lasts / 2;
                ledger.note(Fact::Paused {
                    process,
                    pause_ms: millis(lasts),
                });
                member.pause()?;
                self.later(lasts, Cure::Resume(victim));
            }
            Action::Burst if member.role == Role::Client => {
                let count = self.dice.usize(40..200);
                member.say(&Word::Burst(count)).await?;
            }
            Action::Burst => return Ok(false),
            Action::Clock => {
                // One way it delays the process's own timers by as much, and the run waits for them: only a little. That is
                // forward where the store takes a timer's time as it is given, and backward where it takes what is left until
                // then (the framework's clock is not shifted along).
                let little = self.dice.bool();
                let skew_ms = if little {
                    20_000
                } else {
                    -self.dice.i64(60_000..300_000)
                };
                let skew_ms = if member.proxy.is_some() { skew_ms } else { -skew_ms };
                member.say(&Word::Inner(Inner::SkewMs(skew_ms))).await?;
                self.later(lasts * 2, Cure::Word(victim, Word::Inner(Inner::SkewMs(0))));
            }
            Action::LoseHints => {
                member.say(&Word::Inner(Inner::LoseHints(true))).await?;
                self.later(lasts * 2, Cure::Word(victim, Word::Inner(Inner::LoseHints(false))));
            }
            _ => member.say(&Word::Inner(Inner::DropListener)).await?,
        }
        Ok(true)
    }

    fn strike_line(
        &mut self,
        action: Action,
        crew: &[Member],
        victim: usize,
        lasts: Duration,
        ledger: &Ledger,
    ) -> bool {
        let Some(member) = crew.get(victim) else { return false };
        let (Some(process), Some(proxy)) = (member.active(), &member.proxy) else {
            return false;
        };
        let mut lasting = lasts;
        match action {
            Action::Cut => proxy.cut(),
            Action::Refuse => {
                proxy.refuse();
                proxy.cut();
            }
            Action::Delay => proxy.delay(Duration::from_millis(self.dice.u64(5..300))),
            Action::Freeze => proxy.freeze(),
            Action::HalfClose => proxy.half_close(),
            Action::DeadListener => {
                lasting = lasts * 3;
                proxy.freeze_listeners();
            }
            _ => {
                let fault = match action {
                    Action::DropRequest => Fault::DropRequest,
                    Action::DropAnswer => Fault::DropAnswer,
                    _ => Fault::CutMidway,
                };
                let call = self.dice.choice(CALLS).unwrap_or_default();
                drop(proxy.once(call, fault));
            }
        }
        if action != Action::DeadListener {
            let what = action.words().to_owned();
            ledger.note(Fact::Trouble {
                what,
                process: Some(process),
                lasts_ms: millis(lasting),
            });
        }
        self.later(lasting, Cure::Line(victim));
        true
    }

    async fn strike_server(&mut self, action: Action, server: &Server, lasts: Duration, ledger: &Ledger) -> bool {
        let trouble = |lasts: Duration| {
            let what = action.words().to_owned();
            ledger.note(Fact::Trouble {
                what,
                process: None,
                lasts_ms: millis(lasts),
            });
        };
        match action {
            Action::Terminate => {
                trouble(Duration::ZERO);
                server.terminate().await.is_ok()
            }
            Action::StopImmediate | Action::StopFast => {
                let down = lasts / 4;
                trouble(down + Duration::from_secs(2));
                self.server_down = server.stop(action == Action::StopImmediate).await.is_ok();
                self.later(down, Cure::Server);
                true
            }
            Action::Exhaust => {
                trouble(lasts);
                let taken = server.exhaust().await;
                self.later(lasts, Cure::Release(taken));
                true
            }
            Action::Hurry => {
                trouble(lasts);
                // Even half of it must be undone.
                let done = server.hurry(true).await.is_ok();
                self.later(lasts, Cure::Calm);
                done
            }
            _ => match server.hold().await {
                Ok(client) => {
                    trouble(lasts * 2);
                    self.later(lasts * 2, Cure::Release(vec![client]));
                    true
                }
                Err(_) => false,
            },
        }
    }

    fn later(&mut self, lasts: Duration, cure: Cure) {
        self.cures.push((Instant::now() + lasts, cure));
    }

    async fn cure(&mut self, crew: &mut [Member], server: Option<&Server>, until: Instant) -> Result<()> {
        let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.cures)
            .into_iter()
            .partition(|(at, _)| *at <= until);
        self.cures = rest;
        for (_, cure) in due {
            match cure {
                Cure::Start(victim) => crew.get_mut(victim).map_or(Ok(()), Member::start)?,
                Cure::Resume(victim) => crew.get_mut(victim).map_or(Ok(()), Member::resume)?,
                Cure::Line(victim) => crew.get(victim).into_iter().for_each(Member::heal_line),
                Cure::Word(victim, word) => {
                    if let Some(member) = crew.get_mut(victim) {
                        member.say(&word).await?;
                    }
                }
                Cure::Server => {
                    if let Some(server) = server {
                        server.start().await?;
                        self.server_down = false;
                    }
                }
                Cure::Calm => {
                    if let Some(server) = server.filter(|_| !self.server_down)
                        && server.hurry(false).await.is_ok()
                    {
                        continue;
                    }
                    // The server is down or full: again, soon.
                    self.later(Duration::from_millis(500), Cure::Calm);
                }
                Cure::Release(held) => drop(held),
            }
        }
        Ok(())
    }

    /// Undoes everything.
    pub(crate) async fn heal(&mut self, crew: &mut [Member], server: Option<&Server>) -> Result<()> {
        let mut tries = 0;
        while !self.cures.is_empty() && tries < 100 {
            self.cure(crew, server, Instant::now() + Duration::from_secs(3_600))
                .await?;
            tries += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        crew.iter().for_each(Member::heal_line);
        for member in crew.iter_mut() {
            member.say(&Word::Inner(Inner::SkewMs(0))).await?;
            member.say(&Word::Inner(Inner::LoseHints(false))).await?;
        }
        Ok(())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
