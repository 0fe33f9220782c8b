//! Suite: faults cease, no input comes, and everything comes to rest.
