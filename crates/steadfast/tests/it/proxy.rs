//! The proxy between a test and PostgreSQL, for all rooms, and its own tests.

mod tests;

pub(crate) use faulty_proxy::{Fault, Proxy, Sprung};
