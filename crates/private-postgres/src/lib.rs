//! A private, throwaway PostgreSQL cluster: one server, one data folder, one owner.
//!
//! [`Binaries`] finds the server programs (or installs Debian's package), [`Cluster`] runs them. The invariant of the
//! crate: **a cluster never outlives its owner**. Dropping it stops the server and removes its folders; where the owner
//! is killed, the kernel stops the server (on Linux, with util-linux's `setpriv`), and the next cluster that is made
//! beside it removes the folders.
//!
//! ```no_run
//! use private_postgres::{Cluster, Options};
//!
//! let cluster = Cluster::start(Options::under("target/postgres"))?;
//! println!("{}", cluster.url());
//! # Ok::<(), private_postgres::Error>(())
//! ```
//!
//! A `Cluster` in a `static` is never dropped: its server stops with the process, its folders stay until the next one.
//! The server trusts every local connection, so it is for tests and measurements, not for data.

mod account;
mod binaries;
mod cluster;
mod error;
mod home;
mod install;
mod keeper;
mod options;
mod pgbouncer;
mod server;

pub use account::server_can_reach;
pub use binaries::{Binaries, NEWEST_MAJOR, OLDEST_MAJOR};
pub use cluster::Cluster;
pub use error::Error;
pub use options::Options;
pub use pgbouncer::{PgBouncer, PgBouncerOptions, PoolMode};
