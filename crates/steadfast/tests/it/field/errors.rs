//! Suite: every error, in production's configuration.
