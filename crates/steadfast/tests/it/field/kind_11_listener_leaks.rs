//! Kind 11: Who gives up waiting leaves nothing behind in the server.

use std::time::{Duration, Instant};

use duroxide::providers::{Provider, WorkItem};
use steadfast::postgres::{Builder, LongPoll, PostgresProvider};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::form::is_long;
use crate::harness::{database_url, fresh_schema, raw};

/// A broken build must not hang.
const LIMIT: Duration = Duration::from_secs(60);

fn builder(schema: &str, application: &str) -> Builder {
    PostgresProvider::builder(&database_url())
        .schema(schema)
        .pool_size(2)
        .application_name(application)
}

fn start(instance: &str) -> WorkItem {
    WorkItem::StartOrchestration {
        instance: instance.to_owned(),
        orchestration: "any".to_owned(),
        version: Some("1.0.0".to_owned()),
        input: String::new(),
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        execution_id: 1,
    }
}

async fn number(client: &Client, sql: &str, application: &str) -> i64 {
    client.query_one(sql, &[&application]).await.expect(sql).get(0)
}

/// Backends of this application that wait for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'";
/// Advisory locks that its backends have.
const REGISTERED: &str = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE application_name = $1 AND locktype = 'advisory' AND mode = 'ShareLock' AND granted";
const CONNECTIONS: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";

async fn until(client: &Client, sql: &str, application: &str, enough: impl Fn(i64) -> bool) {
    let give_up = Instant::now() + LIMIT;
    while !enough(number(client, sql, application).await) {
        assert!(Instant::now() < give_up, "{sql}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Has somebody wait for work in the background, and tells what comes.
fn wait_for_work(provider: &PostgresProvider, waits: &mut JoinSet<String>) {
    let provider = provider.clone();
    waits.spawn(async move {
        let lease = Duration::from_secs(30);
        loop {
            let fetched = provider.fetch_orchestration_item(lease, LIMIT, None).await;
            if let Ok(Some((item, ..))) = fetched {
                return item.instance;
            }
        }
    });
}

/// The locks by which a waiting process is known, as the server shows them.
async fn registration_locks(client: &Client, schema: &str) -> Vec<(i32, i32)> {
    let application = format!("first of {schema}");
    let provider = builder(schema, &application).connect().await.expect("open");
    let mut waits = JoinSet::new();
    wait_for_work(&provider, &mut waits);
    until(client, REGISTERED, &application, |n| n > 0).await;
    let rows = client
        .query(
            "SELECT l.classid::int8::bit(32)::int, l.objid::int8::bit(32)::int FROM pg_locks l JOIN pg_stat_activity USING (pid)
             WHERE application_name = $1 AND locktype = 'advisory' AND mode = 'ShareLock' AND objsubid = 2",
            &[&application],
        )
        .await
        .expect("ask for locks");
    waits.shutdown().await;
    provider.close().await;
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_that_cannot_be_had_leaves_no_backend_waiting() {
    let (schema, client) = (fresh_schema(), raw().await);
    let locks = registration_locks(&client, &schema).await;
    assert!(!locks.is_empty());
    let holder = raw().await;
    for (class, object) in &locks {
        holder
            .execute("SELECT pg_advisory_lock($1, $2)", &[class, object])
            .await
            .expect("take the lock");
    }

    let application = format!("second of {schema}");
    let provider = builder(&schema, &application).connect().await.expect("open");
    let mut waits = JoinSet::new();
    wait_for_work(&provider, &mut waits);
    until(&client, CONNECTIONS, &application, |n| n >= 2).await;
    let watched = Duration::from_secs(if is_long() { 60 } else { 3 });
    let end = Instant::now() + watched;
    let mut most = 0;
    while Instant::now() < end {
        assert_eq!(
            number(&client, WAITING, &application).await,
            0,
            "a backend waits for the lock"
        );
        most = most.max(number(&client, CONNECTIONS, &application).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eprintln!("{most} backends at most in {watched:?}");
    assert!(most <= 3, "{most} backends: more than the pool and a listener");

    // Whoever cannot register is told all the same: the safety poll comes every 15 s only.
    let sender = builder(&schema, &format!("third of {schema}"))
        .connect()
        .await
        .expect("open");
    let sent = Instant::now();
    sender
        .enqueue_for_orchestrator(start("held"), None)
        .await
        .expect("start");
    assert_eq!(waits.join_next().await.expect("a waiter").expect("a task"), "held");
    assert!(
        sent.elapsed() < Duration::from_secs(10),
        "no hint came: {:?}",
        sent.elapsed()
    );

    // And registers as soon as it can.
    wait_for_work(&provider, &mut waits);
    drop(holder);
    until(&client, REGISTERED, &application, |n| n > 0).await;
    sender
        .enqueue_for_orchestrator(start("free"), None)
        .await
        .expect("start");
    assert_eq!(waits.join_next().await.expect("a waiter").expect("a task"), "free");
    sender.close().await;
    provider.close().await;
}

/// Somebody's DDL holds every table for as long as they like; calls, polls and looks are given up meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_given_up_do_not_go_on_waiting_in_the_server() {
    let (schema, client) = (fresh_schema(), raw().await);
    let application = format!("caller of {schema}");
    let provider = builder(&schema, &application)
        .call_timeout(Duration::from_millis(500))
        .retry_timeout(Duration::from_secs(3))
        .long_poll(LongPoll {
            fallback_poll_interval: Duration::from_millis(200),
            ..LongPoll::default()
        })
        .connect()
        .await
        .expect("open");
    let mut waits = JoinSet::new();
    wait_for_work(&provider, &mut waits);
    until(&client, REGISTERED, &application, |n| n > 0).await;

    let holder = raw().await;
    let all = "SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c
               WHERE c.relkind = 'r' AND c.relnamespace = to_regnamespace($1)";
    let tables: String = holder
        .query_one(all, &[&format!("\"{schema}\"")])
        .await
        .expect("ask")
        .get(0);
    let lock = format!("BEGIN; LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE");
    holder.batch_execute(&lock).await.expect("lock");

    let mut calls = JoinSet::new();
    for number in 0..4 {
        let provider = provider.clone();
        calls.spawn(async move {
            loop {
                let _ = provider.read(&format!("i{number}")).await;
                let _ = provider.enqueue_for_orchestrator(start("later"), None).await;
            }
        });
    }
    let (mut most, mut oldest) = (0, 0);
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        let age = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - query_start)), 0)::int8
                   FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'";
        oldest = oldest.max(number(&client, age, &application).await);
        most = most.max(number(&client, CONNECTIONS, &application).await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("{most} backends at most, the oldest wait {oldest} s");
    // Calls are given up after 0.5 s, what the listener asks after 5 s; the server follows a second later.
    assert!(oldest <= 8, "a backend has waited {oldest} s for a lock, for nobody");
    calls.shutdown().await;
    drop(holder);
    provider
        .enqueue_for_orchestrator(start("later"), None)
        .await
        .expect("all is well again");
    assert_eq!(waits.join_next().await.expect("a waiter").expect("a task"), "later");
    provider.close().await;
}
