//! What people and tools want to see of a file, beyond the framework's management interface.
//!
//! Invariant: reads only; everything is bounded or asked for one instance at a time.

use std::path::Path;

use duroxide::providers::{ExecutionInfo, InstanceFilter, ProviderError};
use uuid::Uuid;

use super::connection::Place;
use super::op;
use super::op::take_staged::{Staged, TakeStaged};
use super::provider::EmbeddedProvider;
use crate::inspect::{Inspect, InstanceDetail, InstanceQuery, InstanceSummary, QueueReport};
use crate::transfer::{Page, Part, Position, Row, State, Taken, Transfer};

/// How a provider fares.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Why the last transaction failed, if it did.
    pub trouble: Option<String>,
    /// Callers that wait for an instance.
    pub waiting_dispatchers: usize,
    /// Callers that wait for an activity.
    pub waiting_workers: usize,
    /// Bytes of the history cache.
    pub history_cache_bytes: usize,
    /// The file is only looked at, was not closed in order, and has no log beside it: a copy of an open file that was
    /// taken without its log lacks the newest work.
    pub may_lack_its_log: bool,
}

impl EmbeddedProvider {
    /// The file; `None` for a store in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self.store().place() {
            Place::File(path) => Some(path),
            Place::Memory => None,
        }
    }

    /// A page of instances, newest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn instances(&self, query: InstanceQuery) -> Result<Vec<InstanceSummary>, ProviderError> {
        op::list_instances::page(self.store(), &query)
            .await
            .map_err(|e| e.into_provider_error("instances"))
    }

    /// One instance, `None` when it does not exist.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn instance(&self, instance: &str) -> Result<Option<InstanceDetail>, ProviderError> {
        op::instance_detail::get(self.store(), instance)
            .await
            .map_err(|e| e.into_provider_error("instance"))
    }

    /// The executions of an instance with their numbers of events, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn executions(&self, instance: &str) -> Result<Vec<ExecutionInfo>, ProviderError> {
        op::list_executions::list(self.store(), instance, None, true)
            .await
            .map_err(|e| e.into_provider_error("executions"))
    }

    /// Depths, leases and due times of the queues. Counts rows: meant for people, not for every second.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn queues(&self) -> Result<Vec<QueueReport>, ProviderError> {
        op::queue_report::get(self.store())
            .await
            .map_err(|e| e.into_provider_error("queues"))
    }

    /// How this provider fares; asks nobody.
    #[must_use]
    pub fn health(&self) -> Health {
        let store = self.store();
        let (waiting_dispatchers, waiting_workers) = store.waiting();
        Health {
            trouble: store.trouble().map(|e| e.to_string()),
            waiting_dispatchers,
            waiting_workers,
            history_cache_bytes: store.cache().bytes(),
            may_lack_its_log: store.look().is_some_and(|look| look.may_lack_its_log),
        }
    }
}

/// `process 12 (steadfast)`.
fn process_name(pid: i32) -> String {
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) if pid == 0 => "another process".to_owned(),
        Err(_) => format!("process {pid}"),
    }
}

#[async_trait::async_trait]
impl Inspect for EmbeddedProvider {
    async fn instances(&self, query: InstanceQuery) -> Result<Vec<InstanceSummary>, ProviderError> {
        Self::instances(self, query).await
    }

    async fn instance(&self, instance: &str) -> Result<Option<InstanceDetail>, ProviderError> {
        Self::instance(self, instance).await
    }

    async fn executions(&self, instance: &str) -> Result<Vec<ExecutionInfo>, ProviderError> {
        Self::executions(self, instance).await
    }

    async fn queues(&self) -> Result<Vec<QueueReport>, ProviderError> {
        Self::queues(self).await
    }

    async fn workers(&self) -> Result<Vec<String>, ProviderError> {
        let found = self.store().other_process();
        let found = found.map_err(|error| ProviderError::retryable("workers", error.to_string()))?;
        Ok(found.into_iter().map(process_name).collect())
    }

    async fn deletable(&self, filter: InstanceFilter) -> Result<Vec<String>, ProviderError> {
        op::delete_instances::deletable(self.store(), &filter)
            .await
            .map_err(|e| e.into_provider_error("deletable"))
    }

    async fn missing(&self) -> Result<Vec<String>, ProviderError> {
        Ok(self.store().trouble().map(|e| e.to_string()).into_iter().collect())
    }

    async fn close(&self) {
        Self::close(self).await;
    }
}

#[async_trait::async_trait]
impl Transfer for EmbeddedProvider {
    async fn transfer_state(&self) -> Result<State, ProviderError> {
        op::export_rows::state(self.store())
            .await
            .map_err(|e| e.into_provider_error("transfer_state"))
    }

    async fn export_rows(&self, part: Part, after: Position, shift_ms: i64) -> Result<Page, ProviderError> {
        op::export_rows::page(self.store(), part, after, shift_ms)
            .await
            .map_err(|e| e.into_provider_error("export_rows"))
    }

    async fn stage_rows(
        &self,
        copy_id: Uuid,
        first_row: u64,
        mut rows: Vec<Row>,
        shift_ms: i64,
    ) -> Result<(), ProviderError> {
        rows.iter_mut().for_each(|row| row.shift(-shift_ms));
        let first_row = i64::try_from(first_row).unwrap_or(i64::MAX);
        self.store()
            .submit(Staged {
                copy_id,
                first_row,
                rows,
            })
            .await
            .map_err(|e| e.into_provider_error("stage_rows"))
    }

    async fn take_staged(&self, copy_id: Uuid, rows: u64) -> Result<Taken, ProviderError> {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        self.store()
            .submit(TakeStaged { copy_id, rows })
            .await
            .map_err(|e| e.into_provider_error("take_staged"))
    }
}
