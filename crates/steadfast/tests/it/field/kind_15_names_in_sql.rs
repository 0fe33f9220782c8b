//! Kind 15: Nothing unquoted reaches SQL text.
