//! Kind 2: Trouble that an administrator can mend fails no workflow.
//!
//! The roles are the documented ones, attempts and leases are production's unless a test is about them. What is broken is
//! found in the catalogue by the name of the `Provider` method that needs it, or is every object of its kind.

#![allow(clippy::print_stdout, reason = "the field's figures, repeated")]

mod embedded;
mod renewal;
mod rights;
mod under_load;
