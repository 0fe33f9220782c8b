//! The embedded engine: one SQLite file, no server.
//!
//! Invariant: this module only says what there is; each room below says what it does.
//!
//! The feature `embedded` links SQLite's C library, which a program may do only once: it cannot stand beside duroxide's
//! own feature `sqlite`.

mod admin;
mod builder;
mod catalogue;
mod claim;
mod clock;
mod connection;
mod error;
mod feed;
mod fetch;
mod inspect;
mod job;
mod log;
mod look;
mod op;
mod presence;
mod provider;
mod reader;
mod schema;
mod store;
mod transaction;
mod waiting;
mod writer;

pub use crate::catalogue::{Finding, FindingKind, Repair};
pub use builder::{Builder, Durability, LongPoll, OpenError, OpenErrorKind};
pub use inspect::Health;
pub use provider::EmbeddedProvider;
pub use schema::schema_sql;
