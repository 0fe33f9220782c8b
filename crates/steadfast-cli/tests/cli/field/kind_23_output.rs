//! Kind 23: Output is safe for a terminal, and errors name what to do next.
