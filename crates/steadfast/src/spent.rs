//! Claims whose acks have come to nothing by trouble of the store.
//!
//! Invariant: such a token is not taken again: the framework would record a failure under it once the store is well. Its
//! item is given back with its attempt, or its lease ends.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::token::{TurnToken, WorkToken};

/// More than any process has in hand.
const REMEMBERED: NonZeroUsize = match NonZeroUsize::new(4096) {
    Some(n) => n,
    None => NonZeroUsize::MIN,
};

/// An item, and the claim under which it was handed out; one claim takes many items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Handed {
    item: i64,
    claim: i64,
}

impl From<TurnToken> for Handed {
    fn from(token: TurnToken) -> Self {
        Self {
            item: token.instance_key,
            claim: token.claim,
        }
    }
}

impl From<WorkToken> for Handed {
    fn from(token: WorkToken) -> Self {
        Self {
            item: token.work_id,
            claim: token.claim,
        }
    }
}

/// The newest of these claims.
#[derive(Debug)]
pub(crate) struct Spent(Mutex<LruCache<Handed, ()>>);

impl Default for Spent {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl Spent {
    fn lock(&self) -> MutexGuard<'_, LruCache<Handed, ()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ack under this token has come to nothing.
    pub(crate) fn note(&self, token: impl Into<Handed>) {
        self.lock().push(token.into(), ());
    }

    /// Whether an ack under this token has come to nothing.
    pub(crate) fn contains(&self, token: impl Into<Handed>) -> bool {
        self.lock().contains(&token.into())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn work(work_id: i64, claim: i64) -> WorkToken {
        WorkToken {
            instance_key: 1,
            work_id,
            claim,
            lease: Duration::from_secs(30),
        }
    }

    #[test]
    fn what_was_claimed_together_is_not_spent_together() {
        let spent = Spent::default();
        spent.note(work(1, 7));
        assert!(spent.contains(work(1, 7)));
        assert!(!spent.contains(work(2, 7)));
        assert!(!spent.contains(work(1, 8)));
    }
}
