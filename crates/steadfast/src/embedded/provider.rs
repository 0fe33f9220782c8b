//! duroxide's `Provider` on one SQLite file: each method checks its input and hands it to its operation.
//!
//! Invariant: no logic lives here.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::{
    DispatcherCapabilityFilter, ExecutionMetadata, OrchestrationItem, Provider, ProviderAdmin, ProviderError,
    ScheduledActivityIdentifier, SessionFetchConfig, TagFilter, WorkItem,
};
use duroxide::{Event, SystemStats};

use super::builder::{Builder, OpenError};
use super::connection::Place;
use super::error::StoreError;
use super::op::abandon_orchestration_item::AbandonedTurn;
use super::op::abandon_work_item::AbandonedWork;
use super::op::ack_orchestration_item::AckTurn;
use super::op::ack_work_item::AckedWork;
use super::op::append_with_execution::Appended;
use super::op::enqueue_for_orchestrator::Enqueued;
use super::op::enqueue_for_worker::QueuedActivity;
use super::op::renew_orchestration_item_lock::RenewedTurn;
use super::op::renew_work_item_lock::RenewedWork;
use super::store::Store;
use super::{fetch, op};
use crate::group::{TurnGroup, WorkGroup};
use crate::item::{Activity, Message, signed};
use crate::refused::{self, Failure};
use crate::token::{InvalidToken, TurnToken, WorkToken};
use crate::turn::EncodedTurn;

/// A duroxide provider on one SQLite file. Clones share everything.
///
/// Call [`close`](Self::close) before the process ends. Dropping the last clone does the same in the background, without
/// waiting for it; a process that ends at once after that loses nothing that was acknowledged.
#[derive(Clone)]
pub struct EmbeddedProvider(Arc<Handle>);

/// Ends the store with the last clone.
struct Handle(Arc<Store>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.begin_close();
    }
}

impl fmt::Debug for EmbeddedProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedProvider")
            .field("place", &self.store().place().describe())
            .finish_non_exhaustive()
    }
}

impl EmbeddedProvider {
    pub(crate) fn over(store: Arc<Store>) -> Self {
        Self(Arc::new(Handle(store)))
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.0.0
    }

    /// Opens the store in this file, making it where it is missing. See [`builder`](Self::builder).
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder(path).open().await
    }

    /// A store in memory, gone with its provider: for tests.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn in_memory() -> Result<Self, OpenError> {
        Self::builder_in_memory().open().await
    }

    /// Settings for a provider on this file.
    pub fn builder(path: impl AsRef<Path>) -> Builder {
        Builder::new(path.as_ref())
    }

    /// Settings for a store in memory.
    pub fn builder_in_memory() -> Builder {
        Builder::over(Place::Memory)
    }

    /// Ends waiting fetches, lets what was handed in come to its end, and closes the file. Calls made afterwards fail.
    pub async fn close(&self) {
        self.store().close().await;
    }
}

/// The framework's view of an error.
fn refuse<E: Into<StoreError>>(operation: &'static str) -> impl Fn(E) -> ProviderError {
    move |error| error.into().into_provider_error(operation)
}

#[async_trait::async_trait]
impl Provider for EmbeddedProvider {
    fn name(&self) -> &str {
        "steadfast-embedded"
    }

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    async fn fetch_orchestration_item(
        &self,
        lock_timeout: Duration,
        poll_timeout: Duration,
        filter: Option<&DispatcherCapabilityFilter>,
    ) -> Result<Option<(OrchestrationItem, String, u32)>, ProviderError> {
        let Some(group) = TurnGroup::new(lock_timeout, filter) else {
            return Ok(None);
        };
        let wait = self.store().patience(poll_timeout);
        let turn = fetch::turn(self.store(), group, wait)
            .await
            .map_err(refuse("fetch_orchestration_item"))?;
        Ok(turn.map(|t| (t.item, t.token.to_string(), t.attempt_count)))
    }

    async fn ack_orchestration_item(
        &self,
        lock_token: &str,
        execution_id: u64,
        mut history_delta: Vec<Event>,
        worker_items: Vec<WorkItem>,
        mut orchestrator_items: Vec<WorkItem>,
        mut metadata: ExecutionMetadata,
        cancelled_activities: Vec<ScheduledActivityIdentifier>,
    ) -> Result<(), ProviderError> {
        const OP: &str = "ack_orchestration_item";
        let token = lock_token.parse().map_err(refuse::<InvalidToken>(OP))?;
        let failure = Failure {
            execution_id,
            events: &mut history_delta,
            messages: &mut orchestrator_items,
            metadata: &mut metadata,
        };
        op::ack_orchestration_item::complete(self.store(), lock_token, failure)
            .await
            .map_err(refuse(OP))?;
        let began = refused::beginning(&history_delta);
        let turn = EncodedTurn::encode(
            token,
            execution_id,
            history_delta,
            &worker_items,
            &orchestrator_items,
            metadata,
            &cancelled_activities,
            self.store().payload_limit(),
        );
        let acked = match turn {
            Ok(turn) => op::ack_orchestration_item::ack(self.store(), AckTurn(turn)).await,
            Err(error) => Err(error.into()),
        };
        match &acked {
            Ok(()) => self.store().refused.forget(lock_token),
            Err(error) if error.refuses_content() => self.store().refused.note(lock_token, began),
            Err(_) => {}
        }
        acked.map_err(refuse(OP))
    }

    async fn abandon_orchestration_item(
        &self,
        lock_token: &str,
        delay: Option<Duration>,
        ignore_attempt: bool,
    ) -> Result<(), ProviderError> {
        const OP: &str = "abandon_orchestration_item";
        let token: TurnToken = lock_token.parse().map_err(refuse::<InvalidToken>(OP))?;
        self.store()
            .submit(AbandonedTurn {
                token,
                delay,
                ignore_attempt: ignore_attempt || self.store().spent.contains(token),
            })
            .await
            .map_err(refuse(OP))
    }

    async fn renew_orchestration_item_lock(&self, token: &str, extend_for: Duration) -> Result<(), ProviderError> {
        const OP: &str = "renew_orchestration_item_lock";
        let token = token.parse().map_err(refuse::<InvalidToken>(OP))?;
        self.store()
            .submit(RenewedTurn { token, extend_for })
            .await
            .map_err(refuse(OP))
    }

    async fn read(&self, instance: &str) -> Result<Vec<Event>, ProviderError> {
        op::read::read_execution(self.store(), instance, None)
            .await
            .map_err(refuse("read"))
    }

    async fn read_with_execution(&self, instance: &str, execution_id: u64) -> Result<Vec<Event>, ProviderError> {
        const OP: &str = "read_with_execution";
        let execution_id = signed("execution id", execution_id).map_err(refuse(OP))?;
        op::read::read_execution(self.store(), instance, Some(execution_id))
            .await
            .map_err(refuse(OP))
    }

    async fn append_with_execution(
        &self,
        instance: &str,
        execution_id: u64,
        new_events: Vec<Event>,
    ) -> Result<(), ProviderError> {
        const OP: &str = "append_with_execution";
        let appended = Appended::encode(instance, execution_id, &new_events).map_err(refuse(OP))?;
        self.store().submit(appended).await.map_err(refuse(OP))
    }

    async fn enqueue_for_worker(&self, item: WorkItem) -> Result<(), ProviderError> {
        const OP: &str = "enqueue_for_worker";
        let activity = Activity::encode(&item, self.store().payload_limit()).map_err(refuse(OP))?;
        self.store().submit(QueuedActivity(activity)).await.map_err(refuse(OP))
    }

    async fn fetch_work_item(
        &self,
        lock_timeout: Duration,
        poll_timeout: Duration,
        session: Option<&SessionFetchConfig>,
        tag_filter: &TagFilter,
    ) -> Result<Option<(WorkItem, String, u32)>, ProviderError> {
        let Some(group) = WorkGroup::new(lock_timeout, session, tag_filter) else {
            return Ok(None);
        };
        let owner = session.map(|s| s.owner_id.clone()).unwrap_or_default();
        let wait = self.store().patience(poll_timeout);
        let work = fetch::work(self.store(), group, &owner, wait)
            .await
            .map_err(refuse("fetch_work_item"))?;
        Ok(work.map(|w| (w.item, w.token.to_string(), w.attempt_count)))
    }

    async fn ack_work_item(&self, token: &str, completion: Option<WorkItem>) -> Result<(), ProviderError> {
        const OP: &str = "ack_work_item";
        let token = token.parse().map_err(refuse::<InvalidToken>(OP))?;
        let work = AckedWork::encode(token, completion.as_ref(), self.store().payload_limit()).map_err(refuse(OP))?;
        op::ack_work_item::ack(self.store(), work).await.map_err(refuse(OP))
    }

    async fn renew_work_item_lock(&self, token: &str, extend_for: Duration) -> Result<(), ProviderError> {
        const OP: &str = "renew_work_item_lock";
        let token = token.parse().map_err(refuse::<InvalidToken>(OP))?;
        self.store()
            .submit(RenewedWork { token, extend_for })
            .await
            .map_err(refuse(OP))
    }

    async fn abandon_work_item(
        &self,
        token: &str,
        delay: Option<Duration>,
        ignore_attempt: bool,
    ) -> Result<(), ProviderError> {
        const OP: &str = "abandon_work_item";
        let token: WorkToken = token.parse().map_err(refuse::<InvalidToken>(OP))?;
        self.store()
            .submit(AbandonedWork {
                token,
                delay,
                ignore_attempt: ignore_attempt || self.store().spent.contains(token),
            })
            .await
            .map_err(refuse(OP))
    }

    async fn renew_session_lock(
        &self,
        owner_ids: &[&str],
        extend_for: Duration,
        idle_timeout: Duration,
    ) -> Result<usize, ProviderError> {
        op::renew_session_lock::renew(self.store(), owner_ids, extend_for, idle_timeout)
            .await
            .map_err(refuse("renew_session_lock"))
    }

    async fn cleanup_orphaned_sessions(&self, _idle_timeout: Duration) -> Result<usize, ProviderError> {
        op::cleanup_orphaned_sessions::sweep(self.store())
            .await
            .map_err(refuse("cleanup_orphaned_sessions"))
    }

    async fn enqueue_for_orchestrator(&self, item: WorkItem, delay: Option<Duration>) -> Result<(), ProviderError> {
        const OP: &str = "enqueue_for_orchestrator";
        let message = Message::encode_arrival(&item, self.store().payload_limit()).map_err(refuse(OP))?;
        self.store()
            .submit(Enqueued { message, delay })
            .await
            .map_err(refuse(OP))
    }

    async fn get_custom_status(
        &self,
        instance: &str,
        last_seen_version: u64,
    ) -> Result<Option<(Option<String>, u64)>, ProviderError> {
        // A version that cannot be stored cannot be exceeded.
        let Ok(seen) = i64::try_from(last_seen_version) else {
            return Ok(None);
        };
        op::get_custom_status::after(self.store(), instance, seen)
            .await
            .map_err(refuse("get_custom_status"))
    }

    async fn get_kv_value(&self, instance: &str, key: &str) -> Result<Option<String>, ProviderError> {
        let mut values = op::get_kv::get(self.store(), instance, Some(key))
            .await
            .map_err(refuse("get_kv_value"))?;
        Ok(values.remove(key))
    }

    async fn get_kv_all_values(&self, instance: &str) -> Result<HashMap<String, String>, ProviderError> {
        op::get_kv::get(self.store(), instance, None)
            .await
            .map_err(refuse("get_kv_all_values"))
    }

    async fn get_instance_stats(&self, instance: &str) -> Result<Option<SystemStats>, ProviderError> {
        op::get_instance_stats::get(self.store(), instance)
            .await
            .map_err(refuse("get_instance_stats"))
    }

    fn as_management_capability(&self) -> Option<&dyn ProviderAdmin> {
        Some(self)
    }
}
