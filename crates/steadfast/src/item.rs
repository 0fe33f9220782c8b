//! What the store needs to know of a work item or an event beside its bytes: routing columns and payloads.
//!
//! Invariant: a payload is `serde_json` of duroxide's own type and comes back exactly as it went in; everything
//! that SQL looks at is a column filled here, never a part of the payload.

use duroxide::providers::{TagFilter, WorkItem};
use duroxide::{AppErrorKind, ErrorDetails, Event, EventKind, INITIAL_EXECUTION_ID};
use sha2::{Digest, Sha256};

use crate::inspect::InstanceSummary;
use crate::limit::{PayloadLimit, content, shortened_item};

/// Why an item cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// An id holds a NUL character, which PostgreSQL's text cannot.
    #[error("instance id {:?} holds a NUL character", begin(.0))]
    NulInId(String),
    /// An id is longer than an index entry may be.
    #[error("instance id of {len} bytes is longer than {max} bytes")]
    IdTooLong {
        /// Length of the refused id in bytes.
        len: usize,
        /// The longest id that is accepted, in bytes.
        max: usize,
    },
    /// A payload is larger than this provider takes (`payload_limit` of its builder).
    #[error("{what}: {bytes} bytes are more than the limit of {max} bytes (payload_limit)")]
    PayloadTooLarge {
        /// What it is.
        what: &'static str,
        /// Its size in bytes, at least.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// One turn writes more than this provider takes at once.
    #[error("a turn that writes {bytes} bytes is larger than {max} bytes (16 times payload_limit, 512 MiB at most)")]
    TurnTooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A history is larger than this provider hands out for a turn, or reads.
    #[error("a history of {bytes} bytes is larger than {max} bytes (history_limit)")]
    HistoryTooLarge {
        /// Its size in bytes, at least.
        bytes: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The item belongs into the other queue.
    #[error("{0} does not belong into this queue")]
    WrongQueue(&'static str),
    /// The same event id twice in one call.
    #[error("event id {0} occurs twice")]
    DuplicateEvent(u64),
    /// A number does not fit the store's 63 bits.
    #[error("{what} {value} is out of range")]
    OutOfRange {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// The item could not be serialized.
    #[error("cannot serialize: {0}")]
    Serialize(String),
}

/// Longest id in bytes that a client may start an instance under.
pub const MAX_INSTANCE_ID_BYTES: usize = 2000;

/// Longest id in bytes that is stored: the runtime makes the ids of sub-orchestrations by appending to that of their
/// parent. A B-tree entry of PostgreSQL holds at most 2,704 bytes (a third of a page), shared here with a timestamp and a
/// number.
const MAX_DERIVED_ID_BYTES: usize = 2600;

/// So much of an id as an error quotes.
fn begin(id: &str) -> String {
    id.chars().take(80).collect()
}

/// Latest due time that is kept as given; later ones (up to `u64::MAX` ms) mean "never" and are stored as this:
/// the year 9999, which every timestamp type holds.
const MAX_DUE_MS: u64 = 253_402_300_799_000;

/// Kind of a message for orchestrations; the numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i16)]
pub(crate) enum MessageKind {
    Start = 1,
    ContinueAsNew = 2,
    QueueMessage = 3,
    Timer = 4,
    ActivityCompleted = 5,
    ActivityFailed = 6,
    External = 7,
    SubOrchestrationCompleted = 8,
    SubOrchestrationFailed = 9,
    Cancel = 10,
}

/// A message for an orchestration, ready for the inbox.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) instance: String,
    pub(crate) kind: MessageKind,
    /// Due time in ms since the epoch when the item itself carries one (timers).
    pub(crate) due_ms: Option<i64>,
    pub(crate) payload: Vec<u8>,
}

impl Message {
    /// Encodes what fits; of a poisoned message, what people read.
    pub(crate) fn encode(item: &WorkItem, limit: PayloadLimit) -> Result<Self, ItemError> {
        let shortened = shortened_item(item);
        let item = shortened.as_ref().unwrap_or(item);
        let (what, bytes) = content(item);
        limit.check(what, bytes)?;
        let (instance, kind, due_ms) = match item {
            WorkItem::StartOrchestration { instance, .. } => (instance, MessageKind::Start, None),
            WorkItem::ContinueAsNew { instance, .. } => (instance, MessageKind::ContinueAsNew, None),
            WorkItem::QueueMessage { instance, .. } => (instance, MessageKind::QueueMessage, None),
            WorkItem::TimerFired {
                instance, fire_at_ms, ..
            } => (instance, MessageKind::Timer, Some((*fire_at_ms).min(MAX_DUE_MS) as i64)),
            WorkItem::ActivityCompleted { instance, .. } => (instance, MessageKind::ActivityCompleted, None),
            WorkItem::ActivityFailed { instance, .. } => (instance, MessageKind::ActivityFailed, None),
            WorkItem::ExternalRaised { instance, .. } => (instance, MessageKind::External, None),
            WorkItem::SubOrchCompleted { parent_instance, .. } => {
                (parent_instance, MessageKind::SubOrchestrationCompleted, None)
            }
            WorkItem::SubOrchFailed { parent_instance, .. } => {
                (parent_instance, MessageKind::SubOrchestrationFailed, None)
            }
            WorkItem::CancelInstance { instance, .. } => (instance, MessageKind::Cancel, None),
            WorkItem::ActivityExecute { .. } => return Err(ItemError::WrongQueue("ActivityExecute")),
            #[allow(unreachable_patterns, reason = "a feature of duroxide adds a variant")]
            _ => return Err(ItemError::WrongQueue("an unknown work item")),
        };
        check_instance_id(instance)?;
        let payload = to_payload(item)?;
        if kind != MessageKind::ContinueAsNew {
            limit.check(what, payload.len())?;
        }
        Ok(Self {
            instance: instance.clone(),
            kind,
            due_ms,
            payload,
        })
    }

    /// As [`encode`](Self::encode), for what a client sends: the id of a new instance leaves room for those of its children.
    pub(crate) fn encode_arrival(item: &WorkItem, limit: PayloadLimit) -> Result<Self, ItemError> {
        if let WorkItem::StartOrchestration { instance, .. } = item
            && instance.len() > MAX_INSTANCE_ID_BYTES
        {
            return Err(ItemError::IdTooLong {
                len: instance.len(),
                max: MAX_INSTANCE_ID_BYTES,
            });
        }
        Self::encode(item, limit)
    }

    /// What became of an activity. A result that is too large is a failure of that activity, which its orchestration sees.
    pub(crate) fn encode_completion(item: &WorkItem, limit: PayloadLimit) -> Result<Self, ItemError> {
        let encoded = Self::encode(item, limit);
        let (
            WorkItem::ActivityCompleted {
                instance,
                execution_id,
                id,
                ..
            }
            | WorkItem::ActivityFailed {
                instance,
                execution_id,
                id,
                ..
            },
            Err(error @ ItemError::PayloadTooLarge { .. }),
        ) = (item, &encoded)
        else {
            return encoded;
        };
        tracing::warn!(target: "steadfast", instance = %instance, activity_id = id, %error,
            "what an activity returned is too large to be stored: the activity has failed");
        Self::encode(
            &WorkItem::ActivityFailed {
                instance: instance.clone(),
                execution_id: *execution_id,
                id: *id,
                details: ErrorDetails::Application {
                    kind: AppErrorKind::ActivityFailed,
                    message: error.to_string(),
                    retryable: false,
                },
            },
            limit,
        )
    }
}

/// An activity, ready for the worker queue.
#[derive(Debug, Clone)]
pub(crate) struct Activity {
    pub(crate) instance: String,
    pub(crate) execution_id: i64,
    pub(crate) activity_id: i64,
    pub(crate) tag: Vec<u8>,
    pub(crate) session: Option<Vec<u8>>,
    pub(crate) payload: Vec<u8>,
}

impl Activity {
    pub(crate) fn encode(item: &WorkItem, limit: PayloadLimit) -> Result<Self, ItemError> {
        let (what, bytes) = content(item);
        limit.check(what, bytes)?;
        let WorkItem::ActivityExecute {
            instance,
            execution_id,
            id,
            session_id,
            tag,
            ..
        } = item
        else {
            return Err(ItemError::WrongQueue("a message for an orchestration"));
        };
        check_instance_id(instance)?;
        let payload = to_payload(item)?;
        limit.check(what, payload.len())?;
        Ok(Self {
            instance: instance.clone(),
            execution_id: signed("execution id", *execution_id)?,
            activity_id: signed("activity id", *id)?,
            tag: tag_key(tag.as_deref()),
            session: session_id.as_deref().map(|s| index_key(s.as_bytes())),
            payload,
        })
    }
}

/// Serializes one of duroxide's types as the store keeps it.
pub(crate) fn to_payload<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, ItemError> {
    serde_json::to_vec(value).map_err(|e| ItemError::Serialize(e.to_string()))
}

/// Refuses ids that an index or a text column cannot hold.
pub(crate) fn check_instance_id(instance: &str) -> Result<(), ItemError> {
    if instance.contains('\0') {
        return Err(ItemError::NulInId(instance.to_owned()));
    }
    if instance.len() > MAX_DERIVED_ID_BYTES {
        return Err(ItemError::IdTooLong {
            len: instance.len(),
            max: MAX_DERIVED_ID_BYTES,
        });
    }
    Ok(())
}

/// Ids and counters are 64-bit in duroxide and 63-bit in the store.
pub(crate) fn signed(what: &'static str, value: u64) -> Result<i64, ItemError> {
    i64::try_from(value).map_err(|_| ItemError::OutOfRange { what, value })
}

/// An index entry for bytes of any length and content: themselves while short, their SHA-256 otherwise.
/// The first byte tells which, so that neither can pass for the other.
pub(crate) fn index_key(bytes: &[u8]) -> Vec<u8> {
    const LONGEST_INLINE: usize = 512;
    let mut key = Vec::with_capacity(bytes.len().min(LONGEST_INLINE) + 1);
    if bytes.len() <= LONGEST_INLINE {
        key.push(b'=');
        key.extend_from_slice(bytes);
    } else {
        key.push(b'#');
        key.extend_from_slice(&Sha256::digest(bytes));
    }
    key
}

/// The index entry of an activity's tag; no tag is the empty key, which no tag has.
pub(crate) fn tag_key(tag: Option<&str>) -> Vec<u8> {
    tag.map_or_else(Vec::new, |t| index_key(t.as_bytes()))
}

/// The tag keys that a filter admits: `None` for any, an empty list for none.
pub(crate) fn tag_keys(filter: &TagFilter) -> Option<Vec<Vec<u8>>> {
    let mut keys: Vec<Vec<u8>> = match filter {
        TagFilter::Any => return None,
        TagFilter::None => Vec::new(),
        TagFilter::DefaultOnly => vec![tag_key(None)],
        TagFilter::Tags(tags) => tags.iter().map(|t| tag_key(Some(t))).collect(),
        TagFilter::DefaultAnd(tags) => std::iter::once(tag_key(None))
            .chain(tags.iter().map(|t| tag_key(Some(t))))
            .collect(),
    };
    keys.sort_unstable();
    Some(keys)
}

/// A version as one number that orders like it: 20 bits each for minor and patch, above 0.
/// Pre-release and build parts do not take part, as in the framework's own filter.
pub(crate) fn pack_version(version: &semver::Version) -> i64 {
    let part = |n: u64| n.min((1 << 20) - 1) as i64;
    (part(version.major) << 40 | part(version.minor) << 20 | part(version.patch)) + 1
}

/// The inverse of [`pack_version`], for people.
pub(crate) fn unpack_version(packed: i64) -> String {
    let n = packed - 1;
    let mask = (1 << 20) - 1;
    format!("{}.{}.{}", n >> 40, (n >> 20) & mask, n & mask)
}

/// Number of an event's kind; the numbers are stored, so they never change. 0 is a kind that this version of
/// the store does not name.
pub(crate) fn event_kind(kind: &EventKind) -> i16 {
    match kind {
        EventKind::OrchestrationStarted { .. } => 1,
        EventKind::OrchestrationCompleted { .. } => 2,
        EventKind::OrchestrationFailed { .. } => 3,
        EventKind::OrchestrationContinuedAsNew { .. } => 4,
        EventKind::OrchestrationCancelRequested { .. } => 5,
        EventKind::OrchestrationChained { .. } => 6,
        EventKind::ActivityScheduled { .. } => 10,
        EventKind::ActivityCompleted { .. } => 11,
        EventKind::ActivityFailed { .. } => 12,
        EventKind::ActivityCancelRequested { .. } => 13,
        EventKind::TimerCreated { .. } => 20,
        EventKind::TimerFired { .. } => 21,
        EventKind::ExternalSubscribed { .. } => 30,
        EventKind::ExternalEvent { .. } => 31,
        EventKind::ExternalSubscribedCancelled { .. } => 32,
        EventKind::QueueSubscribed { .. } => 40,
        EventKind::QueueEventDelivered { .. } => 41,
        EventKind::QueueSubscriptionCancelled { .. } => 42,
        EventKind::SubOrchestrationScheduled { .. } => 50,
        EventKind::SubOrchestrationCompleted { .. } => 51,
        EventKind::SubOrchestrationFailed { .. } => 52,
        EventKind::SubOrchestrationCancelRequested { .. } => 53,
        EventKind::CustomStatusUpdated { .. } => 60,
        EventKind::KeyValueSet { .. } => 70,
        EventKind::KeyValueCleared { .. } => 71,
        EventKind::KeyValuesCleared => 72,
        #[allow(unreachable_patterns, reason = "a feature of duroxide adds variants")]
        _ => 0,
    }
}

/// What stands for a message that is too large to be handed out, beside a `history_error` that says so: it is never run.
/// `name`: the orchestration, where only that message would say.
pub(crate) fn stand_in(instance: &str, name: Option<String>) -> WorkItem {
    match name {
        Some(orchestration) => WorkItem::StartOrchestration {
            instance: instance.to_owned(),
            orchestration,
            input: String::new(),
            version: None,
            parent_instance: None,
            parent_id: None,
            parent_execution_id: None,
            execution_id: INITIAL_EXECUTION_ID,
        },
        None => WorkItem::ExternalRaised {
            instance: instance.to_owned(),
            name: String::new(),
            data: String::new(),
        },
    }
}

/// What stands for a history that is too large to be handed out, where the instance has ended: nothing of it is run any
/// more, and the runtime only wants to know that it has ended. `None` where it has not.
pub(crate) fn in_short(instance: &InstanceSummary) -> Option<Vec<Event>> {
    let end = match instance.status.as_str() {
        "Completed" => EventKind::OrchestrationCompleted { output: String::new() },
        "Failed" => EventKind::OrchestrationFailed {
            details: ErrorDetails::Infrastructure {
                operation: "fetch_orchestration_item".to_owned(),
                message: "the history is too large to be handed out".to_owned(),
                retryable: false,
            },
        },
        _ => return None,
    };
    let begin = EventKind::OrchestrationStarted {
        name: instance.orchestration_name.clone(),
        version: instance.orchestration_version.clone(),
        input: String::new(),
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        carry_forward_events: None,
        initial_custom_status: None,
    };
    let event = |(id, kind)| Event::with_event_id(id, &instance.instance_id, instance.execution_id, None, kind);
    Some([(1, begin), (2, end)].into_iter().map(event).collect())
}

/// Decodes a history; the first event that cannot be decoded is the error.
pub(crate) fn decode_history<P: AsRef<[u8]>>(payloads: &[P]) -> Result<Vec<Event>, String> {
    payloads
        .iter()
        .enumerate()
        .map(|(n, bytes)| {
            serde_json::from_slice(bytes.as_ref()).map_err(|e| format!("event at position {n} cannot be decoded: {e}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_order_like_their_numbers() {
        let v = |s: &str| pack_version(&semver::Version::parse(s).unwrap());
        assert!(v("0.0.0") > 0);
        assert!(v("0.1.9") < v("0.1.10"));
        assert!(v("0.999.999") < v("1.0.0"));
        assert_eq!(unpack_version(v("12.34.56")), "12.34.56");
    }

    #[test]
    fn tags_and_no_tag_differ() {
        assert_ne!(tag_key(None), tag_key(Some("")));
        assert_eq!(tag_keys(&TagFilter::Any), None);
        assert_eq!(tag_keys(&TagFilter::None), Some(vec![]));
        assert_eq!(tag_keys(&TagFilter::default_and(["gpu"])).unwrap().len(), 2);
    }

    #[test]
    fn a_timer_for_ever_is_stored_as_the_last_year() {
        let item = WorkItem::TimerFired {
            instance: "i".into(),
            execution_id: 1,
            id: 2,
            fire_at_ms: u64::MAX,
        };
        assert_eq!(
            Message::encode(&item, PayloadLimit::default()).unwrap().due_ms,
            Some(MAX_DUE_MS as i64)
        );
    }

    proptest! {
        #[test]
        fn index_keys_are_short_and_distinct(a in prop::collection::vec(any::<u8>(), 0..1500),
                                             b in prop::collection::vec(any::<u8>(), 0..1500)) {
            prop_assert!(index_key(&a).len() <= 513);
            prop_assert_eq!(index_key(&a) == index_key(&b), a == b);
        }

        #[test]
        fn payloads_come_back_whatever_they_hold(instance in "[^\\x00]{0,40}", data in any::<String>()) {
            let item = WorkItem::ExternalRaised { instance, name: data.clone(), data };
            let message = Message::encode(&item, PayloadLimit::default()).unwrap();
            prop_assert_eq!(serde_json::from_slice::<WorkItem>(&message.payload).unwrap(), item);
        }
    }
}
