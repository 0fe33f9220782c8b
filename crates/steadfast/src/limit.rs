//! How large a payload may be, which every door asks before anything is sent, and how large a history.
//!
//! Invariant: what passes here is small enough for one message of the server, one value of a row, and a worker's memory.

use duroxide::ErrorDetails;
use duroxide::providers::WorkItem;

use crate::item::ItemError;

/// Largest payload, in bytes as it is stored, where the builder says nothing else: 16 MiB.
pub const DEFAULT_PAYLOAD_LIMIT: usize = 16 << 20;
/// The largest payload that a builder may allow: 128 MiB.
pub const MAX_PAYLOAD_LIMIT: usize = 128 << 20;
/// The smallest limit that a builder takes.
const MIN_PAYLOAD_LIMIT: usize = 1 << 10;
/// Most that one turn writes altogether; PostgreSQL takes no message beyond 1 GiB.
const MAX_TURN: usize = 512 << 20;
/// What wraps a payload once more on its way (a start's input in the first event, say) may add so much.
const WRAPPING: usize = 64 << 10;
/// A poisoned message is quoted up to here in the error that it becomes.
const MAX_QUOTED: usize = 16 << 10;

/// What one claim brings altogether, beyond its first item: the rest is claimed by the next look, at once.
pub(crate) const MAX_CLAIM: usize = 16 << 20;
/// Largest history that is handed out for a turn, in bytes as it is stored, where the builder says nothing else: 256 MiB.
/// Replay holds each event five times (what was handed over, the runtime's own copy, the engine's, the turn's, and what was
/// delivered to the workflow), and the cache may hold it once more.
pub const DEFAULT_HISTORY_LIMIT: usize = 256 << 20;
/// Histories up to so many times the limit are read for people and clients, who do not replay them.
const READ: usize = 4;

/// The largest payload that a provider takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PayloadLimit(usize);

impl Default for PayloadLimit {
    fn default() -> Self {
        Self(DEFAULT_PAYLOAD_LIMIT)
    }
}

impl PayloadLimit {
    /// A limit that a builder was given, or what is wrong with it.
    pub(crate) fn new(bytes: usize) -> Result<Self, String> {
        if (MIN_PAYLOAD_LIMIT..=MAX_PAYLOAD_LIMIT).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(format!(
                "payload_limit of {bytes} bytes is not between {MIN_PAYLOAD_LIMIT} and {MAX_PAYLOAD_LIMIT}"
            ))
        }
    }

    /// Refuses a payload of so many bytes.
    pub(crate) fn check(self, what: &'static str, bytes: usize) -> Result<(), ItemError> {
        if bytes > self.0 {
            return Err(ItemError::PayloadTooLarge {
                what,
                bytes,
                max: self.0,
            });
        }
        Ok(())
    }

    /// Refuses a turn that writes so many bytes altogether.
    pub(crate) fn check_turn(self, bytes: usize) -> Result<(), ItemError> {
        let max = self.turn();
        if bytes > max {
            return Err(ItemError::TurnTooLarge { bytes, max });
        }
        Ok(())
    }

    /// Largest turn that is written.
    fn turn(self) -> usize {
        self.0.saturating_mul(16).min(MAX_TURN)
    }

    /// Why a stored payload is not handed out.
    pub(crate) fn too_large(self) -> String {
        format!("it is larger than the limit of {} bytes (payload_limit)", self.0)
    }

    /// Whether a stored message is handed out: one that continues an execution carries unread events beside its input.
    pub(crate) fn hands_out(self, payload: &[u8], history: HistoryLimit) -> bool {
        payload.len() <= self.0 + WRAPPING
            || (payload.starts_with(b"{\"ContinueAsNew\"") && history.lets_begin(payload.len()))
    }

    /// Largest stored payload that is handed out: what this limit lets in, and what may have wrapped it since.
    pub(crate) fn handed_out(self) -> i64 {
        i64::try_from(self.0 + WRAPPING).unwrap_or(i64::MAX)
    }
}

/// The largest history that a provider hands out for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HistoryLimit(usize);

impl HistoryLimit {
    /// A limit that a builder was given. What a payload within its limit makes of a history is let pass in any case.
    pub(crate) fn new(bytes: usize, payload: PayloadLimit) -> Self {
        Self(bytes.max(2 * (payload.0 + WRAPPING)))
    }

    /// Refuses to hand out a history of so many bytes.
    pub(crate) fn check(self, bytes: usize) -> Result<(), ItemError> {
        Self::within(bytes, self.0)
    }

    /// Refuses to read a history of so many bytes.
    pub(crate) fn check_read(self, bytes: usize) -> Result<(), ItemError> {
        Self::within(bytes, self.0.saturating_mul(READ))
    }

    fn within(bytes: usize, max: usize) -> Result<(), ItemError> {
        if bytes > max {
            return Err(ItemError::HistoryTooLarge { bytes, max });
        }
        Ok(())
    }

    /// Whether an execution may begin with a message of so many bytes: it is the first event of its history.
    pub(crate) fn lets_begin(self, bytes: usize) -> bool {
        bytes <= self.0
    }

    /// The limit in bytes.
    #[cfg(feature = "embedded")]
    pub(crate) fn bytes(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

/// What kind of payload an item carries, and its size before it is encoded: what is far too large is refused without
/// encoding it. The encoded item is never smaller.
pub(crate) fn content(item: &WorkItem) -> (&'static str, usize) {
    match item {
        WorkItem::StartOrchestration { input, .. } => ("input of an orchestration", input.len()),
        // Unread events that it carries were let in one by one; together they count for the turn.
        WorkItem::ContinueAsNew { input, .. } => ("input of a continued orchestration", input.len()),
        WorkItem::ActivityExecute { input, .. } => ("input of an activity", input.len()),
        WorkItem::ActivityCompleted { result, .. } => ("result of an activity", result.len()),
        WorkItem::ActivityFailed { details, .. } => ("error of an activity", length(details)),
        WorkItem::SubOrchCompleted { result, .. } => ("result of a sub-orchestration", result.len()),
        WorkItem::SubOrchFailed { details, .. } => ("error of a sub-orchestration", length(details)),
        WorkItem::ExternalRaised { data, .. } => ("data of an event", data.len()),
        WorkItem::QueueMessage { data, .. } => ("data of a queued event", data.len()),
        WorkItem::CancelInstance { reason, .. } => ("reason of a cancellation", reason.len()),
        _ => ("work item", 0),
    }
}

fn length(details: &ErrorDetails) -> usize {
    match details {
        ErrorDetails::Infrastructure { message, .. }
        | ErrorDetails::Application { message, .. }
        | ErrorDetails::Poison { message, .. } => message.len(),
        ErrorDetails::Configuration { message, .. } => message.as_ref().map_or(0, String::len),
    }
}

/// A poisoned message quoted no further than people read; `None` where nothing is to be cut. The runtime quotes a whole
/// batch, which may be larger than anything that is let in, and this last word must be heard.
pub(crate) fn shortened(details: &ErrorDetails) -> Option<ErrorDetails> {
    let mut cut = match details {
        ErrorDetails::Poison { message, .. } if message.len() > MAX_QUOTED => details.clone(),
        _ => return None,
    };
    if let ErrorDetails::Poison { message, .. } = &mut cut {
        let bytes = message.len();
        let mut end = MAX_QUOTED;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str(&format!("… ({bytes} bytes)"));
    }
    Some(cut)
}

/// A work item whose error quotes too much, shortened.
pub(crate) fn shortened_item(item: &WorkItem) -> Option<WorkItem> {
    match item {
        WorkItem::ActivityFailed {
            instance,
            execution_id,
            id,
            details,
        } => shortened(details).map(|details| WorkItem::ActivityFailed {
            instance: instance.clone(),
            execution_id: *execution_id,
            id: *id,
            details,
        }),
        WorkItem::SubOrchFailed {
            parent_instance,
            parent_execution_id,
            parent_id,
            details,
        } => shortened(details).map(|details| WorkItem::SubOrchFailed {
            parent_instance: parent_instance.clone(),
            parent_execution_id: *parent_execution_id,
            parent_id: *parent_id,
            details,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duroxide::PoisonMessageType;

    #[test]
    fn a_limit_is_named_with_its_size_and_setting() {
        let limit = PayloadLimit::new(2048).unwrap();
        assert!(limit.check("input of an activity", 2048).is_ok());
        let error = limit.check("input of an activity", 2049).unwrap_err().to_string();
        for part in ["input of an activity", "2049 bytes", "2048 bytes", "payload_limit"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(PayloadLimit::new(0).is_err());
        assert!(PayloadLimit::new(MAX_PAYLOAD_LIMIT + 1).is_err());
    }

    #[test]
    fn what_a_poison_quotes_is_cut_between_characters() {
        let details = ErrorDetails::Poison {
            attempt_count: 11,
            max_attempts: 10,
            message_type: PoisonMessageType::Orchestration {
                instance: "i".to_owned(),
                execution_id: 1,
            },
            message: "é".repeat(MAX_QUOTED) + "x",
        };
        let Some(ErrorDetails::Poison { message, .. }) = shortened(&details) else {
            panic!("not shortened");
        };
        assert!(message.len() < MAX_QUOTED + 40, "{}", message.len());
        assert!(message.ends_with("bytes)"), "{message:?}");
    }
}
