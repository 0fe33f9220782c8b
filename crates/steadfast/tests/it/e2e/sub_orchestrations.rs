//! Sub-orchestrations: ids, results and failures between parent and child.

use duroxide::{ActivityContext, EventKind, OrchestrationContext};

use super::stage::{Stage, activities, assert_sound, count, orchestrations};
use crate::harness::Store;

pub(super) async fn a_child_returns_its_result(store: &Store) {
    let stage = Stage::start(
        store,
        activities().register("greet", |_: ActivityContext, name: String| async move {
            Ok(format!("hi {name}"))
        }),
        orchestrations()
            .register("child", |ctx: OrchestrationContext, name: String| async move {
                ctx.schedule_activity("greet", name).await
            })
            .register("parent", |ctx: OrchestrationContext, name: String| async move {
                let said = ctx.schedule_sub_orchestration("child", name).await?;
                Ok(format!("child said: {said}"))
            }),
    )
    .await;

    assert_eq!(stage.run("p", "parent", "Bo").await, "child said: hi Bo");
    assert_sound(&stage.history("p").await);

    let child = "p::sub::2";
    assert_eq!(stage.output(child).await, "hi Bo");
    let started = &stage.history(child).await[0];
    assert!(
        matches!(&started.kind, EventKind::OrchestrationStarted { parent_instance: Some(parent), .. } if parent == "p"),
        "{started:?}"
    );
    let info = stage
        .client
        .get_instance_info(child)
        .await
        .expect("the child's information");
    assert_eq!(info.parent_instance_id.as_deref(), Some("p"));
    stage.stop().await;
}

pub(super) async fn children_nest(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("descend", |ctx: OrchestrationContext, depth: String| async move {
            let depth: u32 = depth.parse().map_err(|_| "not a depth".to_owned())?;
            if depth == 0 {
                return Ok("bottom".to_owned());
            }
            let below = ctx
                .schedule_sub_orchestration("descend", (depth - 1).to_string())
                .await?;
            Ok(format!("{depth} {below}"))
        }),
    )
    .await;

    assert_eq!(stage.run("root", "descend", "4").await, "4 3 2 1 bottom");
    let tree = stage.client.get_instance_tree("root").await.expect("the tree");
    assert_eq!(tree.size(), 5, "{tree:?}");
    assert_eq!(stage.output("root::sub::2::sub::2::sub::2::sub::2").await, "bottom");
    stage.stop().await;
}

pub(super) async fn a_child_has_the_id_it_is_given(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations()
            .register("child", |ctx: OrchestrationContext, _: String| async move {
                Ok(ctx.instance_id())
            })
            .register("parent", |ctx: OrchestrationContext, _: String| async move {
                ctx.schedule_sub_orchestration_with_id("child", "Kind ‹1›", "").await
            }),
    )
    .await;

    assert_eq!(stage.run("p", "parent", "").await, "Kind ‹1›");
    assert_eq!(stage.output("Kind ‹1›").await, "Kind ‹1›");
    stage.stop().await;
}

pub(super) async fn children_fan_out_and_in(store: &Store) {
    let stage = Stage::start(
        store,
        activities().register("echo", |_: ActivityContext, input: String| async move { Ok(input) }),
        orchestrations()
            .register("child", |ctx: OrchestrationContext, input: String| async move {
                ctx.schedule_activity("echo", input).await
            })
            .register("parent", |ctx: OrchestrationContext, _: String| async move {
                let children = (0..10)
                    .map(|number| ctx.schedule_sub_orchestration("child", number.to_string()))
                    .collect();
                let outputs: Result<Vec<String>, String> = ctx.join(children).await.into_iter().collect();
                Ok(outputs?.concat())
            }),
    )
    .await;

    assert_eq!(stage.run("p", "parent", "").await, "0123456789");
    let history = stage.history("p").await;
    assert_sound(&history);
    assert_eq!(count(&history, "SubOrchestrationCompleted"), 10);
    stage.stop().await;
}

pub(super) async fn a_failure_of_the_child_reaches_the_parent(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations()
            .register("child", |_: OrchestrationContext, _: String| async move {
                Err("child gave up".to_owned())
            })
            .register("parent", |ctx: OrchestrationContext, _: String| async move {
                match ctx.schedule_sub_orchestration_with_id("child", "the-child", "").await {
                    Ok(_) => Err("the child succeeded".to_owned()),
                    Err(error) => Ok(format!("handled: {error}")),
                }
            }),
    )
    .await;

    assert_eq!(stage.run("p", "parent", "").await, "handled: child gave up");
    assert_eq!(stage.failure("the-child").await.display_message(), "child gave up");
    let history = stage.history("p").await;
    assert_sound(&history);
    assert_eq!(count(&history, "SubOrchestrationFailed"), 1);
    stage.stop().await;
}

pub(super) async fn an_uncaught_failure_climbs_to_the_root(store: &Store) {
    let stage = Stage::start(
        store,
        activities().register("break", |_: ActivityContext, _: String| async move {
            Err("deep below".to_owned())
        }),
        orchestrations()
            .register("leaf", |ctx: OrchestrationContext, _: String| async move {
                ctx.schedule_activity("break", "").await
            })
            .register("middle", |ctx: OrchestrationContext, _: String| async move {
                ctx.schedule_sub_orchestration("leaf", "").await
            })
            .register("root", |ctx: OrchestrationContext, _: String| async move {
                ctx.schedule_sub_orchestration("middle", "").await
            }),
    )
    .await;

    stage.begin("r", "root", "").await;
    for instance in ["r", "r::sub::2", "r::sub::2::sub::2"] {
        assert_eq!(
            stage.failure(instance).await.display_message(),
            "deep below",
            "{instance}"
        );
    }
    stage.stop().await;
}
