//! What is there, then what changes.
//!
//! Invariant: no hole: the place to follow from is taken before the list.

use duroxide::providers::ProviderError;

use super::error::FeedError;
use super::poller::ChangePoller;
use super::source::Feed;
use crate::inspect::{Inspect, InstanceQuery, InstanceSummary};

/// All instances that `query` asks for (its `limit` is the size of a page, its `before` is ignored), and a poller for
/// everything that happens to them afterwards. What happens while they are listed is in both.
///
/// # Errors
/// When the store cannot be read.
pub async fn snapshot_then_follow(
    feed: &Feed,
    store: &dyn Inspect,
    query: InstanceQuery,
) -> Result<(Vec<InstanceSummary>, ChangePoller), FeedError> {
    let poller = ChangePoller::from_now(feed).await?;
    let (mut all, mut before) = (Vec::new(), None);
    loop {
        let page = store.instances(InstanceQuery {
            before,
            limit: query.limit.max(1),
            ..query.clone()
        });
        let page = page.await.map_err(FeedError::from)?;
        let Some(last) = page.last() else {
            return Ok((all, poller));
        };
        before = Some(last.key);
        all.extend(page);
    }
}

impl From<ProviderError> for FeedError {
    fn from(error: ProviderError) -> Self {
        Self::Store {
            retryable: error.is_retryable(),
            message: error.to_string(),
        }
    }
}
