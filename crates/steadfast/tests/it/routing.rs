//! What must not hide or split anybody's work on its way from the inbox to a claim: large backlogs, starts that are not
//! due, rows that others hold, huge histories, sessions of others.

use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::{ExecutionMetadata, OrchestrationItem, Provider, SessionFetchConfig, TagFilter, WorkItem};
use duroxide::{Event, EventKind, INITIAL_EVENT_ID, INITIAL_EXECUTION_ID};

use crate::harness::{Mode, Store};

const LEASE: Duration = Duration::from_secs(20);

fn start(instance: &str) -> WorkItem {
    WorkItem::StartOrchestration {
        instance: instance.to_owned(),
        orchestration: "o".to_owned(),
        input: String::new(),
        version: Some("1.0.0".to_owned()),
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        execution_id: INITIAL_EXECUTION_ID,
    }
}

fn signal(instance: &str, data: &str) -> WorkItem {
    WorkItem::ExternalRaised {
        instance: instance.to_owned(),
        name: "e".to_owned(),
        data: data.to_owned(),
    }
}

fn activity(instance: &str, id: u64, session: Option<&str>, tag: Option<&str>) -> WorkItem {
    WorkItem::ActivityExecute {
        instance: instance.to_owned(),
        execution_id: INITIAL_EXECUTION_ID,
        id,
        name: "a".to_owned(),
        input: String::new(),
        session_id: session.map(str::to_owned),
        tag: tag.map(str::to_owned),
    }
}

async fn fetch(provider: &Arc<dyn Provider>) -> Option<(OrchestrationItem, String, u32)> {
    provider
        .fetch_orchestration_item(LEASE, Duration::ZERO, None)
        .await
        .unwrap()
}

/// Fetches until there is something: a look may find rows in motion and say so by finding nothing.
async fn fetch_soon(provider: &Arc<dyn Provider>) -> (OrchestrationItem, String, u32) {
    for _ in 0..100 {
        if let Some(found) = fetch(provider).await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nothing to fetch");
}

/// Makes an instance that runs, by committing its first turn.
async fn running(provider: &Arc<dyn Provider>, instance: &str) {
    provider.enqueue_for_orchestrator(start(instance), None).await.unwrap();
    let (item, token, _) = fetch_soon(provider).await;
    assert_eq!(item.instance, instance);
    let started = EventKind::OrchestrationStarted {
        name: "o".to_owned(),
        version: "1.0.0".to_owned(),
        input: String::new(),
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        carry_forward_events: None,
        initial_custom_status: None,
    };
    let metadata = ExecutionMetadata {
        orchestration_name: Some("o".to_owned()),
        orchestration_version: Some("1.0.0".to_owned()),
        ..ExecutionMetadata::default()
    };
    let event = Event::with_event_id(INITIAL_EVENT_ID, instance, INITIAL_EXECUTION_ID, None, started);
    provider
        .ack_orchestration_item(
            &token,
            INITIAL_EXECUTION_ID,
            vec![event],
            vec![],
            vec![],
            metadata,
            vec![],
        )
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_comes_along_whatever_waits_before_it() {
    let store = Store::new(Mode::ShortPoll);
    let provider = store.open().await;
    let signals = (0..1001).map(|n| provider.enqueue_for_orchestrator(signal("late", &n.to_string()), None));
    futures_util::future::try_join_all(signals).await.unwrap();
    provider.enqueue_for_orchestrator(start("late"), None).await.unwrap();
    let (item, _, _) = fetch_soon(&provider).await;
    assert!(item.messages.len() >= 1000);
    assert_eq!(
        item.messages
            .iter()
            .filter(|m| matches!(m, WorkItem::StartOrchestration { .. }))
            .count(),
        1
    );
    assert_eq!(item.orchestration_name, "o");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_delayed_start_waits_with_it() {
    let store = Store::new(Mode::ShortPoll);
    let provider = store.open().await;
    provider.enqueue_for_orchestrator(start("x"), None).await.unwrap();
    let (_, token, _) = fetch_soon(&provider).await;
    let cancel = WorkItem::CancelInstance {
        instance: "x".to_owned(),
        reason: "r".to_owned(),
    };
    provider.enqueue_for_orchestrator(cancel, None).await.unwrap();
    provider
        .abandon_orchestration_item(&token, Some(Duration::from_secs(2)), false)
        .await
        .unwrap();
    for _ in 0..10 {
        assert!(
            fetch(&provider).await.is_none(),
            "nothing may be handed over without the start"
        );
    }
    let (item, _, attempts) = fetch_soon(&provider).await;
    assert_eq!(item.messages.len(), 2);
    assert_eq!(attempts, 2);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_in_the_future_hides_nobody() {
    let store = Store::new(Mode::ShortPoll);
    let provider = store.open().await;
    provider
        .enqueue_for_orchestrator(start("z"), Some(Duration::from_secs(3600)))
        .await
        .unwrap();
    let signals = (0..1500).map(|n| provider.enqueue_for_orchestrator(signal("z", &n.to_string()), None));
    futures_util::future::try_join_all(signals).await.unwrap();
    provider.enqueue_for_orchestrator(start("other"), None).await.unwrap();
    assert_eq!(fetch_soon(&provider).await.0.instance, "other");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_an_admin_holds_hides_nobody() {
    let store = Store::new(Mode::ShortPoll);
    let provider = store.open().await;
    running(&provider, "held").await;
    let mut admin = store.raw().await;
    let held = admin.transaction().await.unwrap();
    held.execute("SELECT FROM sf_instance WHERE instance_id = 'held' FOR UPDATE", &[])
        .await
        .unwrap();
    let signals = (0..300).map(|n| provider.enqueue_for_orchestrator(signal("held", &n.to_string()), None));
    futures_util::future::try_join_all(signals).await.unwrap();
    provider.enqueue_for_orchestrator(start("free"), None).await.unwrap();
    assert_eq!(fetch_soon(&provider).await.0.instance, "free");
    held.rollback().await.unwrap();
    assert_eq!(fetch_soon(&provider).await.0.messages.len(), 300);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_history_comes_in_pages_and_stops_nobody() {
    let store = Store::new(Mode::ShortPoll);
    let writer = store.open().await;
    running(&writer, "huge").await;
    running(&writer, "small").await;
    // 40 events of 1 MiB, beyond what a claim carries and what one answer of a read carries.
    store
        .raw()
        .await
        .execute(
            "INSERT INTO sf_event (instance_key, execution_id, event_id, kind, payload)
             SELECT i.instance_key, 1, n, 11, convert_to(format(
                '{\"event_id\":%s,\"source_event_id\":1,\"instance_id\":\"huge\",\"execution_id\":1,\"timestamp_ms\":0,'
                '\"duroxide_version\":\"0.1.32\",\"type\":\"ActivityCompleted\",\"result\":\"%s\"}',
                n, repeat('x', 1048576)), 'UTF8')
             FROM sf_instance i, generate_series(2, 41) AS g(n) WHERE i.instance_id = 'huge'",
            &[],
        )
        .await
        .unwrap();
    // A process that has seen nothing of it.
    let reader = store.open().await;
    for instance in ["huge", "small"] {
        reader
            .enqueue_for_orchestrator(signal(instance, ""), None)
            .await
            .unwrap();
    }
    let (first, second) = (fetch_soon(&reader).await.0, fetch_soon(&reader).await.0);
    for item in [first, second] {
        assert_eq!(item.history_error, None);
        let events = if item.instance == "huge" { 41 } else { 1 };
        assert_eq!(item.history.len(), events, "{}", item.instance);
        assert!(item.history.iter().zip(1..).all(|(e, n)| e.event_id == n));
    }
    assert_eq!(store.open().await.read("huge").await.unwrap().len(), 41);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_without_work_for_us_hide_none_that_has() {
    let store = Store::new(Mode::ShortPoll);
    let provider = store.open().await;
    for n in 0..150 {
        provider
            .enqueue_for_worker(activity("i", n, Some(&format!("s{n}")), Some("gpu")))
            .await
            .unwrap();
    }
    provider
        .enqueue_for_worker(activity("i", 500, Some("zz"), None))
        .await
        .unwrap();
    let session = SessionFetchConfig {
        owner_id: "w".to_owned(),
        lock_timeout: LEASE,
    };
    let found = provider
        .fetch_work_item(LEASE, Duration::ZERO, Some(&session), &TagFilter::DefaultOnly)
        .await
        .unwrap();
    assert!(
        matches!(found, Some((WorkItem::ActivityExecute { id: 500, .. }, _, 1))),
        "{found:?}"
    );
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_for_another_process_wakes_it_though_somebody_idles_here() {
    let store = Store::new(Mode::LongPoll);
    let (here, there) = (store.open().await, store.open().await);
    // The safety poll comes after 15 s: whoever is woken sooner was told.
    let idle_here = {
        let here = Arc::clone(&here);
        tokio::spawn(async move {
            here.fetch_work_item(LEASE, Duration::from_secs(30), None, &TagFilter::DefaultOnly)
                .await
        })
    };
    let waits_there = tokio::spawn(async move {
        there
            .fetch_work_item(LEASE, Duration::from_secs(30), None, &TagFilter::tags(["gpu"]))
            .await
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    here.enqueue_for_worker(activity("i", 1, None, Some("gpu")))
        .await
        .unwrap();
    let found = tokio::time::timeout(Duration::from_secs(8), waits_there)
        .await
        .expect("it was told")
        .unwrap();
    assert!(found.unwrap().is_some());
    idle_here.abort();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_passed_over_by_one_process_is_seen_by_the_one_that_ends_the_lease() {
    let store = Store::new(Mode::LongPoll);
    let (here, there) = (store.open().await, store.open().await);
    running(&here, "i").await;
    here.enqueue_for_orchestrator(signal("i", "1"), None).await.unwrap();
    let (_, token, _) = here
        .fetch_orchestration_item(LEASE, Duration::from_secs(5), None)
        .await
        .unwrap()
        .unwrap();
    let wait = |provider: &Arc<dyn Provider>| {
        let provider = Arc::clone(provider);
        tokio::spawn(async move {
            provider
                .fetch_orchestration_item(LEASE, Duration::from_secs(30), None)
                .await
        })
    };
    let (at_here, at_there) = (wait(&here), wait(&there));
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Both are told or look, and pass it over: the instance is leased for 20 s.
    there.enqueue_for_orchestrator(signal("i", "2"), None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    here.ack_orchestration_item(&token, 1, vec![], vec![], vec![], ExecutionMetadata::default(), vec![])
        .await
        .unwrap();
    let either = async {
        tokio::select! { a = at_here => a, b = at_there => b }
    };
    let found = tokio::time::timeout(Duration::from_secs(8), either)
        .await
        .expect("not before the safety poll");
    assert!(found.unwrap().unwrap().is_some());
    store.close().await;
}
