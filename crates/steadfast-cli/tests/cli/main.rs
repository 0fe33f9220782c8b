//! The `steadfast` command as a shell runs it: real processes, a real server, exit codes and both kinds of output.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test says so when it fails"
)]

mod commands;
mod feed;
mod field;
mod place;
