//! A long activity under trouble of its renewals: shorter than its lease it is not noticed, longer it costs no attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use duroxide::runtime::registry::{ActivityRegistry, OrchestrationRegistry};
use duroxide::runtime::{OrchestrationStatus, Runtime, RuntimeOptions};
use duroxide::{ActivityContext, Client, OrchestrationContext};
use tokio::sync::Notify;

use super::under_load::functions;
use crate::field::errors::documented::Documented;

const LEASE: Duration = Duration::from_secs(4);
/// Longer than the lease, so that it lives by being renewed.
const WORK: Duration = Duration::from_secs(10);

/// Runs one long activity, breaks its renewals for so long from its beginning on, and tells how often it was begun.
async fn begun(lasting: Duration) -> usize {
    let place = Documented::create().await;
    let provider = place.builder("steadfast_worker").connect().await;
    let provider = provider.expect("open as the worker");
    let (count, started) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let activities = {
        let (count, started) = (Arc::clone(&count), Arc::clone(&started));
        ActivityRegistry::builder()
            .register("long", move |ctx: ActivityContext, _: String| {
                count.fetch_add(1, Ordering::SeqCst);
                started.notify_one();
                async move {
                    tokio::select! {
                        () = tokio::time::sleep(WORK) => Ok("done".to_owned()),
                        () = ctx.cancelled() => Err("it was cancelled".to_owned()),
                    }
                }
            })
            .build()
    };
    let orchestrations = OrchestrationRegistry::builder()
        .register("one", |ctx: OrchestrationContext, _: String| async move {
            ctx.schedule_activity("long", "").await
        })
        .build();
    let options = RuntimeOptions {
        worker_lock_timeout: LEASE,
        max_attempts: 1,
        ..RuntimeOptions::default()
    };
    let shared = Arc::new(provider.clone());
    let runtime = Runtime::start_with_options(shared.clone(), activities, orchestrations, options).await;
    let client = Client::new(shared);
    client.start_orchestration("i", "one", "").await.expect("start");
    started.notified().await;
    let broken = functions(&place, "renew_work_item_lock").await;
    for (breaks, _) in &broken {
        place.sql(breaks).await;
    }
    tokio::time::sleep(lasting).await;
    for (_, mends) in &broken {
        place.sql(mends).await;
    }
    let ended = client.wait_for_orchestration("i", Duration::from_secs(120)).await;
    let ended = ended.expect("it ends");
    assert!(
        matches!(&ended, OrchestrationStatus::Completed { output, .. } if output == "done"),
        "{ended:?}"
    );
    runtime.shutdown(Some(2_000)).await;
    provider.close().await;
    place.remove().await;
    count.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_within_the_lease_does_not_cancel_an_activity() {
    assert_eq!(begun(Duration::from_millis(2500)).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_longer_than_the_lease_spends_no_attempt() {
    assert!(begun(Duration::from_secs(6)).await >= 1);
}
