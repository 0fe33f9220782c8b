//! Operations under trouble: calls whose outcome is unknown, and what breaks the existing providers.

#![allow(clippy::print_stdout, reason = "a test that fails tells its seeds and counts")]

mod defects;
mod direct;
mod doubt;
mod floor;
pub(crate) mod gate;
mod returning;
pub(crate) mod scene;
