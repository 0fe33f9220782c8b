//! Suite: every error, in production's configuration.

pub(crate) mod documented;
pub(crate) mod load;
