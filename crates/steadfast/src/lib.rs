//! Steadfast keeps what durable workflows promise: a storage engine for [`duroxide`], on PostgreSQL.
//!
//! duroxide replays orchestrations; Steadfast keeps their histories, queues, leases, timers, sessions and key-values,
//! and wakes whoever must work. See the README for guarantees and limits, `ARCHITECTURE.md` for the code.

#[cfg(feature = "postgres")]
mod background;
#[cfg(any(feature = "postgres", feature = "embedded"))]
mod batch;
#[cfg(any(feature = "postgres", feature = "embedded"))]
pub mod catalogue;
#[cfg(feature = "embedded")]
pub mod embedded;
pub mod fault;
#[cfg(any(feature = "postgres", feature = "embedded"))]
pub mod feed;
#[cfg(any(feature = "postgres", feature = "embedded"))]
mod group;
#[cfg(any(feature = "postgres", feature = "embedded"))]
mod history_cache;
pub mod inspect;
mod item;
mod limit;
#[cfg(any(feature = "postgres", feature = "embedded"))]
mod mailbox;
#[cfg(any(feature = "postgres", feature = "embedded"))]
mod pending;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "postgres", feature = "embedded"))]
mod refusal;
#[cfg(any(feature = "postgres", feature = "embedded"))]
mod refused;
#[cfg(any(feature = "postgres", feature = "embedded"))]
mod sessions;
mod spent;
#[cfg(any(feature = "postgres", feature = "embedded"))]
mod token;
pub mod transfer;
#[cfg(feature = "postgres")]
mod trouble;
#[cfg(any(feature = "postgres", feature = "embedded"))]
mod turn;
#[cfg(any(feature = "postgres", feature = "embedded"))]
mod wake;

/// The README's example compiles.
#[cfg(all(doctest, feature = "postgres"))]
#[doc = include_str!("../../../README.md")]
pub struct Readme;

pub use item::{ItemError, MAX_INSTANCE_ID_BYTES};
pub use limit::{DEFAULT_HISTORY_LIMIT, DEFAULT_PAYLOAD_LIMIT, MAX_PAYLOAD_LIMIT};
