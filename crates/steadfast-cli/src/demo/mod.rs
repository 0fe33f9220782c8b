//! The demo: a SHA-256 manifest of a folder tree as a durable job, whose worker is killed half-way.
//!
//! Invariant: nothing of it is staged. The job reads real files, the worker is a process of its own that dies by SIGKILL,
//! and every claim at the end is checked against the ledger, the store and an independent computation.

pub(crate) mod job;
pub(crate) mod ledger;
pub(crate) mod manifest;
pub(crate) mod process;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod snapshot;
pub(crate) mod stage;
pub(crate) mod tree;
pub(crate) mod verdict;
pub(crate) mod worker;
