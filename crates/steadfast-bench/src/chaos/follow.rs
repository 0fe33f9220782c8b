//! The change feed as readers were handed it: by one that followed through the whole run, and by one that read it afterwards.
//!
//! Invariant: a reader goes on from what it was handed last, through whatever trouble; what cannot be read on is written down.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use steadfast::feed::{ChangePoller, Event, FeedError, Kind};

use super::place::Place;

/// So often the follower gives its place back and is made anew from the token.
const LIFE: Duration = Duration::from_secs(15);
/// Longest time to the end of the feed once nothing is written any more.
const PATIENCE: Duration = Duration::from_secs(60);
/// Few, so that batches end within operations.
const BATCH: NonZeroU32 = match NonZeroU32::new(97) {
    Some(limit) => limit,
    None => NonZeroU32::MIN,
};

/// An event of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) sequence: u64,
    pub(crate) instance: String,
    pub(crate) execution: u64,
    pub(crate) kind: Kind,
    pub(crate) event_id: Option<u64>,
}

impl From<Event> for Seen {
    fn from(event: Event) -> Self {
        Self {
            sequence: event.sequence,
            instance: event.instance,
            execution: event.execution_id,
            kind: event.kind,
            event_id: event.event_id,
        }
    }
}

/// What a reader was handed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    pub(crate) events: Vec<Seen>,
    /// It reached the end, and nothing was left without a position.
    pub(crate) caught_up: bool,
    /// Why it could not read on.
    pub(crate) trouble: Option<String>,
}

/// Both readings.
#[derive(Debug, Clone, Default)]
pub(crate) struct Feed {
    pub(crate) followed: Reading,
    pub(crate) afterwards: Reading,
}

/// A reader at work.
pub(crate) struct Follower {
    ends: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Reading>,
}

impl Follower {
    pub(crate) fn start(place: Place) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(read(place, Arc::clone(&ends)));
        Self { ends, task }
    }

    /// Lets it read to the end of what is there.
    pub(crate) async fn finish(self) -> Result<Reading> {
        self.ends.store(true, Ordering::SeqCst);
        Ok(self.task.await?)
    }
}

/// Everything, from the beginning.
pub(crate) async fn everything(place: &Place) -> Reading {
    read(place.clone(), Arc::new(AtomicBool::new(true))).await
}

/// Reads until it is told to end and has reached the end.
async fn read(place: Place, ends: Arc<AtomicBool>) -> Reading {
    let mut reading = Reading::default();
    let mut token = None;
    let mut late = None;
    loop {
        let patient = late.is_none_or(|since: Instant| since.elapsed() < PATIENCE);
        let Ok(feed) = place.open_feed().await else {
            // The server is down, or full.
            if !patient {
                reading.trouble = Some("the feed cannot be opened".to_owned());
                return reading;
            }
            late = late.or_else(|| ends.load(Ordering::SeqCst).then(Instant::now));
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let mut poller = match token {
            Some(token) => ChangePoller::from_token(&feed, token),
            None => ChangePoller::new(&feed),
        };
        poller.with_batch_limit(BATCH);
        let done = one_life(&mut poller, &ends, &mut late, &mut reading).await;
        token = poller.token().or(token);
        feed.close().await;
        if done {
            return reading;
        }
    }
}

/// Reads for a while; returns whether that is all.
async fn one_life(
    poller: &mut ChangePoller,
    ends: &AtomicBool,
    late: &mut Option<Instant>,
    reading: &mut Reading,
) -> bool {
    let begun = Instant::now();
    loop {
        let ending = ends.load(Ordering::SeqCst);
        if ending {
            late.get_or_insert_with(Instant::now);
        }
        match poller.poll().await {
            Ok(batch) => {
                reading.events.extend(batch.events.into_iter().map(Seen::from));
                if ending && batch.caught_up {
                    reading.caught_up = true;
                    return true;
                }
            }
            Err(error) => {
                if !passes(&error) {
                    reading.trouble = Some(error.to_string());
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        if late.is_some_and(|since| since.elapsed() > PATIENCE) {
            return true;
        }
        if begun.elapsed() > LIFE {
            return false;
        }
        poller.wait(Duration::from_millis(500)).await;
    }
}

/// Whether the store is only in trouble; anything else is the feed's own.
fn passes(error: &FeedError) -> bool {
    matches!(error, FeedError::Store { .. } | FeedError::ReadOnly)
}
