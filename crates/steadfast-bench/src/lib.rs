//! The part of the bench that a measured process runs: the workloads, the protocol with whoever measures, and an
//! in-memory provider that shows the runtime's own ceiling.
//!
//! Invariant: nothing here knows which provider it drives; every contender runs exactly this code.

pub mod child;
pub mod memory;
pub mod observed;
pub mod protocol;
pub mod scenario;
