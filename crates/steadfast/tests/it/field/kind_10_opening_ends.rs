//! Kind 10: Every step of opening has a deadline.
