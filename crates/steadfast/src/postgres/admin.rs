//! duroxide's `ProviderAdmin` on PostgreSQL: each method hands its input to its operation.
//!
//! Invariant: no logic lives here.

use duroxide::Event;
use duroxide::providers::{
    DeleteInstanceResult, ExecutionInfo, InstanceFilter, InstanceInfo, InstanceTree, Provider, ProviderAdmin,
    ProviderError, PruneOptions, PruneResult, QueueDepths, SystemMetrics,
};

use super::error::StoreError;
use super::provider::PostgresProvider;
use super::{op, vouched};
use crate::inspect::InstanceDetail;

fn refuse(operation: &'static str) -> impl Fn(StoreError) -> ProviderError {
    move |error| error.into_provider_error(operation)
}

fn not_found(operation: &'static str, instance: &str) -> ProviderError {
    ProviderError::permanent(operation, format!("Instance {instance} not found"))
}

impl PostgresProvider {
    async fn existing(&self, operation: &'static str, instance: &str) -> Result<InstanceDetail, ProviderError> {
        op::instance_detail::get(self.store(), instance)
            .await
            .map_err(refuse(operation))?
            .ok_or_else(|| not_found(operation, instance))
    }
}

#[async_trait::async_trait]
impl ProviderAdmin for PostgresProvider {
    async fn list_instances(&self) -> Result<Vec<String>, ProviderError> {
        op::list_instances::all_ids(self.store(), None)
            .await
            .map_err(refuse("list_instances"))
    }

    async fn list_instances_by_status(&self, status: &str) -> Result<Vec<String>, ProviderError> {
        op::list_instances::all_ids(self.store(), Some(status))
            .await
            .map_err(refuse("list_instances_by_status"))
    }

    async fn list_executions(&self, instance: &str) -> Result<Vec<u64>, ProviderError> {
        let executions = op::list_executions::list(self.store(), instance, None, false)
            .await
            .map_err(refuse("list_executions"))?;
        Ok(executions.into_iter().map(|e| e.execution_id).collect())
    }

    async fn read_history_with_execution_id(
        &self,
        instance: &str,
        execution_id: u64,
    ) -> Result<Vec<Event>, ProviderError> {
        self.read_with_execution(instance, execution_id).await
    }

    async fn read_history(&self, instance: &str) -> Result<Vec<Event>, ProviderError> {
        self.read(instance).await
    }

    async fn latest_execution_id(&self, instance: &str) -> Result<u64, ProviderError> {
        // The framework's convention: an instance that does not exist is at its first execution.
        let detail = op::instance_detail::get(self.store(), instance)
            .await
            .map_err(refuse("latest_execution_id"))?;
        Ok(detail.map_or(duroxide::INITIAL_EXECUTION_ID, |d| d.summary.execution_id))
    }

    async fn get_instance_info(&self, instance: &str) -> Result<InstanceInfo, ProviderError> {
        let detail = self.existing("get_instance_info", instance).await?;
        Ok(InstanceInfo {
            instance_id: detail.summary.instance_id,
            orchestration_name: detail.summary.orchestration_name,
            orchestration_version: detail.summary.orchestration_version,
            current_execution_id: detail.summary.execution_id,
            status: detail.summary.status,
            output: detail.output,
            created_at: detail.summary.created_at_ms,
            updated_at: detail.summary.updated_at_ms,
            parent_instance_id: detail.summary.parent_instance_id,
        })
    }

    async fn get_execution_info(&self, instance: &str, execution_id: u64) -> Result<ExecutionInfo, ProviderError> {
        const OP: &str = "get_execution_info";
        let found = op::list_executions::list(self.store(), instance, Some(execution_id), true)
            .await
            .map_err(refuse(OP))?;
        found.into_iter().next().ok_or_else(|| {
            ProviderError::permanent(
                OP,
                format!("Execution {execution_id} not found for instance {instance}"),
            )
        })
    }

    async fn get_system_metrics(&self) -> Result<SystemMetrics, ProviderError> {
        op::system_metrics::get(self.store())
            .await
            .map_err(refuse("get_system_metrics"))
    }

    async fn get_queue_depths(&self) -> Result<QueueDepths, ProviderError> {
        op::queue_depths::get(self.store())
            .await
            .map_err(refuse("get_queue_depths"))
    }

    async fn list_children(&self, instance_id: &str) -> Result<Vec<String>, ProviderError> {
        op::list_children::list(self.store(), instance_id, false)
            .await
            .map_err(refuse("list_children"))
    }

    async fn get_parent_id(&self, instance_id: &str) -> Result<Option<String>, ProviderError> {
        Ok(self
            .existing("get_parent_id", instance_id)
            .await?
            .summary
            .parent_instance_id)
    }

    async fn get_instance_tree(&self, instance_id: &str) -> Result<InstanceTree, ProviderError> {
        let all_ids = op::list_children::list(self.store(), instance_id, true)
            .await
            .map_err(refuse("get_instance_tree"))?;
        Ok(InstanceTree {
            root_id: instance_id.to_owned(),
            all_ids,
        })
    }

    async fn delete_instances_atomic(
        &self,
        ids: &[String],
        force: bool,
    ) -> Result<DeleteInstanceResult, ProviderError> {
        vouched::forget();
        op::delete_instances::delete(self.store(), ids, force)
            .await
            .map_err(refuse("delete_instances_atomic"))
    }

    async fn delete_instance(&self, instance_id: &str, force: bool) -> Result<DeleteInstanceResult, ProviderError> {
        vouched::forget();
        op::delete_instances::delete_tree(self.store(), instance_id, force)
            .await
            .map_err(refuse("delete_instance"))
    }

    async fn delete_instance_bulk(&self, filter: InstanceFilter) -> Result<DeleteInstanceResult, ProviderError> {
        vouched::forget();
        op::delete_instances::delete_bulk(self.store(), &filter)
            .await
            .map_err(refuse("delete_instance_bulk"))
    }

    async fn prune_executions(&self, instance_id: &str, options: PruneOptions) -> Result<PruneResult, ProviderError> {
        vouched::forget();
        op::prune_executions::prune(self.store(), instance_id, &options)
            .await
            .map_err(refuse("prune_executions"))
    }

    async fn prune_executions_bulk(
        &self,
        filter: InstanceFilter,
        options: PruneOptions,
    ) -> Result<PruneResult, ProviderError> {
        vouched::forget();
        op::prune_executions::prune_bulk(self.store(), &filter, &options)
            .await
            .map_err(refuse("prune_executions_bulk"))
    }
}
