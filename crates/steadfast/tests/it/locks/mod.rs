//! Locks: their order, who waits for whom, what the planner does without statistics, and what a shutdown leaves.

mod crowd;
mod explain;
mod plans;
