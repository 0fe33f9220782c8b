//! Whose runtime is it? A provider serves callers of several runtimes, of one that has ended, of one that stands still,
//! and of none.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use duroxide::providers::{Provider, TagFilter};
use futures_util::poll;
use steadfast::postgres::{LongPoll, PostgresProvider};
use tokio::runtime::{Builder, Runtime};

use crate::harness::{Engine, Mode, Store, database_url, fresh_schema};
use crate::op::scene::{LONG, SOON, ack_turn, activity, start, turn};

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn multi_thread() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime")
}

/// What must come, and soon: a hang is a failure.
async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work)
        .await
        .unwrap_or_else(|_| panic!("hangs: {what}"))
}

/// From the start of an instance to the acknowledgement of its turn.
async fn one_turn(provider: &dyn Provider, instance: &str) {
    let started = provider.enqueue_for_orchestrator(start(instance), None).await;
    started.expect("start an instance");
    let (found, token, _) = turn(provider, LONG).await;
    assert_eq!(found, instance);
    ack_turn(provider, &token, instance, Vec::new(), Vec::new())
        .await
        .expect("acknowledge a turn");
}

fn used_in_another_after_the_first_has_ended(engine: Engine) {
    let store = Store::on(engine, Mode::LongPoll);
    let first = current_thread();
    let provider = first.block_on(async {
        let provider = store.open().await;
        one_turn(&*provider, "a").await;
        // These wait in it when it ends.
        for _ in 0..8 {
            let provider = Arc::clone(&provider);
            tokio::spawn(async move { provider.fetch_work_item(LONG, LONG, None, &TagFilter::Any).await });
        }
        tokio::task::yield_now().await;
        provider
    });
    drop(first);
    multi_thread().block_on(async {
        soon("a turn in the second runtime", one_turn(&*provider, "b")).await;
        // What another process makes is still heard of.
        let other = store.open().await;
        let waiting = provider.fetch_work_item(LONG, LONG, None, &TagFilter::Any);
        let mut waiting = pin!(waiting);
        assert!(poll!(&mut waiting).is_pending());
        let queued = other.enqueue_for_worker(activity("c", 2)).await;
        queued.expect("queue an activity");
        let found = soon("a wake-up in the second runtime", waiting).await;
        let (_, token, attempts) = found.expect("fetch").expect("an activity");
        assert_eq!(attempts, 1, "nobody else has had it");
        provider.ack_work_item(&token, None).await.expect("acknowledge");
        soon("closing in the second runtime", store.close()).await;
    });
}

#[test]
fn postgres_used_in_another_after_the_first_has_ended() {
    used_in_another_after_the_first_has_ended(Engine::Postgres);
}

#[test]
fn embedded_used_in_another_after_the_first_has_ended() {
    used_in_another_after_the_first_has_ended(Engine::Embedded);
}

/// Two runtimes share a provider, and one ends: every call of the other is answered, and none has failed.
fn calls_are_answered_while_another_runtime_ends(engine: Engine) {
    let store = Store::on(engine, Mode::LongPoll);
    let staying = multi_thread();
    let provider = staying.block_on(store.open());
    for round in 0..5 {
        let going = multi_thread();
        for n in 0..64 {
            let provider = Arc::clone(&provider);
            going.spawn(async move {
                for m in 0.. {
                    let sent = provider.enqueue_for_worker(activity(&format!("gone-{round}-{n}-{m}"), 2));
                    let _ = sent.await;
                }
            });
        }
        let enough = Arc::new(AtomicBool::new(false));
        let callers: Vec<_> = (0..32)
            .map(|n| {
                let (provider, enough) = (Arc::clone(&provider), Arc::clone(&enough));
                staying.spawn(async move {
                    let mut sent = Vec::new();
                    while !enough.load(Ordering::Relaxed) {
                        let instance = format!("stay-{round}-{n}-{}", sent.len());
                        let started = provider.enqueue_for_orchestrator(start(&instance), None).await;
                        started.expect("a call of the runtime that stays");
                        let (found, token, _) = turn(&*provider, LONG).await;
                        ack_turn(&*provider, &token, &found, Vec::new(), Vec::new())
                            .await
                            .expect("an ack of the runtime that stays");
                        sent.push((instance, found));
                    }
                    sent
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(50));
        drop(going);
        enough.store(true, Ordering::Relaxed);
        staying.block_on(async {
            let (mut sent, mut found) = (BTreeSet::new(), BTreeSet::new());
            for caller in callers {
                let pairs = soon("the callers of the runtime that stays", caller).await;
                for (one, other) in pairs.expect("no panic") {
                    sent.insert(one);
                    assert!(found.insert(other), "handed out twice");
                }
            }
            assert_eq!(sent, found);
        });
    }
    staying.block_on(store.close());
}

#[test]
fn postgres_calls_are_answered_while_another_runtime_ends() {
    calls_are_answered_while_another_runtime_ends(Engine::Postgres);
}

#[test]
fn embedded_calls_are_answered_while_another_runtime_ends() {
    calls_are_answered_while_another_runtime_ends(Engine::Embedded);
}

/// A runtime with one thread moves only while somebody is in it. Nobody else waits for that.
fn a_runtime_that_stands_still_holds_up_nobody(engine: Engine) {
    let store = Store::on(engine, Mode::LongPoll);
    let still = current_thread();
    let provider = still.block_on(async {
        let provider = store.open().await;
        one_turn(&*provider, "a").await;
        for n in 0..8 {
            let provider = Arc::clone(&provider);
            // Polled once, and then no more.
            tokio::spawn(async move { provider.enqueue_for_worker(activity(&format!("w-{n}"), 2)).await });
        }
        tokio::task::yield_now().await;
        provider
    });
    let moving = current_thread();
    moving.block_on(soon("calls of the one that moves", async {
        for n in 0..20 {
            one_turn(&*provider, &format!("b-{n}")).await;
        }
    }));
    still.block_on(soon("calls of the one that stood still", one_turn(&*provider, "c")));
    moving.block_on(store.close());
}

#[test]
fn postgres_a_runtime_that_stands_still_holds_up_nobody() {
    a_runtime_that_stands_still_holds_up_nobody(Engine::Postgres);
}

#[test]
fn embedded_a_runtime_that_stands_still_holds_up_nobody() {
    a_runtime_that_stands_still_holds_up_nobody(Engine::Embedded);
}

/// What a dropped fetch had claimed goes back, also when nobody is in any runtime at that moment.
fn futures_and_providers_are_dropped_outside_any_runtime(engine: Engine) {
    let store = Store::on(engine, Mode::LongPoll);
    let runtime = current_thread();
    let (provider, other) = runtime.block_on(async { (store.open().await, store.open().await) });
    {
        let mut fetches: Vec<_> = (0..4)
            .map(|_| Box::pin(provider.fetch_work_item(LONG, LONG, None, &TagFilter::Any)))
            .collect();
        runtime.block_on(async {
            for fetch in &mut fetches {
                assert!(poll!(fetch).is_pending());
            }
            for n in 0..4 {
                let queued = provider.enqueue_for_worker(activity(&format!("w-{n}"), 2)).await;
                queued.expect("queue an activity");
            }
            // Time for them to be claimed for the fetches above, which nobody polls.
            tokio::time::sleep(Duration::from_millis(300)).await;
        });
        drop(fetches);
    }
    runtime.block_on(async {
        for _ in 0..4 {
            let fetched = other.fetch_work_item(LONG, SOON, None, &TagFilter::Any).await;
            let (_, _, attempts) = fetched
                .expect("fetch")
                .expect("an activity comes back before its lease ends");
            assert_eq!(attempts, 1, "going back spends no attempt");
        }
    });
    drop(other);
    // The store knows of both; its own clones go here, and with them the providers.
    drop(store);
    drop(provider);
    drop(runtime);
}

#[test]
fn postgres_futures_and_providers_are_dropped_outside_any_runtime() {
    futures_and_providers_are_dropped_outside_any_runtime(Engine::Postgres);
}

#[test]
fn embedded_futures_and_providers_are_dropped_outside_any_runtime() {
    futures_and_providers_are_dropped_outside_any_runtime(Engine::Embedded);
}

/// Polls without any runtime.
fn without_runtime<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let begun = Instant::now();
    loop {
        if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
        assert!(begun.elapsed() < LONG, "hangs");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn postgres_calls_need_no_runtime() {
    let runtime = current_thread();
    let provider = runtime.block_on(async {
        let builder = PostgresProvider::builder(&database_url()).schema(fresh_schema());
        let builder = builder.pool_size(2).long_poll(LongPoll::default());
        builder.connect().await.expect("open")
    });
    drop(runtime);
    without_runtime(async {
        one_turn(&provider, "a").await;
        assert_eq!(provider.read("a").await.expect("read").len(), 1);
        let nothing = provider.fetch_work_item(LONG, Duration::from_millis(20), None, &TagFilter::Any);
        assert!(nothing.await.expect("fetch").is_none());
        provider.close().await;
    });
}
