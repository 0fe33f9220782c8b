//! Kind 8: A process that writes and closes leaves nobody waiting.
