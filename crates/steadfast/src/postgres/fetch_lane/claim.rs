//! One claim: what identifies it, and what it brought.
//!
//! Invariant: the terms are fixed before the claim is sent, so that whoever asks again asks for the same.

use std::sync::OnceLock;
use std::time::Duration;

use uuid::Uuid;

use crate::token::new_claim;

/// Identity of one claim, fixed before it is sent.
#[derive(Clone)]
pub(crate) struct ClaimTerms {
    pub(crate) batch_id: Uuid,
    /// Marks what it takes: the fence of the tokens.
    pub(crate) claim: i64,
    /// It looks at the queue; not so a claim of just what a call makes, and one that only asks what was claimed.
    pub(crate) looks: bool,
    /// Somebody may not wait for another look: this one begins at the beginning.
    pub(crate) whole: bool,
    /// Where it begins, if not there.
    pub(crate) since_us: OnceLock<i64>,
}

impl ClaimTerms {
    pub(super) fn new(looks: bool) -> Self {
        Self {
            batch_id: Uuid::new_v4(),
            claim: new_claim(),
            looks,
            whole: false,
            since_us: OnceLock::new(),
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
