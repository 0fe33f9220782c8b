//! What a store refuses for good, whichever engine keeps it.
//!
//! Invariant: the words "Invalid lock token" are what the framework looks for.

/// An operation was refused by the store, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("Invalid lock token")]
    InvalidToken,
    #[error("Invalid lock token: its lease has ended")]
    LeaseEnded,
    #[error("an event with this id exists already")]
    DuplicateEvent,
}
