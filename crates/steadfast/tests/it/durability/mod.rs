//! What a file of the embedded engine survives: killed processes, lost power, wrong clocks, full disks, other writers.

#![allow(clippy::print_stdout, reason = "a test that fails tells its seeds and counts")]

mod clock;
mod kill;
mod opening;
mod power;
mod toil;
mod trouble;
