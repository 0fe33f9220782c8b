//! Everything that is tested against a real PostgreSQL, as one binary: rooms by theme, one harness.
//!
//! Run it with `cargo xtask test`, which starts a private server and sets `DATABASE_URL`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and prints its seed"
)]

mod contract;
mod crash;
mod durability;
mod e2e;
mod feed;
mod field;
mod harness;
mod locks;
mod model;
mod op;
mod proxy;
mod routing;
mod upgrade;
