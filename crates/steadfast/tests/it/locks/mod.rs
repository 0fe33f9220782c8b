//! Locks: their order, who waits for whom, what the planner does without statistics, and what a shutdown leaves.

#![allow(
    clippy::print_stdout,
    reason = "seeds and page counts, for whoever reads a test's output"
)]

mod busy;
mod crowd;
mod dice;
mod explain;
mod order;
mod plans;
#[cfg(feature = "fault-injection")]
mod shutdown;
