//! Poison: what can never be processed ends its own instance after a bounded number of attempts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use duroxide::runtime::{RuntimeOptions, UnregisteredBackoffConfig};
use duroxide::{ActivityContext, AppErrorKind, ErrorDetails, OrchestrationContext, PoisonMessageType};

use super::stage::{Stage, activities, eventually, options, orchestrations};
use crate::harness::Store;

const MAX_ATTEMPTS: u32 = 2;

fn impatient() -> RuntimeOptions {
    RuntimeOptions {
        max_attempts: MAX_ATTEMPTS,
        unregistered_backoff: UnregisteredBackoffConfig {
            base_delay: Duration::from_millis(50),
            max_delay: Duration::from_millis(100),
        },
        worker_lock_timeout: Duration::from_secs(1),
        ..options()
    }
}

/// The kind of message that is poison; it must have been tried once more than allowed.
fn poison(details: ErrorDetails) -> PoisonMessageType {
    match details {
        ErrorDetails::Poison {
            attempt_count,
            max_attempts,
            message_type,
            ..
        } => {
            assert_eq!((attempt_count, max_attempts), (MAX_ATTEMPTS + 1, MAX_ATTEMPTS));
            message_type
        }
        other => panic!("not poison: {other:?}"),
    }
}

pub(super) async fn an_unregistered_activity_is_poison(store: &Store) {
    let stage = Stage::start_with(
        store,
        activities(),
        orchestrations().register("hopeful", |ctx: OrchestrationContext, _: String| async move {
            ctx.schedule_activity("nobody knows", "").await
        }),
        impatient(),
    )
    .await;

    stage.begin("h", "hopeful", "").await;
    let kind = poison(stage.failure("h").await);
    assert!(
        matches!(&kind, PoisonMessageType::Activity { instance, activity_name, activity_id: 2, .. }
            if instance == "h" && activity_name == "nobody knows"),
        "{kind:?}"
    );
    stage.stop().await;
}

pub(super) async fn an_unregistered_orchestration_is_poison(store: &Store) {
    let stage = Stage::start_with(store, activities(), orchestrations(), impatient()).await;

    stage.begin("u", "nobody knows", "").await;
    let kind = poison(stage.failure("u").await);
    assert!(
        matches!(&kind, PoisonMessageType::Orchestration { instance, execution_id: 1 } if instance == "u"),
        "{kind:?}"
    );
    stage.stop().await;
}

pub(super) async fn a_poisoned_child_fails_its_parent(store: &Store) {
    let stage = Stage::start_with(
        store,
        activities(),
        orchestrations().register("parent", |ctx: OrchestrationContext, _: String| async move {
            ctx.schedule_sub_orchestration_with_id("nobody knows", "the-child", "")
                .await
        }),
        impatient(),
    )
    .await;

    stage.begin("p", "parent", "").await;
    poison(stage.failure("p").await);
    poison(stage.failure("the-child").await);
    stage.stop().await;
}

pub(super) async fn an_activity_that_kills_its_workers_is_poison(store: &Store) {
    let calls = Arc::new(AtomicUsize::new(0));
    let start = async || {
        let calls = Arc::clone(&calls);
        Stage::start_with(
            store,
            activities().register("deadly", move |_: ActivityContext, _: String| {
                calls.fetch_add(1, Ordering::SeqCst);
                std::future::pending()
            }),
            orchestrations().register("doomed", |ctx: OrchestrationContext, _: String| async move {
                ctx.schedule_activity("deadly", "").await
            }),
            impatient(),
        )
        .await
    };

    let mut stage = start().await;
    stage.begin("d", "doomed", "").await;
    for call in 1..=MAX_ATTEMPTS as usize {
        eventually("the activity begins", async || {
            (calls.load(Ordering::SeqCst) >= call).then_some(())
        })
        .await;
        stage.kill().await;
        stage = start().await;
    }
    poison(stage.failure("d").await);
    assert_eq!(
        calls.load(Ordering::SeqCst),
        MAX_ATTEMPTS as usize,
        "poison is not handed to the activity"
    );
    stage.stop().await;
}

pub(super) async fn a_panicking_orchestration_fails(store: &Store) {
    let stage = Stage::start_with(
        store,
        activities(),
        orchestrations().register("nervous", |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_timer(Duration::ZERO).await;
            assert!(input.is_empty(), "this panic is part of the scenario");
            Ok(input)
        }),
        impatient(),
    )
    .await;

    stage.begin("n", "nervous", "now").await;
    let details = stage.failure("n").await;
    assert!(
        matches!(&details, ErrorDetails::Application { kind: AppErrorKind::Panicked, message, .. }
            if message.contains("part of the scenario")),
        "{details:?}"
    );
    stage.stop().await;
}

pub(super) async fn a_corrupt_history_poisons_only_its_own_instance(store: &Store) {
    let stage = Stage::start_with(
        store,
        activities(),
        orchestrations().register("wait", |ctx: OrchestrationContext, _: String| async move {
            Ok(ctx.schedule_wait("go").await)
        }),
        impatient(),
    )
    .await;

    for instance in ["sick", "sound"] {
        stage.begin(instance, "wait", "").await;
        stage.reached(instance, 1, "ExternalSubscribed").await;
    }
    store.corrupt_history("sick").await;
    for instance in ["sick", "sound"] {
        stage.client.raise_event(instance, "go", "gone").await.expect("raise");
    }
    assert_eq!(stage.output("sound").await, "gone");
    // Its history cannot be read, so that only the metadata tell of its end.
    let output = eventually("the sick instance fails", async || {
        let info = stage.client.get_instance_info("sick").await.expect("information");
        (info.status == "Failed").then_some(info.output)
    })
    .await;
    assert!(
        output.is_some_and(|output| output.contains("poison")),
        "its output says why"
    );
    assert!(
        stage.provider.read("sick").await.is_err(),
        "what cannot be decoded is an error, not an empty history"
    );
    stage.stop().await;
}
