//! Retry policies: attempts are activities of their own, and the waits between them are timers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use duroxide::{ActivityContext, BackoffStrategy, OrchestrationContext, RetryPolicy};

use super::stage::{Stage, activities, assert_sound, count, eventually, options, orchestrations};
use crate::harness::Store;

pub(super) async fn a_flaky_activity_is_retried(store: &Store) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let stage = Stage::start(
        store,
        activities().register("flaky", move |_: ActivityContext, input: String| {
            let call = counted.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                if call < 3 {
                    Err(format!("attempt {call}"))
                } else {
                    Ok(format!("{input} at {call}"))
                }
            }
        }),
        orchestrations().register("stubborn", |ctx: OrchestrationContext, input: String| async move {
            let backoff = BackoffStrategy::Fixed {
                delay: Duration::from_millis(100),
            };
            ctx.schedule_activity_with_retry("flaky", input, RetryPolicy::new(5).with_backoff(backoff))
                .await
        }),
    )
    .await;

    assert_eq!(stage.run("s", "stubborn", "done").await, "done at 3");
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    let history = stage.history("s").await;
    assert_sound(&history);
    assert_eq!(count(&history, "ActivityScheduled"), 3);
    assert_eq!(count(&history, "ActivityFailed"), 2);
    assert_eq!(count(&history, "TimerFired"), 2, "one wait after each failure");
    stage.stop().await;
}

pub(super) async fn attempts_run_out(store: &Store) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let stage = Stage::start(
        store,
        activities().register("hopeless", move |_: ActivityContext, _: String| {
            let call = counted.fetch_add(1, Ordering::SeqCst) + 1;
            async move { Err(format!("failure {call}")) }
        }),
        orchestrations().register("patient", |ctx: OrchestrationContext, _: String| async move {
            let policy = RetryPolicy::new(3).with_backoff(BackoffStrategy::None);
            match ctx.schedule_activity_with_retry("hopeless", "", policy).await {
                Ok(_) => Err("it worked".to_owned()),
                Err(last) => Ok(last),
            }
        }),
    )
    .await;

    assert_eq!(stage.run("p", "patient", "").await, "failure 3");
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    stage.stop().await;
}

pub(super) async fn a_hanging_attempt_times_out(store: &Store) {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&cancelled);
    let stage = Stage::start_with(
        store,
        activities().register("hang", move |ctx: ActivityContext, _: String| {
            let cancelled = Arc::clone(&counted);
            async move {
                ctx.cancelled().await;
                cancelled.fetch_add(1, Ordering::SeqCst);
                Err("cancelled".to_owned())
            }
        }),
        orchestrations().register("hasty", |ctx: OrchestrationContext, _: String| async move {
            // Long enough for a busy machine to begin the attempt: one that never began hears of nothing.
            let policy = RetryPolicy::new(3).with_timeout(Duration::from_secs(2));
            let error = ctx
                .schedule_activity_with_retry("hang", "", policy)
                .await
                .expect_err("it hangs");
            Ok(error)
        }),
        // A worker learns of the cancellation when it renews its lock, after half of this.
        duroxide::runtime::RuntimeOptions {
            worker_lock_timeout: Duration::from_secs(2),
            ..options()
        },
    )
    .await;

    assert!(stage.run("h", "hasty", "").await.contains("timed out"));
    assert_eq!(
        count(&stage.history("h").await, "ActivityScheduled"),
        1,
        "a timeout is not retried"
    );
    eventually("the attempt hears that nobody waits for it", async || {
        (cancelled.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    stage.stop().await;
}
