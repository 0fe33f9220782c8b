//! duroxide's `Provider` on PostgreSQL: each method checks its input and hands it to its operation.
//!
//! Invariant: no logic lives here.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::{
    DispatcherCapabilityFilter, ExecutionMetadata, OrchestrationItem, Provider, ProviderAdmin, ProviderError,
    ScheduledActivityIdentifier, SessionFetchConfig, TagFilter, WorkItem,
};
use duroxide::{Event, SystemStats};

use super::builder::{Builder, OpenError};
use super::errand::with_connection;
use super::error::StoreError;
use super::op::abandon_orchestration_item::AbandonedTurn;
use super::op::abandon_work_item::AbandonedWork;
use super::op::ack_work_item::AckedWork;
use super::op::enqueue_for_orchestrator::Enqueued;
use super::op::get_custom_status::CustomStatusAfter;
use super::op::renew_orchestration_item_lock::RenewedTurn;
use super::op::renew_work_item_lock::RenewedWork;
use super::schema;
use super::store::{Store, later};
use super::target::ConnectTarget;
use super::{op, vouched};
use crate::group::{TurnGroup, WorkGroup};
use crate::item::{Activity, Message, signed};
use crate::refusal::Refusal;
use crate::refused::{self, Failure};
use crate::token::{InvalidToken, TurnToken, WorkToken};
use crate::trouble::{Patience, Persistence, Setback};
use crate::turn::EncodedTurn;

/// A duroxide provider on PostgreSQL. Clones share everything.
///
/// It may be used from several runtimes, and outlives each of them: what it has to do it does in threads of its own. A
/// call whose future is dropped, with its runtime or without, is not sent if it was not sent yet, and otherwise takes
/// its course; what it had claimed goes back.
///
/// Call [`close`](Self::close) before the process ends; dropping the last clone does the same in the background, without
/// waiting for it.
#[derive(Clone)]
pub struct PostgresProvider(Arc<Handle>);

/// Ends the store with the last clone.
struct Handle(Arc<Store>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.begin_close();
        if self.0.is_busy() {
            // Claims that are under way must find connections to give back what they bring.
            let store = Arc::clone(&self.0);
            self.0.pipe.background().spawn(async move { store.close().await });
        } else {
            self.0.end_at_once();
        }
    }
}

impl fmt::Debug for PostgresProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresProvider")
            .field("server", &self.store().connector.describe())
            .field("schema", &self.schema())
            .finish_non_exhaustive()
    }
}

impl PostgresProvider {
    pub(crate) fn over(store: Arc<Store>) -> Self {
        Self(Arc::new(Handle(store)))
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.0.0
    }

    /// Opens a provider in schema `steadfast`, installing it if need be. See [`builder`](Self::builder).
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn connect(url: &str) -> Result<Self, OpenError> {
        Self::builder(url).connect().await
    }

    /// [`connect`](Self::connect), under the name that the existing PostgreSQL providers use.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn new(database_url: &str) -> Result<Self, OpenError> {
        Self::connect(database_url).await
    }

    /// Opens a provider in `schema_name` (`None`: `steadfast`), under the signature of the existing providers.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn new_with_schema(database_url: &str, schema_name: Option<&str>) -> Result<Self, OpenError> {
        let builder = Self::builder(database_url);
        match schema_name {
            Some(name) => builder.schema(name).connect().await,
            None => builder.connect().await,
        }
    }

    /// Settings for a provider at `url`: a URL or key=value string as libpq reads it, completed by `PG*`
    /// variables and the password file.
    pub fn builder(url: &str) -> Builder {
        Builder::new(ConnectTarget::parse(url))
    }

    /// Settings for a provider at an existing target.
    pub fn builder_for(target: ConnectTarget) -> Builder {
        Builder::new(Ok(target))
    }

    /// The schema that it lives in.
    #[must_use]
    pub fn schema(&self) -> &str {
        &self.store().pipe.settings().schema
    }

    /// Ends waiting fetches, lets what is under way come to its end, gives back what was claimed for nobody, and
    /// closes all connections. Calls made afterwards fail.
    pub async fn close(&self) {
        self.store().close().await;
    }

    /// Drops the tables, functions and views that opening made, and the schema if opening made that too and
    /// nothing else is in it. Irrevocable.
    ///
    /// # Errors
    /// When the database refuses, or somebody who uses the tables does not let go of them for `install_timeout`; nothing is
    /// dropped then.
    pub async fn cleanup_schema(&self) -> Result<(), ProviderError> {
        let name = self.schema().to_owned();
        let limit = self.store().pipe.settings().install_timeout;
        let pipe = &self.store().pipe;
        let mut call = Persistence::new(pipe.gate(), "cleanup_schema", Patience::Until(later(limit).into()));
        loop {
            let removing = with_connection(&self.store().connector, limit, async |client| {
                schema::remove(client, &name, limit).await
            });
            match removing.await {
                // Calls that are still under way take the tables in an order of their own; one of us has to give way.
                Err(error)
                    if error.sqlstate() == Some("40P01")
                        && call.pause(Setback::Passing, || error.to_string()).await => {}
                other => return other.map_err(|error: StoreError| error.into_provider_error("cleanup_schema")),
            }
        }
    }
}

/// The framework's view of an error.
fn refuse<E: Into<StoreError>>(operation: &'static str) -> impl Fn(E) -> ProviderError {
    move |error| error.into().into_provider_error(operation)
}

impl From<InvalidToken> for StoreError {
    fn from(_: InvalidToken) -> Self {
        Refusal::InvalidToken.into()
    }
}

#[async_trait::async_trait]
impl Provider for PostgresProvider {
    fn name(&self) -> &str {
        "steadfast-postgres"
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
        let turn = self
            .store()
            .turns
            .fetch(group, (), wait)
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
        vouched::forget();
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
            Ok(turn) => op::ack_orchestration_item::ack(self.store(), turn).await,
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
        vouched::forget();
        const OP: &str = "abandon_orchestration_item";
        let token: TurnToken = lock_token.parse().map_err(refuse::<InvalidToken>(OP))?;
        self.store()
            .abandon_turns
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
            .renew_turns
            .submit(RenewedTurn { token, extend_for })
            .await
            .map_err(refuse(OP))
    }

    async fn read(&self, instance: &str) -> Result<Vec<Event>, ProviderError> {
        if instance.contains('\0') {
            return Ok(Vec::new());
        }
        if let Some(history) = op::read::vouched(self.store(), instance) {
            return Ok(history);
        }
        op::read::read_execution(self.store(), instance, None)
            .await
            .map_err(refuse("read"))
    }

    async fn read_with_execution(&self, instance: &str, execution_id: u64) -> Result<Vec<Event>, ProviderError> {
        const OP: &str = "read_with_execution";
        if instance.contains('\0') {
            return Ok(Vec::new());
        }
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
        vouched::forget();
        op::append_with_execution::append(self.store(), instance, execution_id, &new_events)
            .await
            .map_err(refuse("append_with_execution"))
    }

    async fn enqueue_for_worker(&self, item: WorkItem) -> Result<(), ProviderError> {
        vouched::forget();
        const OP: &str = "enqueue_for_worker";
        let activity = Activity::encode(&item, self.store().payload_limit()).map_err(refuse(OP))?;
        self.store().enqueue_work.submit(activity).await.map_err(refuse(OP))
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
        let work = self
            .store()
            .work
            .fetch(group, owner, wait)
            .await
            .map_err(refuse("fetch_work_item"))?;
        if let Some(work) = &work
            && work.history_held
            && let WorkItem::ActivityExecute { instance, .. } = &work.item
        {
            vouched::vouch(self.store(), instance, work.token.instance_key);
        }
        Ok(work.map(|w| (w.item, w.token.to_string(), w.attempt_count)))
    }

    async fn ack_work_item(&self, token: &str, completion: Option<WorkItem>) -> Result<(), ProviderError> {
        vouched::forget();
        const OP: &str = "ack_work_item";
        let token = token.parse().map_err(refuse::<InvalidToken>(OP))?;
        let work = AckedWork::encode(token, completion.as_ref(), self.store().payload_limit()).map_err(refuse(OP))?;
        op::ack_work_item::ack(self.store(), work).await.map_err(refuse(OP))
    }

    async fn renew_work_item_lock(&self, token: &str, extend_for: Duration) -> Result<(), ProviderError> {
        const OP: &str = "renew_work_item_lock";
        let token = token.parse().map_err(refuse::<InvalidToken>(OP))?;
        self.store()
            .renew_work
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
        vouched::forget();
        const OP: &str = "abandon_work_item";
        let token: WorkToken = token.parse().map_err(refuse::<InvalidToken>(OP))?;
        self.store()
            .abandon_work
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
        vouched::forget();
        const OP: &str = "enqueue_for_orchestrator";
        let message = Message::encode_arrival(&item, self.store().payload_limit()).map_err(refuse(OP))?;
        self.store()
            .enqueue_messages
            .submit(Enqueued { message, delay })
            .await
            .map_err(refuse(OP))
    }

    async fn get_custom_status(
        &self,
        instance: &str,
        last_seen_version: u64,
    ) -> Result<Option<(Option<String>, u64)>, ProviderError> {
        // A version that cannot be stored cannot be exceeded; an id that cannot be stored does not exist.
        let Ok(seen) = i64::try_from(last_seen_version) else {
            return Ok(None);
        };
        if instance.contains('\0') {
            return Ok(None);
        }
        let question = CustomStatusAfter {
            instance: instance.to_owned(),
            seen,
        };
        self.store()
            .custom_statuses
            .submit(question)
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
