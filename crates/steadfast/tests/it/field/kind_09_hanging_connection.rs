//! Kind 9: A connection attempt that hangs is not the calls' business.
