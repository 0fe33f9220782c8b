//! What the measuring process and a measured one say to each other: one JSON object a line.
//!
//! Invariant: an order gets exactly one answer; what fails is an answer with its reason, never a silent end.

use serde::{Deserialize, Serialize};

/// What the measured process should do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Order {
    /// Opens the store and starts a runtime on it.
    Open {
        /// Server URL, or path of a file.
        store: String,
        /// Schema of its own; a file has none.
        schema: String,
        /// Orchestration slots, and as many activity slots.
        slots: usize,
        /// Runs a few orchestrations first, so that connections are open and statements prepared.
        warm_up: bool,
    },
    /// Runs a workload.
    Run(Task),
    /// Stops the runtime and ends.
    Close,
}

/// What it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Answer {
    /// Open, and so many activities were run to warm up.
    Ready {
        /// Activities of the warm-up.
        activities: u64,
    },
    /// Done.
    Done(Measure),
    /// It could not be done.
    Failed {
        /// Why.
        reason: String,
    },
    /// Stopped.
    Closed,
}

/// A workload and its size.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// What is run.
    pub scenario: Scenario,
    /// How many instances.
    pub count: usize,
}

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// Five activities at once, `payload` bytes in and out of each.
    FanOut {
        /// Bytes.
        payload: usize,
    },
    /// So many activities, one after the other.
    Chain {
        /// Activities.
        steps: usize,
    },
    /// A parent with so many children of one activity each.
    Tree {
        /// Children.
        children: usize,
    },
    /// A timer per instance, all due at the same moment.
    Timers,
    /// A signal per waiting instance, all sent at once.
    Signals,
    /// One chain of three after the other on an otherwise idle store: from start to the commit that completes it.
    Latency {
        /// Another process may complete it: the end is seen by asking for the status every 2 ms.
        elsewhere: bool,
    },
    /// duroxide's own stress test "parallel orchestrations".
    UpstreamParallel,
    /// duroxide's own stress test "large payload".
    UpstreamLarge,
}

/// What it took.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Measure {
    /// Instances that ended with the right result.
    pub instances: u64,
    /// Activities that they ran.
    pub activities: u64,
    /// From the first start (timers: from when they were due; signals: from the first signal) to the last result.
    pub seconds: f64,
    /// CPU time of this process meanwhile, all threads.
    pub cpu_seconds: f64,
    /// Start to completion of each instance, microseconds; only where that is what is measured.
    pub latencies_us: Vec<u64>,
}
