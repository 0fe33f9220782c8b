//! Kind 20: The command works behind a pooler.
