//! The change feed, on both engines: reading, waiting, losing honestly; with real processes that are really killed.

mod chaos;
mod checker;
mod child;
mod doubles;
mod reading;
mod rights;

use std::time::Duration;

use duroxide::providers::Provider;
use duroxide::{Event as HistoryEvent, EventKind};
use steadfast::feed::{ChangePoller, Event, FeedError};

/// Within this time everything must have arrived.
const SOON: Duration = Duration::from_secs(20);

/// Events of an instance with these ids: the first is its start, others are activities that were scheduled.
fn history(instance: &str, ids: std::ops::RangeInclusive<u64>) -> Vec<HistoryEvent> {
    ids.map(|id| match id {
        1 => crate::op::scene::started(instance, 1),
        id => {
            let kind = EventKind::ActivityScheduled {
                name: "a".to_owned(),
                input: "i".to_owned(),
                session_id: None,
                tag: None,
            };
            HistoryEvent::with_event_id(id, instance, 1, None, kind)
        }
    })
    .collect()
}

/// Appends events with these ids to an instance, as one operation.
async fn append(provider: &dyn Provider, instance: &str, ids: std::ops::RangeInclusive<u64>) {
    let done = provider
        .append_with_execution(instance, 1, history(instance, ids))
        .await;
    done.expect("append events");
}

/// Polls until nothing is missing.
async fn drain(poller: &mut ChangePoller) -> Result<Vec<Event>, FeedError> {
    let deadline = std::time::Instant::now() + SOON;
    let mut events = Vec::new();
    loop {
        let batch = poller.poll().await?;
        events.extend(batch.events);
        if batch.caught_up {
            return Ok(events);
        }
        assert!(std::time::Instant::now() < deadline, "never caught up");
        poller.wait(Duration::from_secs(1)).await;
    }
}
