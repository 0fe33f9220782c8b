//! The operations, one a file; each is named as the PostgreSQL engine names it.
//!
//! Invariant: an operation that refuses has written nothing; one that fails otherwise is undone with its whole
//! transaction, and may be run again.

use std::time::Duration;

use super::error::StoreError;
use super::transaction::Tx;

pub(crate) mod abandon_orchestration_item;
pub(crate) mod abandon_work_item;
pub(crate) mod ack_orchestration_item;
pub(crate) mod ack_work_item;
pub(crate) mod append_with_execution;
pub(crate) mod cleanup_orphaned_sessions;
pub(crate) mod delete_instances;
pub(crate) mod enqueue_for_orchestrator;
pub(crate) mod enqueue_for_worker;
pub(crate) mod export_rows;
pub(crate) mod feed_append;
pub(crate) mod feed_commit;
pub(crate) mod feed_trim;
pub(crate) mod fetch_orchestration_item;
pub(crate) mod fetch_work_item;
pub(crate) mod get_custom_status;
pub(crate) mod get_instance_stats;
pub(crate) mod get_kv;
pub(crate) mod hold_messages;
pub(crate) mod instance_detail;
pub(crate) mod list_children;
pub(crate) mod list_executions;
pub(crate) mod list_instances;
pub(crate) mod pending_instances;
pub(crate) mod prune_executions;
pub(crate) mod quarantine;
pub(crate) mod queue_depths;
pub(crate) mod queue_report;
pub(crate) mod read;
pub(crate) mod renew_orchestration_item_lock;
pub(crate) mod renew_session_lock;
pub(crate) mod renew_work_item_lock;
pub(crate) mod schedule;
pub(crate) mod system_metrics;
pub(crate) mod take_staged;

/// Something that the writer does.
pub(crate) trait Operation: Send + 'static {
    /// Name for logs and metrics.
    const NAME: &'static str;
    type Answer: Send + 'static;

    /// Payload bytes, roughly.
    fn bytes(&self) -> usize {
        0
    }

    /// The lease it runs under: until when repeating it makes sense.
    fn lease(&self) -> Option<Duration> {
        None
    }

    /// Does it, or refuses before anything is written.
    fn apply(&self, tx: &mut Tx<'_>) -> Result<Self::Answer, StoreError>;

    /// Trouble has lasted longer than its lease: the attempt that it was is given back.
    fn give_attempt_back(&self, _: &mut Tx<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}
