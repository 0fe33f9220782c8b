//! A rolling upgrade: stores as earlier states of Steadfast left them, with instances in the middle of their lives, are
//! opened by this one while callers of the old functions go on. Nothing is lost, and whatever old binaries call is there.
//!
//! Invariant: a fixture is never changed. A new one is made, beside the old ones, from the state that is to be kept:
//! `cargo xtask test -- -p steadfast --test it rolling::fixture -- --ignored`.

mod fixture;
mod old;
mod workflows;

use std::sync::Arc;
use std::time::Duration;

use duroxide::Client;
use duroxide::providers::Provider;
use duroxide::runtime::{OrchestrationStatus, Runtime, RuntimeOptions};
use steadfast::embedded::EmbeddedProvider;
use steadfast::postgres::Migrations;

use self::old::OldCaller;
use super::place;

/// The schema as it was when the evidence was first gathered (functions of version 1).
const POSTGRES: &str = include_str!("fixtures/postgres-0001.sql");
/// The file of the embedded engine, likewise.
const EMBEDDED: &str = include_str!("fixtures/embedded-0001.sql");
/// The schema's name in the fixture.
const SCHEMA: &str = "steadfast_fixture";
/// Events that old callers send to each instance that collects them, at least.
const EVENTS: usize = 30;

/// Runs what the store holds to its end.
async fn completes(provider: Arc<dyn Provider>, collected: Option<usize>) {
    let runtime = Runtime::start_with_options(
        Arc::clone(&provider),
        workflows::activities(),
        workflows::orchestrations(),
        RuntimeOptions::default(),
    )
    .await;
    let client = Client::new(provider);
    for instance in ["waits", "parent::sub::2"] {
        client
            .enqueue_event(instance, "orders", "end")
            .await
            .expect("send the end");
    }
    for (instance, expected) in workflows::RESULTS {
        let ended = client.wait_for_orchestration(instance, Duration::from_secs(60)).await;
        let Ok(OrchestrationStatus::Completed { output, .. }) = ended else {
            panic!("{instance}: {ended:?}")
        };
        match (instance, collected) {
            ("waits", Some(count)) => {
                let seen: Vec<String> = serde_json::from_str(&output).expect("a list");
                let all: Vec<String> = ["first".to_owned(), "second".to_owned()]
                    .into_iter()
                    .chain((0..count).map(|n| format!("old {n}")))
                    .collect();
                assert_eq!(seen, all);
            }
            _ => assert_eq!(output, expected, "{instance}"),
        }
    }
    let counted = client.get_kv_value("counts", "count").await.expect("read a key-value");
    assert_eq!(counted.as_deref(), Some("2"));
    runtime.shutdown(Some(2_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_postgres_is_upgraded_under_load() {
    let database = place::Database::create().await;
    let client = database.raw().await;
    client.batch_execute(POSTGRES).await.expect("load the fixture");
    // As if the functions had been released under an earlier number.
    let aged = format!("UPDATE {SCHEMA}.sf_ledger SET version = 0 WHERE kind IN ('gate', 'function')");
    client.batch_execute(&aged).await.expect("age the fixture");
    client.batch_execute("RESET ALL").await.expect("reset");
    let before = functions(&client).await;

    // Old callers send events and run activities: before, during and after the upgrade.
    let old = OldCaller::start(&database.url).await;
    old.sent(EVENTS / 3).await;
    let builder = || place::builder(&database.url, SCHEMA);
    builder()
        .migrations(Migrations::Verify)
        .connect()
        .await
        .expect_err("it is older");
    let provider = Arc::new(builder().connect().await.expect("upgrade under load"));
    old.sent(2 * EVENTS / 3).await;
    let second = Arc::new(builder().connect().await.expect("another one of the new release"));
    let after = functions(&client).await;
    let lost: Vec<&String> = before.iter().filter(|function| !after.contains(function)).collect();
    assert!(lost.is_empty(), "old binaries call what is gone: {lost:?}");
    old.sent(EVENTS).await;
    let (sent, ran) = old.stop().await;
    assert!(ran > 0, "the old callers ran no activity");
    completes(Arc::clone(&second) as Arc<dyn Provider>, Some(sent)).await;

    let left: i64 = client
        .query_one(
            &format!(
                "SELECT (SELECT count(*) FROM {SCHEMA}.sf_work) + (SELECT count(*) FROM {SCHEMA}.sf_inbox)
                           + (SELECT count(*) FROM {SCHEMA}.sf_message) + (SELECT count(*) FROM {SCHEMA}.sf_turn)"
            ),
            &[],
        )
        .await
        .expect("count what is left")
        .get(0);
    assert_eq!(left, 0, "something is left in a queue");
    provider.close().await;
    second.close().await;
    drop(client);
    database.remove().await;
}

/// Name, arguments and result of each function of the schema.
async fn functions(client: &tokio_postgres::Client) -> Vec<String> {
    let rows = client
        .query(
            "SELECT p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ') ' || pg_get_function_result(p.oid)
             FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $1 ORDER BY 1",
            &[&SCHEMA],
        )
        .await
        .expect("list the functions");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_the_embedded_engine_is_upgraded() {
    let directory = tempfile::tempdir().expect("a folder");
    let path = directory.path().join("store.db");
    let file = rusqlite::Connection::open(&path).expect("make a file");
    file.execute_batch(EMBEDDED).expect("load the fixture");
    drop(file);
    let provider = Arc::new(EmbeddedProvider::open(&path).await.expect("open the fixture"));
    completes(Arc::clone(&provider) as Arc<dyn Provider>, None).await;
    provider.close().await;
    let file = rusqlite::Connection::open(&path).expect("open the file");
    let left: i64 = file
        .query_row(
            "SELECT (SELECT count(*) FROM sf_work) + (SELECT count(*) FROM sf_message)",
            [],
            |row| row.get(0),
        )
        .expect("count what is left");
    assert_eq!(left, 0, "something is left in a queue");
}
