//! Waiting for what an instance does, woken by the feed instead of polling.
//!
//! Invariant: the state is looked at after the place to follow from was taken, so a change between the two is not missed.

use std::time::{Duration, Instant};

use duroxide::providers::Provider;
use duroxide::{Client, ClientError, OrchestrationStatus};

use super::error::FeedError;
use super::filter::Filter;
use super::poller::ChangePoller;
use super::source::Feed;

/// Waits until the instance has ended, and returns how; `None` when the time has passed. Costs one look at the start, one
/// for each event of the instance that ends it, and nothing while nothing happens. Needs a feed that is not `off`
/// (otherwise the state is looked at after every safety interval).
///
/// # Errors
/// When the store cannot be read.
pub async fn wait_for_completion(
    client: &Client,
    feed: &Feed,
    instance: &str,
    timeout: Duration,
) -> Result<Option<OrchestrationStatus>, FeedError> {
    until(feed, instance, timeout, async || {
        let status = client.get_orchestration_status(instance).await.map_err(refused)?;
        Ok(match status {
            OrchestrationStatus::Completed { .. } | OrchestrationStatus::Failed { .. } => Some(status),
            _ => None,
        })
    })
    .await
}

/// Waits until the instance's custom status is newer than version `seen` (0: any), and returns it with its version;
/// `None` when the time has passed.
///
/// # Errors
/// When the store cannot be read.
pub async fn wait_for_custom_status(
    provider: &dyn Provider,
    feed: &Feed,
    instance: &str,
    seen: u64,
    timeout: Duration,
) -> Result<Option<(Option<String>, u64)>, FeedError> {
    until(feed, instance, timeout, async || {
        Ok(provider.get_custom_status(instance, seen).await?)
    })
    .await
}

/// Waits until the instance's key-value is another than `seen`, and returns it (`None` within: it was removed); `None`
/// when the time has passed.
///
/// # Errors
/// When the store cannot be read.
pub async fn wait_for_kv(
    provider: &dyn Provider,
    feed: &Feed,
    instance: &str,
    key: &str,
    seen: Option<&str>,
    timeout: Duration,
) -> Result<Option<Option<String>>, FeedError> {
    until(feed, instance, timeout, async || {
        let value = provider.get_kv_value(instance, key).await?;
        Ok((value.as_deref() != seen).then_some(value))
    })
    .await
}

fn refused(error: ClientError) -> FeedError {
    FeedError::Store {
        retryable: error.is_retryable(),
        message: error.to_string(),
    }
}

/// Looks, and again whenever something has happened to the instance, until there is an answer.
async fn until<T>(
    feed: &Feed,
    instance: &str,
    timeout: Duration,
    look: impl AsyncFn() -> Result<Option<T>, FeedError>,
) -> Result<Option<T>, FeedError> {
    let give_up = Instant::now().checked_add(timeout);
    let mut poller = ChangePoller::from_now(feed).await?;
    poller.with_filter(Filter::new().instance(instance));
    loop {
        if let Some(found) = look().await? {
            return Ok(Some(found));
        }
        loop {
            let left = give_up.map_or(timeout, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return look().await;
            }
            let started = Instant::now();
            let batch = poller.poll().await;
            match batch {
                Ok(batch) if !batch.events.is_empty() => break,
                Ok(batch) => {
                    poller.wait(left).await;
                    // Nothing was heard for long: the feed may be off.
                    if batch.caught_up && started.elapsed() > Duration::from_secs(1) {
                        break;
                    }
                }
                // What was missed may have been what is waited for.
                Err(FeedError::Trimmed { first, .. }) => {
                    poller.seek(first - 1);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
