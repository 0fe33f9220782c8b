//! Which queue events of a claim its turn may be handed, so that none is lost when the orchestration continues as new.
//!
//! duroxide carries so many unread queue events over as [`MAX_CARRY_FORWARD_EVENTS`] and drops the rest. Invariants: an
//! execution never has more unread than that at the end of a turn; an event that an open subscription waits for passes all
//! the same, one a turn, and then no other message comes along that might close the subscription before the event is
//! read (cancellations do: they end the execution). Events of one queue stay in order. Pure.
//!
//! Read is what an active subscription has been matched with, as duroxide counts it. A subscription whose future is never
//! polled is thus taken for read.

use std::collections::HashMap;

use duroxide::providers::WorkItem;
use duroxide::runtime::limits::MAX_CARRY_FORWARD_EVENTS;
use duroxide::{Event, EventKind};

use crate::item::index_key;

/// A message that a turn is not handed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Position in the claim.
    pub(crate) at: usize,
    /// Key of its queue: it is held back until there is room. `None`: it waits for the next turn.
    pub(crate) queue: Option<Vec<u8>>,
}

/// What of `messages` (in order of arrival) the next turn after `history` is not handed, in order.
pub(crate) fn kept(history: &[Event], messages: &[WorkItem]) -> Vec<Kept> {
    let events = messages.iter().filter(|m| queue_of(m).is_some()).count();
    if events == 0 {
        return Vec::new();
    }
    let mut mailbox = Mailbox::of(history, messages);
    if mailbox.closed {
        return Vec::new();
    }
    let mut kept = Vec::new();
    let mut pressed = false;
    for (at, message) in messages.iter().enumerate() {
        let Some(name) = queue_of(message) else { continue };
        if mailbox.unread < MAX_CARRY_FORWARD_EVENTS {
            mailbox.unread += 1;
            mailbox
                .waited
                .entry(name)
                .and_modify(|open| *open = open.saturating_sub(1));
        } else if !pressed && mailbox.waited.get(name).is_some_and(|open| *open > 0) {
            pressed = true;
        } else {
            let queue = Some(index_key(name.as_bytes()));
            kept.push(Kept { at, queue });
        }
    }
    if pressed {
        let others = messages.iter().enumerate().filter(|(_, m)| waits(m));
        kept.extend(others.map(|(at, _)| Kept { at, queue: None }));
        kept.sort_unstable_by_key(|k| k.at);
    }
    kept
}

fn queue_of(message: &WorkItem) -> Option<&str> {
    match message {
        WorkItem::QueueMessage { name, .. } => Some(name),
        _ => None,
    }
}

/// Whether a message can wait while an event is handed over for which there is no room.
fn waits(message: &WorkItem) -> bool {
    !matches!(
        message,
        WorkItem::QueueMessage { .. }
            | WorkItem::CancelInstance { .. }
            | WorkItem::StartOrchestration { .. }
            | WorkItem::ContinueAsNew { .. }
    )
}

/// How a turn finds the queues of its execution.
#[derive(Default)]
struct Mailbox<'a> {
    unread: usize,
    /// Open subscriptions by queue.
    waited: HashMap<&'a str, usize>,
    /// The orchestration has ended, and nothing is lost any more.
    closed: bool,
}

impl<'a> Mailbox<'a> {
    fn of(history: &'a [Event], messages: &[WorkItem]) -> Self {
        let carried = messages.iter().find_map(|m| match m {
            WorkItem::ContinueAsNew {
                carry_forward_events, ..
            } => Some(carry_forward_events.len()),
            _ => None,
        });
        if let Some(unread) = carried {
            return Self {
                unread,
                ..Self::default()
            };
        }
        let mut arrived: HashMap<&str, usize> = HashMap::new();
        let mut subscribed: HashMap<u64, &str> = HashMap::new();
        let (mut continued, mut closed) = (false, false);
        for event in history {
            match &event.kind {
                EventKind::QueueSubscribed { name } => {
                    subscribed.insert(event.event_id, name);
                }
                EventKind::QueueSubscriptionCancelled { .. } => {
                    event.source_event_id.map(|id| subscribed.remove(&id));
                }
                EventKind::QueueEventDelivered { name, .. } => *arrived.entry(name).or_default() += 1,
                EventKind::OrchestrationContinuedAsNew { .. } => continued = true,
                EventKind::OrchestrationCompleted { .. } | EventKind::OrchestrationFailed { .. } => closed = true,
                _ => {}
            }
        }
        let mut waited: HashMap<&str, usize> = HashMap::new();
        for name in subscribed.into_values() {
            *waited.entry(name).or_default() += 1;
        }
        let mut unread = 0;
        for (name, count) in arrived {
            let active = waited.entry(name).or_default();
            unread += count.saturating_sub(*active);
            *active = active.saturating_sub(count);
        }
        if continued {
            waited.clear();
        }
        Self { unread, waited, closed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64, source: Option<u64>, kind: EventKind) -> Event {
        Event::with_event_id(id, "i", 1, source, kind)
    }

    fn subscribed(id: u64, name: &str) -> Event {
        event(id, None, EventKind::QueueSubscribed { name: name.to_owned() })
    }

    fn delivered(id: u64, name: &str) -> Event {
        let (name, data) = (name.to_owned(), String::new());
        event(id, None, EventKind::QueueEventDelivered { name, data })
    }

    fn cancelled(id: u64, source: u64) -> Event {
        let reason = String::new();
        event(id, Some(source), EventKind::QueueSubscriptionCancelled { reason })
    }

    fn sent(name: &str) -> WorkItem {
        WorkItem::QueueMessage {
            instance: "i".to_owned(),
            name: name.to_owned(),
            data: String::new(),
        }
    }

    fn timer() -> WorkItem {
        WorkItem::TimerFired {
            instance: "i".to_owned(),
            execution_id: 1,
            id: 1,
            fire_at_ms: 0,
        }
    }

    fn cancel() -> WorkItem {
        WorkItem::CancelInstance {
            instance: "i".to_owned(),
            reason: String::new(),
        }
    }

    fn continued(carried: usize) -> WorkItem {
        WorkItem::ContinueAsNew {
            instance: "i".to_owned(),
            orchestration: "o".to_owned(),
            input: String::new(),
            version: None,
            carry_forward_events: vec![("A".to_owned(), String::new()); carried],
            initial_custom_status: None,
            parent_instance: None,
            parent_id: None,
            parent_execution_id: None,
        }
    }

    fn places(kept: &[Kept]) -> Vec<usize> {
        kept.iter().map(|k| k.at).collect()
    }

    /// So many unread of queue A.
    fn full(count: u64) -> Vec<Event> {
        (1..=count).map(|n| delivered(n, "A")).collect()
    }

    #[test]
    fn what_fits_passes() {
        let messages: Vec<WorkItem> = (0..100).map(|_| sent("A")).chain([timer()]).collect();
        assert!(kept(&[], &messages).is_empty());
        assert!(kept(&full(500), &[timer(), cancel()]).is_empty());
    }

    #[test]
    fn what_does_not_fit_is_held() {
        let messages: Vec<WorkItem> = (0..103).map(|_| sent("A")).chain([timer(), cancel()]).collect();
        assert_eq!(places(&kept(&[], &messages)), [100, 101, 102]);
        assert_eq!(places(&kept(&full(99), &messages[..3])), [1, 2]);
    }

    #[test]
    fn what_is_read_or_carried_counts() {
        let mut history = full(100);
        history.extend((101..=140).map(|n| subscribed(n, "A")));
        let messages: Vec<WorkItem> = (0..50).map(|_| sent("A")).collect();
        assert_eq!(places(&kept(&history, &messages)), (40..50).collect::<Vec<_>>());
        let mut messages = vec![continued(98)];
        messages.extend((0..4).map(|_| sent("A")));
        assert_eq!(places(&kept(&history, &messages)), [3, 4]);
    }

    #[test]
    fn one_that_is_waited_for_passes_alone() {
        let mut history = full(100);
        history.extend([subscribed(101, "B"), subscribed(102, "B"), subscribed(103, "C")]);
        history.extend((104..204).map(|n| delivered(n, "A")));
        history.extend((204..304).map(|n| subscribed(n, "A")));
        let messages = [sent("A"), sent("B"), timer(), sent("C"), cancel(), sent("B")];
        let kept = kept(&history, &messages);
        assert_eq!(places(&kept), [0, 2, 3, 5]);
        assert_eq!(kept[1].queue, None, "the timer only waits");
        assert!(kept[0].queue.is_some());
    }

    #[test]
    fn a_cancelled_subscription_waits_for_nothing() {
        let mut history = full(100);
        history.extend([subscribed(101, "B"), cancelled(102, 101)]);
        assert_eq!(places(&kept(&history, &[sent("B")])), [0]);
    }

    #[test]
    fn an_ended_orchestration_takes_everything() {
        let mut history = full(100);
        let output = String::new();
        history.push(event(101, None, EventKind::OrchestrationCompleted { output }));
        assert!(kept(&history, &[sent("A"), sent("B")]).is_empty());
    }
}
