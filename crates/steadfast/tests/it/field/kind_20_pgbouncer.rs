//! Kind 20: Work runs behind a real PgBouncer in all three modes.
