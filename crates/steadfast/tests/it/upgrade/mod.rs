//! Installing, verifying, upgrading and removing the schema: who may find what, and what is left alone.

mod catalog;
mod gate;
mod install;
mod names;
pub(crate) mod place;
mod rights;
mod rolling;
