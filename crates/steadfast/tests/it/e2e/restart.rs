//! Restarts: what a runtime leaves behind, another one takes up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use duroxide::runtime::RuntimeOptions;
use duroxide::runtime::registry::{ActivityRegistryBuilder, OrchestrationRegistryBuilder};
use duroxide::{ActivityContext, OrchestrationContext};

use super::stage::{Stage, activities, assert_sound, count, eventually, options, orchestrations};
use crate::harness::Store;

pub(super) async fn a_runtime_goes_on_where_another_stopped(store: &Store) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = || -> ActivityRegistryBuilder {
        let calls = Arc::clone(&calls);
        activities().register("step", move |_: ActivityContext, input: String| {
            calls.fetch_add(1, Ordering::SeqCst);
            async move { Ok(input + "+") }
        })
    };
    let steps = || -> OrchestrationRegistryBuilder {
        orchestrations().register("steps", |ctx: OrchestrationContext, input: String| async move {
            let mut value = input;
            for _ in 0..4 {
                value = ctx.schedule_activity("step", value).await?;
                ctx.schedule_wait("next").await;
            }
            Ok(value)
        })
    };

    // Another runtime for each step, over another provider.
    let mut stage = Stage::start(store, counted(), steps()).await;
    stage.begin("s", "steps", "0").await;
    for step in 1..=4 {
        stage.reached("s", step, "ExternalSubscribed").await;
        stage.stop().await;
        stage = Stage::start(store, counted(), steps()).await;
        stage.client.raise_event("s", "next", "").await.expect("raise");
    }
    assert_eq!(stage.output("s").await, "0++++");
    assert_eq!(calls.load(Ordering::SeqCst), 4, "no step ran twice");
    assert_sound(&stage.history("s").await);
    stage.stop().await;
}

pub(super) async fn a_timer_outlives_its_runtime(store: &Store) {
    let nap = || {
        orchestrations().register("nap", |ctx: OrchestrationContext, _: String| async move {
            ctx.schedule_timer(Duration::from_secs(1)).await;
            Ok("awake".to_owned())
        })
    };
    let stage = Stage::start(store, activities(), nap()).await;
    stage.begin("n", "nap", "").await;
    stage.reached("n", 1, "TimerCreated").await;
    stage.kill().await;

    let stage = Stage::start(store, activities(), nap()).await;
    assert_eq!(stage.output("n").await, "awake");
    assert_eq!(count(&stage.history("n").await, "TimerFired"), 1);
    stage.stop().await;
}

pub(super) async fn an_abandoned_activity_runs_again(store: &Store) {
    let calls = Arc::new(AtomicUsize::new(0));
    let start = async || {
        let calls = Arc::clone(&calls);
        let second_time_lucky = activities().register("work", move |_: ActivityContext, _: String| {
            let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                if call == 1 {
                    std::future::pending::<()>().await;
                }
                Ok(format!("call {call}"))
            }
        });
        let simple = orchestrations().register("simple", |ctx: OrchestrationContext, _: String| async move {
            ctx.schedule_activity("work", "").await
        });
        let short_lock = RuntimeOptions {
            // Long enough for claim, read and ack over a slow network; a second was not, at 250 ms a round trip.
            worker_lock_timeout: Duration::from_secs(4),
            ..options()
        };
        Stage::start_with(store, second_time_lucky, simple, short_lock).await
    };

    let stage = start().await;
    stage.begin("s", "simple", "").await;
    eventually("the activity begins", async || {
        (calls.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    stage.kill().await;

    let stage = start().await;
    assert_eq!(stage.output("s").await, "call 2");
    let history = stage.history("s").await;
    assert_sound(&history);
    assert_eq!(count(&history, "ActivityScheduled"), 1, "the same activity, once more");
    stage.stop().await;
}
