//! Locks: their order, who waits for whom, what the planner does without statistics, and what a shutdown leaves.

#![allow(
    clippy::print_stdout,
    reason = "seeds and page counts, for whoever reads a test's output"
)]

mod busy;
mod crowd;
pub(crate) mod dice;
mod explain;
mod order;
mod plans;
#[cfg(feature = "fault-injection")]
mod shutdown;

/// Held by tests that keep a core busy for long.
static HEAVY: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
