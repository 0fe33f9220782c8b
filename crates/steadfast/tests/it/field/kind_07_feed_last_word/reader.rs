//! Somebody who waits for the feed, and when he had seen how much of whom.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use steadfast::feed::{ChangePoller, Feed};
use tokio::task::JoinHandle;

use super::child::now;

/// Events of an instance that were seen: how many, and when the last one was.
type Seen = Arc<Mutex<HashMap<String, (u64, u64)>>>;

/// Follows until it is dropped.
pub(crate) struct Reader {
    what: &'static str,
    seen: Seen,
    task: JoinHandle<()>,
}

impl Reader {
    pub(crate) fn follow(what: &'static str, feed: Feed) -> Self {
        let seen = Seen::default();
        let record = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut poller = ChangePoller::new(&feed);
            loop {
                match poller.poll().await {
                    Ok(batch) => {
                        let mut record = record.lock().unwrap();
                        for event in batch.events {
                            let (count, at) = record.entry(event.instance).or_default();
                            (*count, *at) = (*count + 1, now());
                        }
                    }
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
                // Woken, or not at all.
                poller.wait(Duration::from_secs(3600)).await;
            }
        });
        Self { what, seen, task }
    }

    /// Waits until so many events of each of these have been seen; returns how long after `since` (microseconds since 1970)
    /// the last one was, in milliseconds.
    pub(crate) async fn has(&self, wanted: &[(String, u64)], since: u64, within: Duration) -> u64 {
        let asked = Instant::now();
        loop {
            let late = {
                let seen = self.seen.lock().unwrap();
                let found = wanted
                    .iter()
                    .map(|(instance, count)| seen.get(instance).filter(|(n, _)| n >= count).map(|(_, at)| *at));
                found
                    .collect::<Option<Vec<u64>>>()
                    .and_then(|times| times.into_iter().max())
            };
            if let Some(at) = late {
                return at.saturating_sub(since) / 1000;
            }
            assert!(!self.task.is_finished(), "the reader has ended");
            assert!(
                asked.elapsed() < within,
                "{}: of {wanted:?} only {:?} was seen within {within:?} after the last write",
                self.what,
                self.seen.lock().unwrap()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}
