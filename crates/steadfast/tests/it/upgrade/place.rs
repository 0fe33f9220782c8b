//! Where schema tests live: a database of their own where a shared one would do, and one workflow told by hand.

use std::time::Duration;

use duroxide::providers::{ExecutionMetadata, Provider, TagFilter, WorkItem};
use duroxide::{Event, EventKind};
use steadfast::postgres::{Builder, LongPoll, PostgresProvider};
use tokio_postgres::{Client, NoTls};

use crate::harness::{database_url, fresh_schema, raw};

/// A database that no other test uses. Unless it is removed it vanishes with the throw-away server.
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) url: String,
}

impl Database {
    pub(crate) async fn create() -> Self {
        let name = fresh_schema();
        raw()
            .await
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .expect("create a database");
        let shared = database_url();
        let (server, _) = shared.rsplit_once('/').expect("DATABASE_URL ends with a database");
        Self {
            url: format!("{server}/{name}"),
            name,
        }
    }

    /// Removes it now, for a test that has filled it.
    pub(crate) async fn remove(&self) {
        raw()
            .await
            .batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name))
            .await
            .expect("drop the database");
    }

    /// Raw SQL in this database.
    pub(crate) async fn raw(&self) -> Client {
        raw_at(&self.url).await
    }
}

/// Raw SQL at some address.
pub(crate) async fn raw_at(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connect");
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

/// A small provider on `schema`, in short-poll mode: it opens no listener.
pub(crate) fn builder(url: &str, schema: &str) -> Builder {
    PostgresProvider::builder(url)
        .schema(schema)
        .long_poll(LongPoll::disabled())
        .pool_size(2)
}

/// A name as SQL text.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(crate) const LEASE: Duration = Duration::from_secs(60);

pub(crate) fn start(instance: &str) -> WorkItem {
    WorkItem::StartOrchestration {
        instance: instance.to_owned(),
        orchestration: "Round".to_owned(),
        input: "in".to_owned(),
        version: Some("1.0.0".to_owned()),
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        execution_id: 1,
    }
}

pub(crate) fn activity(instance: &str, id: u64) -> WorkItem {
    WorkItem::ActivityExecute {
        instance: instance.to_owned(),
        execution_id: 1,
        id,
        name: "Step".to_owned(),
        input: "in".to_owned(),
        session_id: None,
        tag: None,
    }
}

pub(crate) fn completion(instance: &str, id: u64) -> WorkItem {
    WorkItem::ActivityCompleted {
        instance: instance.to_owned(),
        execution_id: 1,
        id,
        result: "out".to_owned(),
    }
}

pub(crate) fn signal(instance: &str) -> WorkItem {
    WorkItem::ExternalRaised {
        instance: instance.to_owned(),
        name: "Signal".to_owned(),
        data: "data".to_owned(),
    }
}

pub(crate) fn event(instance: &str, execution: u64, id: u64, kind: EventKind) -> Event {
    Event::with_event_id(id, instance, execution, None, kind)
}

pub(crate) fn started() -> EventKind {
    EventKind::OrchestrationStarted {
        name: "Round".to_owned(),
        version: "1.0.0".to_owned(),
        input: "in".to_owned(),
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        carry_forward_events: None,
        initial_custom_status: None,
    }
}

/// What a first turn says of its instance.
pub(crate) fn named() -> ExecutionMetadata {
    ExecutionMetadata {
        orchestration_name: Some("Round".to_owned()),
        orchestration_version: Some("1.0.0".to_owned()),
        ..ExecutionMetadata::default()
    }
}

/// What a last turn says of its instance.
pub(crate) fn completed() -> ExecutionMetadata {
    ExecutionMetadata {
        status: Some("Completed".to_owned()),
        output: Some("out".to_owned()),
        ..named()
    }
}

/// One workflow from its start to its completion, with one activity, through the provider's calls.
pub(crate) async fn round(provider: &dyn Provider, instance: &str) {
    provider
        .enqueue_for_orchestrator(start(instance), None)
        .await
        .expect("start");
    let (item, token, _) = provider
        .fetch_orchestration_item(LEASE, Duration::ZERO, None)
        .await
        .expect("fetch the first turn")
        .expect("a first turn");
    assert_eq!(item.instance, instance);
    let scheduled = EventKind::ActivityScheduled {
        name: "Step".to_owned(),
        input: "in".to_owned(),
        session_id: None,
        tag: None,
    };
    let history = vec![event(instance, 1, 1, started()), event(instance, 1, 2, scheduled)];
    provider
        .ack_orchestration_item(&token, 1, history, vec![activity(instance, 2)], vec![], named(), vec![])
        .await
        .expect("ack the first turn");
    let (item, token, _) = provider
        .fetch_work_item(LEASE, Duration::ZERO, None, &TagFilter::DefaultOnly)
        .await
        .expect("fetch the activity")
        .expect("an activity");
    assert_eq!(item, activity(instance, 2));
    provider
        .ack_work_item(&token, Some(completion(instance, 2)))
        .await
        .expect("ack the activity");
    let (item, token, _) = provider
        .fetch_orchestration_item(LEASE, Duration::ZERO, None)
        .await
        .expect("fetch the last turn")
        .expect("a last turn");
    assert_eq!((item.instance.as_str(), item.history.len()), (instance, 2));
    let output = EventKind::OrchestrationCompleted {
        output: "out".to_owned(),
    };
    provider
        .ack_orchestration_item(
            &token,
            1,
            vec![event(instance, 1, 3, output)],
            vec![],
            vec![],
            completed(),
            vec![],
        )
        .await
        .expect("ack the last turn");
    assert_eq!(provider.read(instance).await.expect("read").len(), 3);
    let none = provider
        .fetch_orchestration_item(LEASE, Duration::ZERO, None)
        .await
        .expect("fetch after the end");
    assert!(none.is_none(), "nothing is left: {none:?}");
}
