//! What people and tools want to see of a store, beyond the framework's management interface.
//!
//! Invariant: reads only; everything is bounded or asked for one instance at a time.

use duroxide::providers::{ExecutionInfo, InstanceFilter, ProviderError};
use uuid::Uuid;

use super::errand::with_connection;
use super::listen::ListenerState;
use super::op;
use super::provider::PostgresProvider;
use super::rights::{self, Access, Missing};
use crate::inspect::{Inspect, InstanceDetail, InstanceQuery, InstanceSummary, QueueReport};
use crate::transfer::{Page, Part, Position, Row, State, Taken, Transfer};

/// How a provider fares.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Connections of the pool that are open.
    pub connections: usize,
    /// Of those, idle.
    pub idle_connections: usize,
    /// Whether hints from other processes arrive.
    pub listener: ListenerState,
    /// Callers that wait for an instance.
    pub waiting_dispatchers: usize,
    /// Callers that wait for an activity.
    pub waiting_workers: usize,
    /// Bytes of the history cache.
    pub history_cache_bytes: usize,
    /// What is not as it must be, and which object or grant is missing, while calls are held for it.
    pub trouble: Option<String>,
}

impl PostgresProvider {
    /// A page of instances, newest first.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn instances(&self, query: InstanceQuery) -> Result<Vec<InstanceSummary>, ProviderError> {
        op::list_instances::page(self.store(), &query)
            .await
            .map_err(|e| e.into_provider_error("instances"))
    }

    /// One instance, `None` when it does not exist.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn instance(&self, instance: &str) -> Result<Option<InstanceDetail>, ProviderError> {
        op::instance_detail::get(self.store(), instance)
            .await
            .map_err(|e| e.into_provider_error("instance"))
    }

    /// The executions of an instance with their numbers of events, oldest first.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn executions(&self, instance: &str) -> Result<Vec<ExecutionInfo>, ProviderError> {
        op::list_executions::list(self.store(), instance, None, true)
            .await
            .map_err(|e| e.into_provider_error("executions"))
    }

    /// Depths, leases and due times of the queues. Counts rows: meant for people, not for every second.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn queues(&self) -> Result<Vec<QueueReport>, ProviderError> {
        op::queue_report::get(self.store())
            .await
            .map_err(|e| e.into_provider_error("queues"))
    }

    /// Objects and grants that are missing, by the catalogue: for every role that may write to the store, and for this one
    /// unless it was opened to read.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn missing(&self) -> Result<Vec<String>, ProviderError> {
        let store = self.store();
        let settings = store.pipe.settings();
        let (own, records) = (settings.access == Access::Work, store.feed.records());
        let missing = with_connection(&store.connector, settings.call_timeout, async |client| {
            rights::missing(client, &settings.schema, records, own, true).await
        });
        match missing.await {
            Ok(missing) => Ok(missing.iter().map(Missing::describe).collect()),
            Err(error) => Err(error.into_provider_error("missing")),
        }
    }

    /// How this provider fares; asks nobody.
    #[must_use]
    pub fn health(&self) -> Health {
        let store = self.store();
        let (connections, idle_connections) = store.pipe.connections();
        Health {
            connections,
            idle_connections,
            listener: store.listener_state(),
            waiting_dispatchers: store.turns.waiting(),
            waiting_workers: store.work.waiting(),
            history_cache_bytes: store.cache().bytes(),
            trouble: store.pipe.gate().report(),
        }
    }
}

#[async_trait::async_trait]
impl Inspect for PostgresProvider {
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
        op::waiting_workers::get(self.store())
            .await
            .map_err(|e| e.into_provider_error("workers"))
    }

    async fn deletable(&self, filter: InstanceFilter) -> Result<Vec<String>, ProviderError> {
        op::delete_instances::deletable(self.store(), &filter)
            .await
            .map_err(|e| e.into_provider_error("deletable"))
    }

    async fn missing(&self) -> Result<Vec<String>, ProviderError> {
        Self::missing(self).await
    }

    async fn close(&self) {
        Self::close(self).await;
    }
}

#[async_trait::async_trait]
impl Transfer for PostgresProvider {
    async fn transfer_state(&self) -> Result<State, ProviderError> {
        op::export_rows::state(self.store())
            .await
            .map_err(|e| e.into_provider_error("transfer_state"))
    }

    async fn export_rows(&self, part: Part, after: Position, _: i64) -> Result<Page, ProviderError> {
        op::export_rows::page(self.store(), part, after)
            .await
            .map_err(|e| e.into_provider_error("export_rows"))
    }

    async fn stage_rows(&self, copy_id: Uuid, first_row: u64, rows: Vec<Row>, _: i64) -> Result<(), ProviderError> {
        let first_row = i64::try_from(first_row).unwrap_or(i64::MAX);
        op::take_staged::stage(self.store(), copy_id, first_row, rows)
            .await
            .map_err(|e| e.into_provider_error("stage_rows"))
    }

    async fn take_staged(&self, copy_id: Uuid, rows: u64) -> Result<Taken, ProviderError> {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        op::take_staged::take(self.store(), copy_id, rows)
            .await
            .map_err(|e| e.into_provider_error("take_staged"))
    }
}
