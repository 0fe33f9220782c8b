//! Kind 18: A file knows its own log and refuses a stranger's.
