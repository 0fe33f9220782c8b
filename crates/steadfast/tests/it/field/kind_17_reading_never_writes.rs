//! Kind 17: Reading never writes.
