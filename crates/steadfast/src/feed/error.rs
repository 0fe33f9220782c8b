//! Why a feed cannot be read on.
//!
//! Invariant: a loss is named exactly; nothing is skipped without one of these.

use super::token::Token;

/// Why a feed cannot be read, or not from there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// What was wanted next has been trimmed away: the sequences behind `cursor` up to `first - 1` are gone. Go on with
    /// [`seek`](super::ChangePoller::seek)`(first - 1)`, knowing what was missed.
    #[error("events {} to {} have been trimmed; the feed begins at {first} and ends at {last}", cursor + 1, first - 1)]
    Trimmed {
        /// Where the reader stood.
        cursor: u64,
        /// The oldest sequence that is there (or the next one, if none is).
        first: u64,
        /// The last sequence.
        last: u64,
    },
    /// The cursor is behind the end: it belongs to another store, or to a later time of this one.
    #[error("the cursor {cursor} is behind the feed's end, {last}")]
    CursorAhead {
        /// Where the reader stood.
        cursor: u64,
        /// The last sequence.
        last: u64,
    },
    /// The store was made anew or restored since the token was given: its sequences mean something else now.
    #[error("the store was made anew or restored since {token} was given")]
    EpochMismatch {
        /// The token that no longer counts.
        token: Token,
    },
    /// The log has a hole, which must not be: somebody has changed it by hand.
    #[error("the feed is damaged: {0}")]
    Damaged(String),
    /// This source may only read: the file was opened so, the role lacks the right to write, or the server is read-only.
    #[error("the feed can only be read here: it was opened so, or the role or the server may not write")]
    ReadOnly,
    /// A cursor's name is empty, too long (512 bytes) or holds a NUL character.
    #[error("{0:?} cannot be a cursor's name")]
    CursorName(String),
    /// The store could not be asked; `retryable`: trouble that passes.
    #[error("{message}")]
    Store {
        /// Whether the same call may succeed later.
        retryable: bool,
        /// What the store said.
        message: String,
    },
}

impl FeedError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Store { retryable: true, .. })
    }
}
