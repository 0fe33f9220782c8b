//! One claim: what identifies it, and what it brought.
//!
//! Invariant: the terms are fixed before the claim is sent, so that whoever asks again asks for the same.

use std::time::Duration;

use uuid::Uuid;

use crate::history_cache::random_id;

/// Identity of one claim, fixed before it is sent.
pub(crate) struct ClaimTerms {
    pub(crate) batch_id: Uuid,
    /// Marks what it takes: the fence of the tokens.
    pub(crate) claim: i64,
    /// Of a claim of what a call makes, and nothing else.
    pub(crate) direct: bool,
    /// Somebody may not wait for another look: this one begins at the beginning.
    pub(crate) whole: bool,
}

impl ClaimTerms {
    pub(super) fn new(direct: bool) -> Self {
        Self {
            batch_id: Uuid::new_v4(),
            claim: random_id(),
            direct,
            whole: false,
        }
    }
}

/// What a claim brought.
pub(crate) struct Claimed<I> {
    pub(crate) items: Vec<(Option<usize>, I)>,
    /// Something is held by somebody else for a moment.
    pub(crate) busy: bool,
    pub(crate) next_due: Option<Duration>,
}

impl<I> Claimed<I> {
    /// There may be more than was looked at, which a look so much later finds.
    pub(crate) fn look_again(&mut self, later: Option<Duration>) {
        if let Some(later) = later {
            self.next_due = Some(self.next_due.map_or(later, |due| due.min(later)));
        }
    }

    /// Nothing was looked at: worth another look.
    pub(super) fn again() -> Self {
        Self {
            items: Vec::new(),
            busy: true,
            next_due: None,
        }
    }
}
