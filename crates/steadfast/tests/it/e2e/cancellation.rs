//! Cancellation: of an instance, and through it of all that works for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use duroxide::providers::TagFilter;
use duroxide::runtime::{OrchestrationStatus, RuntimeOptions};
use duroxide::{ActivityContext, OrchestrationContext};

use super::stage::{Stage, activities, count, eventually, kinds, options, orchestrations};
use crate::harness::Store;

pub(super) async fn a_waiting_instance_is_cancelled(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("wait", |ctx: OrchestrationContext, _: String| async move {
            Ok(ctx.schedule_wait("never").await)
        }),
    )
    .await;

    stage.begin("w", "wait", "").await;
    stage.reached("w", 1, "ExternalSubscribed").await;
    stage
        .client
        .cancel_instance("w", "no longer needed")
        .await
        .expect("cancel");
    assert_eq!(stage.cancelled("w").await, "no longer needed");
    let history = stage.history("w").await;
    assert_eq!(count(&history, "OrchestrationCancelRequested"), 1);
    assert_eq!(kinds(&history).last().map(String::as_str), Some("OrchestrationFailed"));
    stage.stop().await;
}

pub(super) async fn cancellation_reaches_children(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations()
            .register("leaf", |ctx: OrchestrationContext, _: String| async move {
                Ok(ctx.schedule_wait("never").await)
            })
            .register("middle", |ctx: OrchestrationContext, _: String| async move {
                ctx.schedule_sub_orchestration("leaf", "").await
            })
            .register("root", |ctx: OrchestrationContext, _: String| async move {
                let (left, right) = ctx
                    .join2(
                        ctx.schedule_sub_orchestration("middle", ""),
                        ctx.schedule_sub_orchestration("leaf", ""),
                    )
                    .await;
                Ok(left? + &right?)
            }),
    )
    .await;

    stage.begin("r", "root", "").await;
    let leaves = ["r::sub::2::sub::2", "r::sub::3"];
    for leaf in leaves {
        stage.reached(leaf, 1, "ExternalSubscribed").await;
    }
    stage.client.cancel_instance("r", "stop all").await.expect("cancel");
    assert_eq!(stage.cancelled("r").await, "stop all");
    for below in ["r::sub::2", leaves[0], leaves[1]] {
        assert_eq!(stage.cancelled(below).await, "parent canceled", "{below}");
    }
    stage.stop().await;
}

pub(super) async fn cancellation_reaches_a_running_activity(store: &Store) {
    let running = Arc::new(AtomicBool::new(false));
    let heard = Arc::new(AtomicBool::new(false));
    let (runs, hears) = (Arc::clone(&running), Arc::clone(&heard));
    let stage = Stage::start_with(
        store,
        activities().register("work", move |ctx: ActivityContext, _: String| {
            let (running, heard) = (Arc::clone(&runs), Arc::clone(&hears));
            async move {
                running.store(true, Ordering::SeqCst);
                ctx.cancelled().await;
                heard.store(true, Ordering::SeqCst);
                Ok("too late".to_owned())
            }
        }),
        orchestrations()
            .register("child", |ctx: OrchestrationContext, _: String| async move {
                ctx.schedule_activity("work", "").await
            })
            .register("parent", |ctx: OrchestrationContext, _: String| async move {
                ctx.schedule_sub_orchestration("child", "").await
            }),
        RuntimeOptions {
            worker_lock_timeout: std::time::Duration::from_secs(2),
            ..options()
        },
    )
    .await;

    stage.begin("p", "parent", "").await;
    eventually("the activity runs", async || {
        running.load(Ordering::SeqCst).then_some(())
    })
    .await;
    stage.client.cancel_instance("p", "enough").await.expect("cancel");
    assert_eq!(stage.cancelled("p").await, "enough");
    assert_eq!(stage.cancelled("p::sub::2").await, "parent canceled");
    eventually("the activity hears of it", async || {
        heard.load(Ordering::SeqCst).then_some(())
    })
    .await;
    assert_eq!(count(&stage.history("p::sub::2").await, "ActivityCompleted"), 0);
    eventually("the activity's work item is gone", async || {
        let depths = stage.client.get_queue_depths().await.expect("queue depths");
        (depths.worker_queue == 0).then_some(())
    })
    .await;
    stage.stop().await;
}

pub(super) async fn cancellation_removes_a_queued_activity(store: &Store) {
    // This runtime takes no activities at all: the work stays in the queue.
    let stage = Stage::start_with(
        store,
        activities(),
        orchestrations().register("order", |ctx: OrchestrationContext, _: String| async move {
            let work = (0..3).map(|_| ctx.schedule_activity("work", "")).collect();
            let done: Result<Vec<String>, String> = ctx.join(work).await.into_iter().collect();
            Ok(done?.concat())
        }),
        RuntimeOptions {
            worker_tag_filter: TagFilter::none(),
            ..options()
        },
    )
    .await;

    stage.begin("o", "order", "").await;
    stage.reached("o", 3, "ActivityScheduled").await;
    assert_eq!(
        stage
            .client
            .get_queue_depths()
            .await
            .expect("queue depths")
            .worker_queue,
        3
    );
    stage
        .client
        .cancel_instance("o", "changed my mind")
        .await
        .expect("cancel");
    assert_eq!(stage.cancelled("o").await, "changed my mind");
    assert_eq!(
        stage
            .client
            .get_queue_depths()
            .await
            .expect("queue depths")
            .worker_queue,
        0
    );
    stage.stop().await;
}

pub(super) async fn cancelling_what_has_ended_changes_nothing(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("short", |_: OrchestrationContext, _: String| async move {
            Ok("done".to_owned())
        }),
    )
    .await;

    assert_eq!(stage.run("s", "short", "").await, "done");
    let before = stage.history("s").await;
    stage.client.cancel_instance("s", "too late").await.expect("cancel");
    // Whatever the request does, it has done it when the queue is empty.
    eventually("the request is consumed", async || {
        let depths = stage.client.get_queue_depths().await.expect("queue depths");
        (depths.orchestrator_queue == 0).then_some(())
    })
    .await;
    assert_eq!(stage.output("s").await, "done");
    assert_eq!(stage.history("s").await, before);

    stage
        .client
        .cancel_instance("nobody", "never was")
        .await
        .expect("cancel");
    assert_eq!(
        stage.client.get_orchestration_status("nobody").await.expect("a status"),
        OrchestrationStatus::NotFound
    );
    stage.stop().await;
}
