//! The PostgreSQL engine.
//!
//! Invariant: this module only says what there is; each room below says what it does.

mod admin;
mod builder;
mod connection;
mod connector;
mod errand;
mod error;
mod exchange;
mod feed;
mod fetch_lane;
mod floor;
mod guard;
mod hint;
mod inspect;
mod lane;
mod listen;
mod op;
mod params;
mod pool;
mod provider;
mod rights;
mod schema;
mod store;
pub mod target;
pub mod tls;
mod vouched;

pub use crate::catalogue::{Finding, FindingKind, Repair};
pub use crate::inspect::{InstanceDetail, InstanceQuery, InstanceSummary, QueueReport};
pub use builder::{Builder, DEFAULT_POOL_SIZE, DEFAULT_SCHEMA, LongPoll, Migrations, OpenError, OpenErrorKind};
pub use connector::PasswordProvider;
pub use inspect::Health;
pub use listen::ListenerState;
pub use provider::PostgresProvider;
pub use rights::Access;
pub use schema::schema_sql;
