//! Races: the winner's value counts, and the loser is cancelled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use duroxide::runtime::RuntimeOptions;
use duroxide::{ActivityContext, Either2, OrchestrationContext};

use super::stage::{Stage, activities, assert_sound, count, eventually, options, orchestrations};
use crate::harness::Store;

/// So far away that a scenario which waits for it has failed.
const NEVER: Duration = Duration::from_secs(3_600);
const SOON: Duration = Duration::from_millis(200);

pub(super) async fn an_activity_beats_a_timer(store: &Store) {
    let stage = Stage::start(
        store,
        activities().register("quick", |_: ActivityContext, _: String| async move {
            Ok("quick".to_owned())
        }),
        orchestrations().register("race", |ctx: OrchestrationContext, _: String| async move {
            match ctx
                .select2(ctx.schedule_activity("quick", ""), ctx.schedule_timer(NEVER))
                .await
            {
                Either2::First(result) => result,
                Either2::Second(()) => Err("the timer won".to_owned()),
            }
        }),
    )
    .await;

    assert_eq!(stage.run("r", "race", "").await, "quick");
    assert_sound(&stage.history("r").await);
    stage.stop().await;
}

pub(super) async fn a_timer_beats_an_activity(store: &Store) {
    let heard = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&heard);
    let stage = Stage::start_with(
        store,
        activities().register("slow", move |ctx: ActivityContext, _: String| {
            let heard = Arc::clone(&told);
            async move {
                ctx.cancelled().await;
                heard.store(true, Ordering::SeqCst);
                Ok("too late".to_owned())
            }
        }),
        orchestrations().register("race", |ctx: OrchestrationContext, _: String| async move {
            match ctx
                .select2(ctx.schedule_activity("slow", ""), ctx.schedule_timer(SOON))
                .await
            {
                Either2::First(result) => result,
                Either2::Second(()) => {
                    // The instance lives on: the activity is cancelled because it lost, not because all is over.
                    ctx.schedule_wait("end").await;
                    Ok("timer".to_owned())
                }
            }
        }),
        RuntimeOptions {
            worker_lock_timeout: Duration::from_secs(2),
            ..options()
        },
    )
    .await;

    stage.begin("r", "race", "").await;
    eventually("the losing activity is cancelled", async || {
        heard.load(Ordering::SeqCst).then_some(())
    })
    .await;
    stage.reached("r", 1, "ExternalSubscribed").await;
    stage.client.raise_event("r", "end", "").await.expect("raise");
    assert_eq!(stage.output("r").await, "timer");
    let history = stage.history("r").await;
    assert_sound(&history);
    assert_eq!(count(&history, "ActivityCancelRequested"), 1);
    assert_eq!(count(&history, "ActivityCompleted"), 0, "the loser's result is dropped");
    stage.stop().await;
}

async fn approval(ctx: OrchestrationContext, patience: Duration) -> Result<String, String> {
    match ctx
        .select2(ctx.schedule_wait("approval"), ctx.schedule_timer(patience))
        .await
    {
        Either2::First(who) => Ok(format!("approved by {who}")),
        Either2::Second(()) => Ok("expired".to_owned()),
    }
}

pub(super) async fn an_event_beats_a_timer(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("ask", |ctx: OrchestrationContext, _: String| approval(ctx, NEVER)),
    )
    .await;

    stage.begin("a", "ask", "").await;
    stage.reached("a", 1, "ExternalSubscribed").await;
    stage.client.raise_event("a", "approval", "Ada").await.expect("raise");
    assert_eq!(stage.output("a").await, "approved by Ada");
    stage.stop().await;
}

pub(super) async fn a_timer_beats_an_event(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("ask", |ctx: OrchestrationContext, _: String| approval(ctx, SOON)),
    )
    .await;

    assert_eq!(stage.run("a", "ask", "").await, "expired");
    assert_eq!(count(&stage.history("a").await, "ExternalSubscribedCancelled"), 1);
    // Too late, and no harm done.
    stage.client.raise_event("a", "approval", "Ada").await.expect("raise");
    assert_eq!(stage.output("a").await, "expired");
    stage.stop().await;
}

pub(super) async fn a_timer_beats_a_sub_orchestration(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations()
            .register("sleeper", |ctx: OrchestrationContext, _: String| async move {
                Ok(ctx.schedule_wait("never").await)
            })
            .register("race", |ctx: OrchestrationContext, _: String| async move {
                let child = ctx.schedule_sub_orchestration_with_id("sleeper", "the-loser", "");
                Ok(if ctx.select2(child, ctx.schedule_timer(SOON)).await.is_second() {
                    "timer"
                } else {
                    "child"
                }
                .to_owned())
            }),
    )
    .await;

    assert_eq!(stage.run("r", "race", "").await, "timer");
    assert_eq!(count(&stage.history("r").await, "SubOrchestrationCancelRequested"), 1);
    stage.cancelled("the-loser").await;
    stage.stop().await;
}
