//! A provider in a fresh schema with faults at hand, raw SQL beside it, and the work items that the tests send.

use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::{ExecutionMetadata, Provider, ProviderError, TagFilter, WorkItem};
use duroxide::runtime::registry::{ActivityRegistryBuilder, OrchestrationRegistryBuilder};
use duroxide::runtime::{OrchestrationStatus, Runtime, RuntimeOptions};
use duroxide::{Client, Event, EventKind};
use steadfast::fault::Faults;
use steadfast::postgres::{Builder, LongPoll, PostgresProvider};
use tokio_postgres::NoTls;
use tokio_postgres::types::ToSql;

use crate::harness::{database_url, fresh_schema, raw};

/// A lease that outlives any test.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// How long a fetch waits for work that must come. Shorter than the fallback interval that [`Scene`] sets, so that
/// work which only the fallback would have found counts as not found.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// One schema, one provider on it, and its faults.
pub(crate) struct Scene {
    pub(crate) provider: Arc<PostgresProvider>,
    pub(crate) faults: Faults,
    pub(crate) schema: String,
    /// The server itself, without what may stand in between.
    pub(crate) direct: String,
}

impl Scene {
    pub(crate) async fn open() -> Self {
        Self::with(&database_url(), |builder| builder).await
    }

    /// In a database of its own, where nobody else's transaction keeps dead rows alive.
    pub(crate) async fn secluded() -> Self {
        let database = fresh_schema();
        let created = raw().await.batch_execute(&format!("CREATE DATABASE {database}")).await;
        created.expect("create a database");
        let (server, _) = database_url()
            .rsplit_once('/')
            .map(|(s, d)| (s.to_owned(), d.to_owned()))
            .expect("a URL");
        let url = format!("{server}/{database}");
        Self::at(&url, &url, |builder| builder).await
    }

    /// Through another address, and with other settings.
    pub(crate) async fn with(url: &str, settings: impl FnOnce(Builder) -> Builder) -> Self {
        Self::at(&database_url(), url, settings).await
    }

    /// On another server.
    pub(crate) async fn at(direct: &str, url: &str, settings: impl FnOnce(Builder) -> Builder) -> Self {
        let (faults, schema) = (Faults::new(), fresh_schema());
        let builder = settings(builder(url, &schema).faults(faults.clone()));
        let provider = Arc::new(builder.connect().await.expect("open the provider"));
        Self {
            provider,
            faults,
            schema,
            direct: direct.to_owned(),
        }
    }

    /// Another provider on the same schema, without faults, as another process would have.
    pub(crate) async fn another(&self) -> Arc<PostgresProvider> {
        let opened = builder(&self.direct, &self.schema).connect().await;
        Arc::new(opened.expect("open another provider"))
    }

    /// Raw SQL whose unqualified names are this schema's.
    pub(crate) async fn sql(&self) -> tokio_postgres::Client {
        let client = client(&self.direct).await;
        let path = format!("SET search_path TO \"{}\"", self.schema.replace('"', "\"\""));
        client.batch_execute(&path).await.expect("set the search path");
        client
    }

    /// One number by raw SQL.
    pub(crate) async fn number(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> i64 {
        let client = self.sql().await;
        let row = client.query_one(sql, parameters).await;
        row.unwrap_or_else(|error| panic!("{sql}: {error}")).get(0)
    }

    /// How many rows a table holds.
    pub(crate) async fn rows(&self, table: &str) -> i64 {
        self.number(&format!("SELECT count(*) FROM {table}"), &[]).await
    }

    /// Starts an instance and claims its first turn: the token.
    pub(crate) async fn claim_turn(&self, instance: &str) -> String {
        let sent = self.provider.enqueue_for_orchestrator(start(instance), None).await;
        sent.expect("start an instance");
        let (item, token, attempts) = turn(&*self.provider, LONG).await;
        assert_eq!((item.as_str(), attempts), (instance, 1));
        token
    }

    /// Makes an instance whose first turn is done and left nothing behind.
    pub(crate) async fn make(&self, instance: &str) {
        let token = self.claim_turn(instance).await;
        let done = ack_turn(&*self.provider, &token, instance, Vec::new(), Vec::new()).await;
        done.expect("acknowledge the first turn");
    }

    /// Queues an activity and claims it: the token.
    pub(crate) async fn claim_work(&self, instance: &str) -> String {
        let sent = self.provider.enqueue_for_worker(activity(instance, 2)).await;
        sent.expect("queue an activity");
        let (item, token, attempts) = work(&*self.provider, LONG).await;
        assert_eq!((item.as_str(), attempts), (instance, 1));
        token
    }

    pub(crate) async fn close(self) {
        self.provider.close().await;
    }
}

/// A connection of its own for raw SQL.
pub(crate) async fn client(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect for raw SQL");
    tokio::spawn(async move {
        // An error here also fails the statement that the test is waiting for.
        let _ = connection.await;
    });
    client
}

/// Settings for a provider whose fallback poll is too rare to help a test.
pub(crate) fn builder(url: &str, schema: &str) -> Builder {
    PostgresProvider::builder(url)
        .schema(schema)
        .pool_size(3)
        .long_poll(LongPoll {
            fallback_poll_interval: Duration::from_secs(60),
            ..LongPoll::default()
        })
}

/// A message that starts an instance.
pub(crate) fn start(instance: &str) -> WorkItem {
    WorkItem::StartOrchestration {
        instance: instance.to_owned(),
        orchestration: "trial".to_owned(),
        input: "input".to_owned(),
        version: Some("1.0.0".to_owned()),
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        execution_id: 1,
    }
}

/// A signal to an instance.
pub(crate) fn signal(instance: &str, data: &str) -> WorkItem {
    WorkItem::ExternalRaised {
        instance: instance.to_owned(),
        name: "signal".to_owned(),
        data: data.to_owned(),
    }
}

/// An activity that anybody may run.
pub(crate) fn activity(instance: &str, id: u64) -> WorkItem {
    WorkItem::ActivityExecute {
        instance: instance.to_owned(),
        execution_id: 1,
        id,
        name: "work".to_owned(),
        input: "input".to_owned(),
        session_id: None,
        tag: None,
    }
}

/// What such an activity brings.
pub(crate) fn completed(instance: &str, id: u64) -> WorkItem {
    WorkItem::ActivityCompleted {
        instance: instance.to_owned(),
        execution_id: 1,
        id,
        result: "result".to_owned(),
    }
}

/// The first event of a history.
pub(crate) fn started(instance: &str, execution: u64) -> Event {
    let kind = EventKind::OrchestrationStarted {
        name: "trial".to_owned(),
        version: "1.0.0".to_owned(),
        input: "input".to_owned(),
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        carry_forward_events: None,
        initial_custom_status: None,
    };
    Event::with_event_id(1, instance, execution, None, kind)
}

/// What the first turn of an instance tells of it.
pub(crate) fn identity() -> ExecutionMetadata {
    ExecutionMetadata {
        orchestration_name: Some("trial".to_owned()),
        orchestration_version: Some("1.0.0".to_owned()),
        ..ExecutionMetadata::default()
    }
}

/// Acknowledges the first turn of an instance.
pub(crate) async fn ack_turn(
    provider: &dyn Provider,
    token: &str,
    instance: &str,
    activities: Vec<WorkItem>,
    messages: Vec<WorkItem>,
) -> Result<(), ProviderError> {
    let history = vec![started(instance, 1)];
    provider
        .ack_orchestration_item(token, 1, history, activities, messages, identity(), Vec::new())
        .await
}

/// The next turn, which must come soon: instance, token, attempts.
pub(crate) async fn turn(provider: &dyn Provider, lease: Duration) -> (String, String, u32) {
    let fetched = provider.fetch_orchestration_item(lease, SOON, None).await;
    let (item, token, attempts) = fetched.expect("fetch a turn").expect("a turn is due");
    (item.instance, token, attempts)
}

/// The next activity, which must come soon: instance, token, attempts.
pub(crate) async fn work(provider: &dyn Provider, lease: Duration) -> (String, String, u32) {
    let fetched = provider.fetch_work_item(lease, SOON, None, &TagFilter::default()).await;
    let (item, token, attempts) = fetched.expect("fetch an activity").expect("an activity is due");
    let WorkItem::ActivityExecute { instance, .. } = item else {
        panic!("not an activity: {item:?}")
    };
    (instance, token, attempts)
}

/// The call must have been refused because its token names no claim.
pub(crate) fn assert_stale<T: std::fmt::Debug>(result: Result<T, ProviderError>) {
    let error = result.expect_err("a token that is spent");
    assert!(error.message.contains("Invalid lock token"), "{error:?}");
    assert!(!error.is_retryable(), "{error:?}");
}

/// A runtime over a provider, and a client of it.
pub(crate) async fn runtime(
    provider: &Arc<PostgresProvider>,
    activities: ActivityRegistryBuilder,
    orchestrations: OrchestrationRegistryBuilder,
    options: RuntimeOptions,
) -> (Arc<Runtime>, Client) {
    let provider = Arc::clone(provider) as Arc<dyn Provider>;
    let runtime = Runtime::start_with_options(
        Arc::clone(&provider),
        activities.build(),
        orchestrations.build(),
        options,
    )
    .await;
    (runtime, Client::new(provider))
}

/// The output of an instance that completes.
pub(crate) async fn output(client: &Client, instance: &str) -> String {
    match client.wait_for_orchestration(instance, Duration::from_secs(40)).await {
        Ok(OrchestrationStatus::Completed { output, .. }) => output,
        other => panic!("{instance} did not complete: {other:?}"),
    }
}
