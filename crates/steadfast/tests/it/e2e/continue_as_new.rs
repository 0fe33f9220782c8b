//! Continue-as-new: one instance, many executions.

use duroxide::{ActivityContext, EventKind, OrchestrationContext};

use super::stage::{Stage, activities, assert_sound, kinds, orchestrations};
use crate::harness::Store;

pub(super) async fn each_execution_has_its_own_history(store: &Store) {
    let stage = Stage::start(
        store,
        activities().register("increment", |_: ActivityContext, input: String| async move {
            input
                .parse::<u64>()
                .map(|number| (number + 1).to_string())
                .map_err(|error| error.to_string())
        }),
        orchestrations().register("count", |ctx: OrchestrationContext, input: String| async move {
            let next = ctx.schedule_activity("increment", input).await?;
            if next == "5" {
                Ok(format!("{next} in execution {}", ctx.execution_id()))
            } else {
                ctx.continue_as_new(next).await
            }
        }),
    )
    .await;

    assert_eq!(stage.run("c", "count", "0").await, "5 in execution 5");
    assert_eq!(stage.client.list_executions("c").await.expect("list"), [1, 2, 3, 4, 5]);
    for execution in 1..=5 {
        let history = stage.execution("c", execution).await;
        assert_sound(&history);
        assert!(
            history.iter().all(|event| event.execution_id == execution),
            "{history:?}"
        );
        assert!(
            matches!(&history[0].kind, EventKind::OrchestrationStarted { input, .. }
                if *input == (execution - 1).to_string()),
            "{history:?}"
        );
        let (end, status) = if execution == 5 {
            ("OrchestrationCompleted", "Completed")
        } else {
            ("OrchestrationContinuedAsNew", "ContinuedAsNew")
        };
        assert_eq!(
            kinds(&history),
            ["OrchestrationStarted", "ActivityScheduled", "ActivityCompleted", end]
        );
        let info = stage
            .client
            .get_execution_info("c", execution)
            .await
            .expect("an execution's information");
        assert_eq!((info.status.as_str(), info.event_count), (status, 4));
    }
    assert_eq!(
        stage.history("c").await,
        stage.execution("c", 5).await,
        "reading gives the latest execution"
    );
    stage.stop().await;
}

pub(super) async fn unread_messages_are_carried_forward(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("turn-over", |ctx: OrchestrationContext, input: String| async move {
            if input == "first" {
                ctx.schedule_wait("turn").await;
                return ctx.continue_as_new("second").await;
            }
            Ok(ctx.dequeue_event("inbox").await + &ctx.dequeue_event("inbox").await)
        }),
    )
    .await;

    stage.begin("t", "turn-over", "first").await;
    stage.reached("t", 1, "ExternalSubscribed").await;
    for message in ["a", "b"] {
        stage
            .client
            .enqueue_event("t", "inbox", message)
            .await
            .expect("enqueue");
    }
    stage.reached("t", 2, "ExternalEventPersistent").await;
    stage.client.raise_event("t", "turn", "").await.expect("raise");
    assert_eq!(stage.output("t").await, "ab");

    let carried = [
        ("inbox".to_owned(), "a".to_owned()),
        ("inbox".to_owned(), "b".to_owned()),
    ];
    let second = stage.execution("t", 2).await;
    assert!(
        matches!(&second[0].kind, EventKind::OrchestrationStarted { carry_forward_events: Some(events), .. }
            if *events == carried),
        "{second:#?}"
    );
    stage.stop().await;
}

pub(super) async fn the_next_execution_may_have_another_version(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations()
            .register_versioned("evolve", "1.0.0", |ctx: OrchestrationContext, _: String| async move {
                ctx.continue_as_new_versioned("2.0.0", format!("from {}", ctx.orchestration_version()))
                    .await
            })
            .register_versioned(
                "evolve",
                "2.0.0",
                |ctx: OrchestrationContext, input: String| async move {
                    Ok(format!("{input} to {}", ctx.orchestration_version()))
                },
            ),
    )
    .await;

    stage
        .client
        .start_orchestration_versioned("e", "evolve", "1.0.0", "")
        .await
        .expect("start");
    assert_eq!(stage.output("e").await, "from 1.0.0 to 2.0.0");
    let info = stage.client.get_instance_info("e").await.expect("information");
    assert_eq!(
        (info.current_execution_id, info.orchestration_version.as_str()),
        (2, "2.0.0")
    );
    stage.stop().await;
}

pub(super) async fn a_child_that_continues_answers_its_parent(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations()
            .register("child", |ctx: OrchestrationContext, input: String| async move {
                if input.len() < 3 {
                    ctx.continue_as_new(input + "x").await
                } else {
                    Ok(input)
                }
            })
            .register("parent", |ctx: OrchestrationContext, _: String| async move {
                ctx.schedule_sub_orchestration("child", "").await
            }),
    )
    .await;

    assert_eq!(stage.run("p", "parent", "").await, "xxx");
    assert_eq!(
        stage.client.list_executions("p::sub::2").await.expect("list"),
        [1, 2, 3, 4]
    );
    stage.stop().await;
}
