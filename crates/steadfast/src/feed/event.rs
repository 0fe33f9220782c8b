//! What a reader is handed: events, and the batch they come in.
//!
//! Invariant: plain values.

use super::kind::Kind;
use super::token::Token;

/// Something that happened to an instance.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Event {
    /// Its place in the feed, from 1.
    pub sequence: u64,
    /// Where to resume behind it.
    pub token: Token,
    /// The instance.
    pub instance: String,
    /// The execution it belongs to.
    pub execution_id: u64,
    /// What happened.
    pub kind: Kind,
    /// The event's id in the history; `None` for what no history holds (deleted, pruned).
    pub event_id: Option<u64>,
    /// When the operation was done, in milliseconds since 1970 by the store's clock. Not necessarily increasing.
    pub at_ms: u64,
    /// Name of the orchestration, once the instance has one.
    pub orchestration: Option<String>,
    /// No further event of the same operation follows: what was written together has been handed out. With a filter by
    /// kind, the last one may be filtered away.
    pub ends_operation: bool,
    /// The event as the history holds it, where the poller asks for payloads and the history still has it.
    pub payload: Option<Box<duroxide::Event>>,
}

/// What one poll brought.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Batch {
    /// In the order of their sequences. Empty when nothing matched.
    pub events: Vec<Event>,
    /// Where to resume after this batch has been processed; moves on even when all was filtered away.
    pub next: Token,
    /// The last sequence that was assigned when the batch was read.
    pub head: u64,
    /// Everything that was committed when the batch was read has been handed out: the end was reached and nothing was
    /// pending.
    pub caught_up: bool,
}
