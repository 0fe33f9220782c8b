//! Kind 12: A role's statement_timeout fails no installation.
