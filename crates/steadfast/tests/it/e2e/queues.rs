//! Event queues: first in, first out, and kept until somebody dequeues.

use duroxide::{ActivityContext, OrchestrationContext};

use super::stage::{Stage, activities, assert_sound, count, orchestrations};
use crate::harness::Store;

async fn send(stage: &Stage, instance: &str, queue: &str, messages: &[&str]) {
    for message in messages {
        stage
            .client
            .enqueue_event(instance, queue, *message)
            .await
            .expect("enqueue");
    }
}

pub(super) async fn messages_arrive_in_order(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("read", |ctx: OrchestrationContext, _: String| async move {
            let mut read = Vec::new();
            for _ in 0..6 {
                read.push(ctx.dequeue_event("inbox").await);
            }
            Ok(read.join(""))
        }),
    )
    .await;

    stage.begin("r", "read", "").await;
    stage.reached("r", 1, "ExternalSubscribedPersistent").await;
    send(&stage, "r", "inbox", &["a", "b", "c", "d", "e", "f"]).await;
    assert_eq!(stage.output("r").await, "abcdef");
    let history = stage.history("r").await;
    assert_sound(&history);
    assert_eq!(count(&history, "ExternalEventPersistent"), 6);
    stage.stop().await;
}

pub(super) async fn messages_are_kept_until_dequeued(store: &Store) {
    let (open, gate) = tokio::sync::watch::channel(false);
    let stage = Stage::start(
        store,
        activities().register("gate", move |_: ActivityContext, _: String| {
            let mut gate = gate.clone();
            async move {
                gate.wait_for(|open| *open)
                    .await
                    .map(|_| String::new())
                    .map_err(|error| error.to_string())
            }
        }),
        orchestrations().register("late", |ctx: OrchestrationContext, _: String| async move {
            ctx.schedule_activity("gate", "").await?;
            Ok(ctx.dequeue_event("inbox").await + &ctx.dequeue_event("inbox").await)
        }),
    )
    .await;

    stage.begin("l", "late", "").await;
    stage.reached("l", 1, "ActivityScheduled").await;
    send(&stage, "l", "inbox", &["1", "2"]).await;
    // Both arrivals are in the history before anybody has asked for them.
    stage.reached("l", 2, "ExternalEventPersistent").await;
    open.send(true).expect("the activity waits");
    assert_eq!(stage.output("l").await, "12");
    stage.stop().await;
}

pub(super) async fn two_queues_are_independent(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("two", |ctx: OrchestrationContext, _: String| async move {
            let b = ctx.dequeue_event("b").await;
            let a = ctx.dequeue_event("a").await;
            Ok(format!("{a}{b}{}", ctx.dequeue_event("a").await))
        }),
    )
    .await;

    stage.begin("t", "two", "").await;
    stage.reached("t", 1, "ExternalSubscribedPersistent").await;
    send(&stage, "t", "a", &["a1", "a2"]).await;
    send(&stage, "t", "b", &["b1"]).await;
    assert_eq!(stage.output("t").await, "a1b1a2");
    stage.stop().await;
}

pub(super) async fn messages_survive_continue_as_new(store: &Store) {
    const MESSAGES: usize = 5;
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("one-by-one", |ctx: OrchestrationContext, read: String| async move {
            let read = read + &ctx.dequeue_event("inbox").await;
            if read.len() < MESSAGES {
                ctx.continue_as_new(read).await
            } else {
                Ok(read)
            }
        }),
    )
    .await;

    stage.begin("o", "one-by-one", "").await;
    stage.reached("o", 1, "ExternalSubscribedPersistent").await;
    send(&stage, "o", "inbox", &["v", "w", "x", "y", "z"]).await;
    assert_eq!(stage.output("o").await, "vwxyz");
    assert_eq!(stage.client.list_executions("o").await.expect("list").len(), MESSAGES);
    stage.stop().await;
}
