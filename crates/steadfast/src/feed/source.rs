//! What a feed needs of an engine, and the handle that readers share.
//!
//! Invariant: a page is one snapshot: its rows, the feed's beginning and its end belong together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::bell::Bell;
use super::error::FeedError;
use super::filter::Filter;
use super::token::Token;

/// What to read.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) after: u64,
    pub(crate) limit: u32,
    pub(crate) filter: Filter,
    pub(crate) payload: bool,
}

/// An operation in the log.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) last_sequence: u64,
    pub(crate) mark: i64,
    pub(crate) instance: String,
    pub(crate) execution_id: u64,
    pub(crate) orchestration: Option<String>,
    pub(crate) at_ms: u64,
    pub(crate) event_ids: Vec<i64>,
    pub(crate) kinds: Vec<i16>,
    pub(crate) payloads: Vec<Option<Vec<u8>>>,
}

/// What one look found.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) epoch: Uuid,
    pub(crate) first: u64,
    pub(crate) head: u64,
    pub(crate) pending: bool,
    /// A copy that lags behind: what is ahead of it may come yet.
    pub(crate) standby: bool,
    /// Mark of the row that holds the place that was asked for, if it is known.
    pub(crate) mark_after: Option<i64>,
    /// What was looked at, if there was anything.
    pub(crate) stretch: Option<Stretch>,
    /// Those that match.
    pub(crate) rows: Vec<Row>,
}

/// The rows that were looked at, before any filter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    pub(crate) from: u64,
    pub(crate) events: u64,
    /// Where the batch ends, and the mark there.
    pub(crate) upto: u64,
    pub(crate) mark: i64,
}

/// How much of the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// What is older goes. Default 7 days.
    pub max_age: Option<Duration>,
    /// So many events are kept at most. Default 10 million.
    pub max_events: Option<u64>,
    /// A named cursor keeps what it has not read, unless so many events follow it: then it is marked as lost. Default
    /// 20 million.
    pub max_held_events: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            max_age: Some(Duration::from_secs(7 * 86_400)),
            max_events: Some(10_000_000),
            max_held_events: 20_000_000,
        }
    }
}

/// State of a feed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FeedStatus {
    /// Changes when the store is made anew, or when somebody rotates it after a restore.
    pub epoch: Uuid,
    /// The oldest sequence that is there (or the next one, if none is).
    pub first: u64,
    /// The last sequence.
    pub last: u64,
    /// Operations that are committed and have no sequence yet.
    pub pending: u64,
    /// The named cursors, by name.
    pub cursors: Vec<CursorStatus>,
}

/// State of a named cursor.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CursorStatus {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub token: Token,
    /// Events that it has not committed yet.
    pub lag: u64,
    /// Events that it had not read were trimmed away.
    pub lost: bool,
    /// When it was committed last, in milliseconds since 1970.
    pub committed_at_ms: u64,
}

/// What an engine does for a feed.
#[async_trait::async_trait]
pub(crate) trait Source: Send + Sync + 'static {
    /// A page, in one snapshot.
    async fn read(&self, request: &Request) -> Result<Page, FeedError>;
    /// Gives positions to what is pending. `false`: may not.
    async fn assign(&self) -> Result<bool, FeedError>;
    fn bell(&self) -> &Bell;
    /// Returns when something may have changed since the bell had rung `seen` times and the reader stood at `after`, or the
    /// time has passed.
    async fn wait(&self, seen: u64, after: u64, timeout: Duration);
    /// The state; with a name, only this cursor's.
    async fn status(&self, cursor: Option<&str>) -> Result<FeedStatus, FeedError>;
    /// Keeps a named cursor.
    async fn commit(&self, name: &str, token: Token) -> Result<(), FeedError>;
    /// One bounded step; returns whether another one may find something.
    async fn trim(&self, retention: Retention) -> Result<(u64, bool), FeedError>;
    async fn rotate_epoch(&self) -> Result<Uuid, FeedError>;
    async fn close(&self);
}

/// A feed to read from. Clones share it.
#[derive(Clone)]
pub struct Feed(pub(crate) Arc<dyn Source>);

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

impl Feed {
    pub(crate) fn over(source: impl Source) -> Self {
        Self(Arc::new(source))
    }

    /// Where the feed begins and ends, what is pending, and the named cursors. Counts rows: meant for people.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn status(&self) -> Result<FeedStatus, FeedError> {
        self.0.status(None).await
    }

    /// Removes what `retention` does not keep, in bounded steps; returns how many operations went. Workers do so by
    /// themselves, about once a minute while they write.
    ///
    /// # Errors
    /// [`FeedError::ReadOnly`], or when the store cannot be written to; steps that were made stay.
    pub async fn trim(&self, retention: Retention) -> Result<u64, FeedError> {
        let mut total = 0;
        loop {
            let (gone, more) = self.0.trim(retention).await?;
            total += gone;
            if !more {
                return Ok(total);
            }
        }
    }

    /// Makes every token and named cursor of the past invalid: to be done after a restore, before anybody reads. Returns
    /// the new epoch.
    ///
    /// # Errors
    /// [`FeedError::ReadOnly`], or when the store cannot be written to.
    pub async fn rotate_epoch(&self) -> Result<Uuid, FeedError> {
        self.0.rotate_epoch().await
    }

    /// Ends a feed that was opened for itself; one of a provider ends with that.
    pub async fn close(&self) {
        self.0.close().await;
    }
}
