//! Kind 4: An acknowledged queue event is seen once, across continue-as-new too.

use std::sync::Arc;
use std::time::{Duration, Instant};

use duroxide::providers::Provider;
use duroxide::runtime::{OrchestrationStatus, Runtime, RuntimeOptions};
use duroxide::{AppErrorKind, Client, ErrorDetails};
use futures_util::future::join_all;

use super::form::is_long;
use super::kind_03_neighbours_of_a_crash::child::{Place, Worker, activities, orchestrations};
use crate::harness::{Engine, Mode, Store, database_url};
use crate::proxy::Proxy;

/// No wait takes so long when all is well.
const PATIENCE: Duration = Duration::from_secs(900);

async fn run(provider: &Arc<dyn Provider>) -> Arc<Runtime> {
    let options = RuntimeOptions::default();
    Runtime::start_with_options(Arc::clone(provider), activities(), orchestrations(), options).await
}

async fn send(client: &Client, instance: &str, queue: &str, count: usize) {
    for n in 0..count {
        client
            .enqueue_event(instance, queue, n.to_string())
            .await
            .expect("send an event");
    }
}

async fn output(client: &Client, instance: &str) -> String {
    match client.wait_for_orchestration(instance, PATIENCE).await {
        Ok(OrchestrationStatus::Completed { output, .. }) => output,
        other => panic!("{instance}: {other:?}"),
    }
}

/// Events that were sent before anybody ran, for one orchestration that reads one of them an execution.
async fn sent_before(engine: Engine, count: usize) {
    let store = Store::on(engine, Mode::LongPoll);
    let provider = store.open().await;
    let client = Client::new(Arc::clone(&provider));
    client
        .start_orchestration("c", "count", format!("0 {count}"))
        .await
        .expect("start");
    send(&client, "c", "A", count).await;
    let begun = Instant::now();
    let runtime = run(&provider).await;
    assert_eq!(output(&client, "c").await, format!("saw {count}"));
    eprintln!(
        "{engine:?}: {count} of {count} seen, in order, in {:?}",
        begun.elapsed()
    );
    runtime.shutdown(Some(1_000)).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_before_is_seen_once_in_order() {
    let stores = [Engine::Postgres, Engine::Embedded];
    join_all(stores.map(|engine| async move {
        sent_before(engine, 150).await;
        sent_before(engine, if is_long() { 1_500 } else { 300 }).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_while_it_runs_is_seen_once_in_order() {
    let count = if is_long() { 1_000 } else { 300 };
    join_all([Engine::Postgres, Engine::Embedded].map(|engine| async move {
        let store = Store::on(engine, Mode::LongPoll);
        let provider = store.open().await;
        let client = Client::new(Arc::clone(&provider));
        let runtime = run(&provider).await;
        client
            .start_orchestration("c", "count", format!("0 {count}"))
            .await
            .expect("start");
        send(&client, "c", "A", count).await;
        assert_eq!(output(&client, "c").await, format!("saw {count}"));
        eprintln!("{engine:?}: {count} of {count} sent live seen, in order");
        runtime.shutdown(Some(1_000)).await;
        store.close().await;
    }))
    .await;
}

/// The first trap: a queue that nobody reads must not stand in the way of one that is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_waited_for_passes_whatever_is_unread() {
    const COUNT: usize = 150;
    join_all([Engine::Postgres, Engine::Embedded].map(|engine| async move {
        let store = Store::on(engine, Mode::LongPoll);
        let provider = store.open().await;
        let client = Client::new(Arc::clone(&provider));
        let runtime = run(&provider).await;
        client
            .start_orchestration("c", "b-then-count", format!("b, then 0 {COUNT}"))
            .await
            .expect("start");
        send(&client, "c", "A", COUNT).await;
        client.enqueue_event("c", "B", "b").await.expect("send");
        assert_eq!(output(&client, "c").await, format!("saw {COUNT}"));
        runtime.shutdown(Some(1_000)).await;
        store.close().await;
    }))
    .await;
}

/// The second trap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_passes_whatever_is_unread() {
    join_all([Engine::Postgres, Engine::Embedded].map(|engine| async move {
        let store = Store::on(engine, Mode::LongPoll);
        let provider = store.open().await;
        let client = Client::new(Arc::clone(&provider));
        let runtime = run(&provider).await;
        client
            .start_orchestration("c", "b-then-count", "b, then 0 1")
            .await
            .expect("start");
        send(&client, "c", "A", 150).await;
        client.cancel_instance("c", "enough").await.expect("cancel");
        let ended = client.wait_for_orchestration("c", PATIENCE).await;
        let Ok(OrchestrationStatus::Failed { details, .. }) = ended else {
            panic!("{ended:?}")
        };
        let ErrorDetails::Application {
            kind: AppErrorKind::Cancelled { reason },
            ..
        } = details
        else {
            panic!("{details:?}")
        };
        assert_eq!(reason, "enough");
        runtime.shutdown(Some(1_000)).await;
        store.close().await;
    }))
    .await;
}

/// Workers are killed again and again while it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_its_processes_are_killed() {
    const COUNT: usize = 200;
    const KILLS: usize = 4;
    join_all(Place::both().map(|place| async move {
        let provider = place.open().await;
        let client = Client::new(Arc::clone(&provider));
        client
            .start_orchestration("c", "count", format!("0 {COUNT}"))
            .await
            .expect("start");
        send(&client, "c", "A", COUNT).await;
        let executions = async || client.list_executions("c").await.expect("list").len();
        for _ in 0..KILLS {
            let mut worker = Worker::start(&place);
            // It has got on.
            let (before, begun) = (executions().await, Instant::now());
            while executions().await < before + 20 {
                assert!(begun.elapsed() < PATIENCE, "nothing is read any more");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            worker.kill();
        }
        let _worker = Worker::start(&place);
        assert_eq!(output(&client, "c").await, format!("saw {COUNT}"));
    }))
    .await;
}

/// Waits until a count stands still.
async fn at_rest<T: PartialEq>(what: &str, mut count: impl FnMut() -> T) {
    let begun = Instant::now();
    let mut last = count();
    loop {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let now = count();
        if now == last {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} never comes to rest");
        last = now;
    }
}

/// An instance with a thousand events that it cannot be handed costs nothing while nothing happens, and answers when
/// something does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_back_comes_to_rest() {
    join_all([Engine::Postgres, Engine::Embedded].map(|engine| async move {
        let proxy = Proxy::start(&database_url()).await;
        let store = match engine {
            Engine::Postgres => Store::at(Mode::LongPoll, proxy.url(&database_url())),
            Engine::Embedded => Store::on(engine, Mode::LongPoll),
        };
        let provider = store.open().await;
        let client = Client::new(Arc::clone(&provider));
        let runtime = run(&provider).await;
        client
            .start_orchestration("c", "b-then-count", "b, then 0 20")
            .await
            .expect("start");
        send(&client, "c", "A", 1_000).await;
        match engine {
            Engine::Postgres => at_rest("the server", || proxy.round_trips()).await,
            Engine::Embedded => {
                let file = store.raw_file();
                let version = || -> i64 {
                    file.query_row("PRAGMA data_version", [], |row| row.get(0))
                        .expect("read the version")
                };
                at_rest("the file", version).await;
            }
        }
        client.enqueue_event("c", "B", "b").await.expect("send");
        assert_eq!(output(&client, "c").await, "saw 20");
        runtime.shutdown(Some(1_000)).await;
        store.close().await;
    }))
    .await;
}
