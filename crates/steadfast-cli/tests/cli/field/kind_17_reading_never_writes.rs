//! Kind 17: Read verbs make no store, and need no write permission.
