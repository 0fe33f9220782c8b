//! Several processes on one schema, and what happens when one of them, a connection or the server itself is gone.

#![allow(clippy::print_stdout, reason = "a test that fails tells its seeds and counts")]

mod child;
mod idle;
mod leases;
mod load;
mod wake;
