//! Ctrl-C and its like; the invariant: no signal ends us before our child has ended and the server is removed.
//!
//! At a terminal the child shares our process group, so that it may read from the terminal, which sends it Ctrl-C itself.
//! Elsewhere it leads a group of its own, and a signal for us is handed on to all of it: to cargo and to its test binary.

use std::{
    io::IsTerminal,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// Catches signals from its making to the end of the process.
#[derive(Clone)]
pub(crate) struct Guard(Arc<Shared>);

struct Shared {
    asked_to_stop: AtomicBool,
    /// Held locked while the child is started, so that no signal falls between its start and its being known.
    child: Mutex<Option<Pid>>,
}

impl Guard {
    /// Starts catching.
    pub(crate) fn install() -> Result<Self> {
        let shared = Arc::new(Shared {
            asked_to_stop: AtomicBool::new(false),
            child: Mutex::new(None),
        });
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot catch signals")?;
        let heard = Arc::clone(&shared);
        thread::spawn(move || {
            for signal in signals.forever() {
                heard.asked_to_stop.store(true, Ordering::SeqCst);
                let at_terminal = std::io::stdin().is_terminal();
                if let Some(child) = *heard.child.lock().unwrap_or_else(PoisonError::into_inner) {
                    // It may have ended just now, so errors say nothing.
                    let _ = match signal {
                        SIGINT if at_terminal => Ok(()),
                        SIGINT => killpg(child, Signal::SIGINT),
                        _ if at_terminal => kill(child, Signal::SIGTERM),
                        _ => killpg(child, Signal::SIGTERM),
                    };
                }
            }
        });
        Ok(Self(shared))
    }

    /// Whether a signal came.
    pub(crate) fn asked_to_stop(&self) -> bool {
        self.0.asked_to_stop.load(Ordering::SeqCst)
    }

    /// Fails if a signal came.
    pub(crate) fn go_on(&self) -> Result<()> {
        if self.asked_to_stop() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Starts the child that signals are handed on to.
    pub(crate) fn start(&self, command: &mut Command) -> Result<Child> {
        let mut known = self.0.child.lock().unwrap_or_else(PoisonError::into_inner);
        self.go_on()?;
        if !std::io::stdin().is_terminal() {
            command.process_group(0);
        }
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        *known = i32::try_from(child.id()).ok().map(Pid::from_raw);
        Ok(child)
    }

    /// Waits for that child.
    pub(crate) fn wait(&self, child: &mut Child) -> Result<ExitStatus> {
        let status = child.wait().context("cannot wait for the command")?;
        *self.0.child.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(status)
    }
}
