//! Which waiting callers one claim can serve.
//!
//! Invariant: callers of one group may take exactly the same items, for equally long.

use std::time::Duration;

use duroxide::providers::{DispatcherCapabilityFilter, SessionFetchConfig, TagFilter};

use crate::item::{pack_version, tag_keys};

/// Dispatchers that may take the same instances for equally long.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TurnGroup {
    pub(crate) lease_ms: i64,
    /// Packed replay versions, inclusive; `None`: any.
    pub(crate) versions: Option<(i64, i64)>,
}

impl TurnGroup {
    /// `None` when the filter admits nothing.
    pub(crate) fn new(lease: Duration, filter: Option<&DispatcherCapabilityFilter>) -> Option<Self> {
        let versions = match filter {
            None => None,
            // The framework's first range counts, as in its own provider; an empty list admits nothing.
            Some(f) => {
                let range = f.supported_duroxide_versions.first()?;
                Some((pack_version(&range.min), pack_version(&range.max)))
            }
        };
        Some(Self {
            lease_ms: millis(lease),
            versions,
        })
    }
}

/// Workers that may take the same activities for equally long. Session owners may differ within a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct WorkGroup {
    pub(crate) lease_ms: i64,
    pub(crate) tags: Option<Vec<Vec<u8>>>,
    pub(crate) session_lease_ms: Option<i64>,
}

impl WorkGroup {
    /// `None` when the filter admits nothing.
    pub(crate) fn new(lease: Duration, session: Option<&SessionFetchConfig>, tags: &TagFilter) -> Option<Self> {
        let tags = tag_keys(tags);
        if tags.as_ref().is_some_and(Vec::is_empty) {
            return None;
        }
        let session_lease_ms = session.map(|s| millis(s.lock_timeout));
        Some(Self {
            lease_ms: millis(lease),
            tags,
            session_lease_ms,
        })
    }
}

/// Milliseconds for SQL, where an interval of more than 10,000 years cannot be.
pub(crate) fn millis(duration: Duration) -> i64 {
    const MAX_MS: u128 = 10_000 * 365 * 86_400 * 1000 / 4;
    duration.as_millis().min(MAX_MS) as i64
}
