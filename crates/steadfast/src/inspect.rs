//! What people and tools want to see of a store, beyond the framework's management interface: the same for every engine.
//!
//! Invariant: plain values, and who can give them; nothing here reads a store.

use duroxide::providers::{ExecutionInfo, InstanceFilter, Provider, ProviderAdmin, ProviderError};

use crate::transfer::Transfer;

/// What every engine lets people see of its store.
#[async_trait::async_trait]
pub trait Inspect: Provider + ProviderAdmin + Transfer {
    /// A page of instances, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn instances(&self, query: InstanceQuery) -> Result<Vec<InstanceSummary>, ProviderError>;

    /// One instance, `None` when it does not exist.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn instance(&self, instance: &str) -> Result<Option<InstanceDetail>, ProviderError>;

    /// The executions of an instance with their numbers of events, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn executions(&self, instance: &str) -> Result<Vec<ExecutionInfo>, ProviderError>;

    /// Depths, leases and due times of the queues. Counts rows: meant for people, not for every second.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn queues(&self) -> Result<Vec<QueueReport>, ProviderError>;

    /// Who works on this store now, besides this provider, as far as it can be seen; idle ones too. On PostgreSQL: every
    /// listener that waits for work; a file: the first other process that has it open (a reader counts as well).
    ///
    /// # Errors
    /// When the store cannot be asked.
    async fn workers(&self) -> Result<Vec<String>, ProviderError>;

    /// The roots that [`ProviderAdmin::delete_instance_bulk`] would delete by this filter, each with its tree, oldest
    /// completion first.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn deletable(&self, filter: InstanceFilter) -> Result<Vec<String>, ProviderError>;

    /// What the store lacks to work: objects and grants, one line each. Nothing on an engine that needs none.
    ///
    /// # Errors
    /// When the store cannot be asked.
    async fn missing(&self) -> Result<Vec<String>, ProviderError>;

    /// Ends waiting fetches and what is open. Calls made afterwards fail.
    async fn close(&self);
}

/// Status of an instance that was started and that no worker has taken yet: there is nothing of it but its start, and
/// what else was sent to it.
pub const PENDING: &str = "Pending";

/// Which instances to list. `default()` lists nothing: set `limit`.
#[derive(Debug, Clone, Default)]
pub struct InstanceQuery {
    /// Only this status: [`PENDING`], `Running`, `Completed`, `Failed`, `ContinuedAsNew`.
    pub status: Option<String>,
    /// Only this orchestration.
    pub name: Option<String>,
    /// Only ids that begin so.
    pub prefix: Option<String>,
    /// Continue after the row with this key (of an earlier page).
    pub before: Option<u64>,
    /// At most so many.
    pub limit: u32,
}

/// A row of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstanceSummary {
    /// Incarnation of the instance in this store (a pending one has a key for the time being); also the page token.
    pub key: u64,
    /// The instance's id.
    pub instance_id: String,
    /// Name of the orchestration.
    pub orchestration_name: String,
    /// Version of the orchestration, `unknown` when it has none.
    pub orchestration_version: String,
    /// Current execution.
    pub execution_id: u64,
    /// Status of the current execution, or [`PENDING`].
    pub status: String,
    /// The orchestration that started it, if one did.
    pub parent_instance_id: Option<String>,
    /// When its start was sent, in ms since the epoch by the database's clock.
    pub created_at_ms: u64,
    /// When its last turn was committed, likewise.
    pub updated_at_ms: u64,
}

/// Everything about an instance but its history and key-values.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InstanceDetail {
    /// As in a listing.
    pub summary: InstanceSummary,
    /// Result, error or next input of the current execution.
    pub output: Option<String>,
    /// Custom status, if one is set.
    pub custom_status: Option<String>,
    /// How often the custom status was set or cleared.
    pub custom_status_version: u64,
    /// Version of duroxide that the current execution is pinned to.
    pub replay_version: Option<String>,
    /// Messages that wait for it, due or not.
    pub pending_messages: u64,
    /// Rest of the lease if a dispatcher holds it; negative when it has ended.
    pub lease_left_ms: Option<i64>,
}

/// What waits in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueReport {
    /// `orchestrator`, `worker` or `quarantine`.
    pub queue: String,
    /// Due and free.
    pub ready: u64,
    /// Due later.
    pub delayed: u64,
    /// Handed out.
    pub leased: u64,
    /// Leases held: instances for the orchestrator queue, activities for the worker queue.
    pub leases: u64,
    /// Age of the oldest item that is due and free.
    pub oldest_due_ms: Option<u64>,
    /// Time until the next delayed item is due.
    pub next_due_ms: Option<u64>,
}
