//! Kinds of events, and which of them are recorded.
//!
//! Invariant: the numbers are stored, so they never change; those of history events are the store's own.

use std::fmt;
use std::str::FromStr;

use duroxide::{AppErrorKind, ErrorDetails, EventKind};

use crate::item::event_kind;

/// How much of what happens is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// Nothing; it costs nothing.
    Off,
    /// What can be seen of an instance from outside: started, continued as new, completed, failed, cancelled, deleted,
    /// pruned, custom status, key-values.
    #[default]
    Lifecycle,
    /// Every event of every history as well.
    History,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Kind {
            $($(#[$doc])* $name,)*
            /// Something that this version does not name, by its number.
            Other(i16),
        }

        impl Kind {
            /// All kinds that have a name.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            pub(crate) fn number(self) -> i16 {
                match self { $(Self::$name => $number,)* Self::Other(number) => number }
            }

            pub(crate) fn from_number(number: i16) -> Self {
                match number { $($number => Self::$name,)* other => Self::Other(other) }
            }
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(Self::$name => f.pad($text),)* Self::Other(number) => f.pad(&format!("kind-{number}")) }
            }
        }

        impl FromStr for Kind {
            type Err = UnknownKind;
            fn from_str(text: &str) -> Result<Self, UnknownKind> {
                match text { $($text => Ok(Self::$name),)* _ => Err(UnknownKind(text.to_owned())) }
            }
        }
    };
}

/// No kind has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no kind of event is called {0:?}")]
pub struct UnknownKind(String);

kinds! {
    /// An execution began.
    Started = 1, "started";
    /// The instance completed.
    Completed = 2, "completed";
    /// The instance failed.
    Failed = 3, "failed";
    /// An execution ended and the next one is about to begin.
    ContinuedAsNew = 4, "continued-as-new";
    /// Somebody asked for the instance's end.
    CancelRequested = 5, "cancel-requested";
    /// A detached orchestration was started.
    Chained = 6, "chained";
    /// The instance ended because it was cancelled.
    Cancelled = 7, "cancelled";
    /// An activity was scheduled.
    ActivityScheduled = 10, "activity-scheduled";
    /// An activity completed.
    ActivityCompleted = 11, "activity-completed";
    /// An activity failed.
    ActivityFailed = 12, "activity-failed";
    /// An activity is to be cancelled.
    ActivityCancelRequested = 13, "activity-cancel-requested";
    /// A timer was set.
    TimerCreated = 20, "timer-created";
    /// A timer fired.
    TimerFired = 21, "timer-fired";
    /// The instance waits for an external event.
    ExternalSubscribed = 30, "external-subscribed";
    /// An external event arrived.
    ExternalEvent = 31, "external-event";
    /// The instance no longer waits for an external event.
    ExternalCancelled = 32, "external-cancelled";
    /// The instance waits for a message of a queue.
    QueueSubscribed = 40, "queue-subscribed";
    /// A message of a queue arrived.
    QueueDelivered = 41, "queue-delivered";
    /// The instance no longer waits for a message.
    QueueCancelled = 42, "queue-cancelled";
    /// A sub-orchestration was scheduled.
    SubOrchestrationScheduled = 50, "sub-scheduled";
    /// A sub-orchestration completed.
    SubOrchestrationCompleted = 51, "sub-completed";
    /// A sub-orchestration failed.
    SubOrchestrationFailed = 52, "sub-failed";
    /// A sub-orchestration is to be cancelled.
    SubOrchestrationCancelRequested = 53, "sub-cancel-requested";
    /// The custom status changed.
    CustomStatus = 60, "custom-status";
    /// A key-value was set.
    KeyValueSet = 70, "kv-set";
    /// A key-value was removed.
    KeyValueCleared = 71, "kv-cleared";
    /// All key-values were removed.
    KeyValuesCleared = 72, "kv-all-cleared";
    /// The instance was deleted with all that belongs to it.
    Deleted = 80, "deleted";
    /// Ended executions were removed; the event's execution is the newest of them.
    Pruned = 81, "pruned";
}

/// The number under which an event is recorded at this level; 0: it is not.
pub(crate) fn recorded(level: Level, event: &EventKind) -> i16 {
    let number = match event {
        EventKind::OrchestrationFailed {
            details:
                ErrorDetails::Application {
                    kind: AppErrorKind::Cancelled { .. },
                    ..
                },
        } => Kind::Cancelled.number(),
        other => event_kind(other),
    };
    match level {
        Level::Off => 0,
        Level::Lifecycle if !matches!(number, 1..=4 | 7 | 60 | 70..=72) => 0,
        Level::Lifecycle | Level::History => number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_number_and_one_name() {
        for (n, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(Kind::from_number(kind.number()), *kind);
            assert_eq!(kind.to_string().parse(), Ok(*kind));
            assert!(!Kind::ALL[..n].iter().any(|k| k.number() == kind.number()));
        }
        assert_eq!(Kind::from_number(999), Kind::Other(999));
        assert!("kind-999".parse::<Kind>().is_err());
    }
}
