//! External events: matched by name to an open wait, in order, and dropped when nobody waits.

use duroxide::OrchestrationContext;
use duroxide::runtime::OrchestrationStatus;

use super::stage::{Stage, activities, assert_sound, count, orchestrations};
use crate::harness::Store;

pub(super) async fn an_event_is_received_after_waiting(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("listen", |ctx: OrchestrationContext, _: String| async move {
            Ok(ctx.schedule_wait("word").await)
        }),
    )
    .await;

    stage.begin("l", "listen", "").await;
    stage.reached("l", 1, "ExternalSubscribed").await;
    stage.client.raise_event("l", "word", "hello").await.expect("raise");
    assert_eq!(stage.output("l").await, "hello");
    assert_sound(&stage.history("l").await);
    stage.stop().await;
}

pub(super) async fn an_event_before_its_wait_is_dropped(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("two-steps", |ctx: OrchestrationContext, _: String| async move {
            let first = ctx.schedule_wait("first").await;
            let second = ctx.schedule_wait("second").await;
            Ok(format!("{first} {second}"))
        }),
    )
    .await;

    stage.begin("t", "two-steps", "").await;
    stage.reached("t", 1, "ExternalSubscribed").await;
    stage.client.raise_event("t", "second", "early").await.expect("raise");
    stage.client.raise_event("t", "first", "one").await.expect("raise");
    stage.reached("t", 2, "ExternalSubscribed").await;
    assert!(
        matches!(
            stage.client.get_orchestration_status("t").await,
            Ok(OrchestrationStatus::Running { .. })
        ),
        "the early event must not answer the later wait"
    );
    stage.client.raise_event("t", "second", "two").await.expect("raise");
    assert_eq!(stage.output("t").await, "one two");
    stage.stop().await;
}

pub(super) async fn equal_waits_take_events_in_order(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("collect", |ctx: OrchestrationContext, _: String| async move {
            let waits = (0..4).map(|_| ctx.schedule_wait("item")).collect();
            Ok(ctx.join(waits).await.join(","))
        }),
    )
    .await;

    stage.begin("c", "collect", "").await;
    stage.reached("c", 4, "ExternalSubscribed").await;
    for item in ["a", "b", "c", "d"] {
        stage.client.raise_event("c", "item", item).await.expect("raise");
    }
    assert_eq!(stage.output("c").await, "a,b,c,d");
    assert_eq!(count(&stage.history("c").await, "ExternalEvent"), 4);
    stage.stop().await;
}

pub(super) async fn events_go_by_name(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("pair", |ctx: OrchestrationContext, _: String| async move {
            let (left, right) = ctx.join2(ctx.schedule_wait("left"), ctx.schedule_wait("right")).await;
            Ok(format!("{left}|{right}"))
        }),
    )
    .await;

    stage.begin("p", "pair", "").await;
    stage.reached("p", 2, "ExternalSubscribed").await;
    stage.client.raise_event("p", "right", "R").await.expect("raise");
    stage.client.raise_event("p", "left", "L").await.expect("raise");
    assert_eq!(stage.output("p").await, "L|R");
    stage.stop().await;
}
