//! What breaks the existing PostgreSQL providers, one test for each way: they hold the numbers of the list of defects
//! that the project started from.

mod administration;
pub(crate) mod cost;
mod leases;
mod names;
mod opening;
mod payloads;
mod trouble;
