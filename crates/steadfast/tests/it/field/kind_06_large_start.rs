//! Kind 6: What is too large is refused at the door, and what is stuck can be removed.
