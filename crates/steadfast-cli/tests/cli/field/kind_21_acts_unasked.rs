//! Kind 21: No verb acts on what it was not given, or more than it was asked for.
