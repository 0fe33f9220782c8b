//! Steadfast keeps what durable workflows promise: a storage engine for [`duroxide`], on PostgreSQL.
//!
//! duroxide replays orchestrations; Steadfast keeps their histories, queues, leases, timers, sessions and key-values,
//! and wakes whoever must work. See the README for guarantees and limits, `ARCHITECTURE.md` for the code.

#[cfg(feature = "postgres")]
mod batch;
pub mod fault;
#[cfg(feature = "postgres")]
mod history_cache;
mod item;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "postgres")]
mod token;
#[cfg(feature = "postgres")]
mod wake;

/// The README's example compiles.
#[cfg(all(doctest, feature = "postgres"))]
#[doc = include_str!("../../../README.md")]
pub struct Readme;

pub use item::{ItemError, MAX_INSTANCE_ID_BYTES};
