//! Custom status: each change is a version, and a client waits for the next one.

use std::time::Duration;

use duroxide::OrchestrationContext;
use duroxide::runtime::OrchestrationStatus;

use super::stage::{PATIENCE, Stage, activities, orchestrations};
use crate::harness::Store;

/// The next status after a version, and its version.
async fn next(stage: &Stage, instance: &str, seen: u64) -> (Option<String>, u64) {
    let status = stage
        .client
        .wait_for_status_change(instance, seen, Duration::from_millis(20), PATIENCE)
        .await;
    match status.expect("a change of status") {
        OrchestrationStatus::Running {
            custom_status,
            custom_status_version,
        }
        | OrchestrationStatus::Completed {
            custom_status,
            custom_status_version,
            ..
        } => (custom_status, custom_status_version),
        other => panic!("{instance}: {other:?}"),
    }
}

pub(super) async fn changes_are_seen_one_by_one(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("report", |ctx: OrchestrationContext, _: String| async move {
            for step in ["packing", "shipping", "delivering"] {
                ctx.set_custom_status(step);
                ctx.schedule_wait("next").await;
            }
            Ok("delivered".to_owned())
        }),
    )
    .await;

    stage.begin("r", "report", "").await;
    let mut version = 0;
    for (number, step) in ["packing", "shipping", "delivering"].into_iter().enumerate() {
        let (status, newer) = next(&stage, "r", version).await;
        assert_eq!(status.as_deref(), Some(step));
        assert!(newer > version, "the version must grow: {version} to {newer}");
        version = newer;
        stage.reached("r", number + 1, "ExternalSubscribed").await;
        stage.client.raise_event("r", "next", "").await.expect("raise");
    }
    assert_eq!(
        stage.terminal("r").await,
        OrchestrationStatus::Completed {
            output: "delivered".to_owned(),
            custom_status: Some("delivering".to_owned()),
            custom_status_version: version,
        }
    );
    stage.stop().await;
}

pub(super) async fn a_reset_status_is_none(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("shy", |ctx: OrchestrationContext, _: String| async move {
            ctx.set_custom_status("a NUL \0 and an ü");
            ctx.schedule_wait("hide").await;
            ctx.reset_custom_status();
            Ok(format!("{:?}", ctx.get_custom_status()))
        }),
    )
    .await;

    stage.begin("s", "shy", "").await;
    let (status, seen) = next(&stage, "s", 0).await;
    assert_eq!(status.as_deref(), Some("a NUL \0 and an ü"));
    stage.reached("s", 1, "ExternalSubscribed").await;
    stage.client.raise_event("s", "hide", "").await.expect("raise");
    assert_eq!(stage.output("s").await, "None");
    let (status, version) = next(&stage, "s", seen).await;
    assert_eq!(status, None);
    assert!(version > seen);
    stage.stop().await;
}

pub(super) async fn the_status_crosses_continue_as_new(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("carry", |ctx: OrchestrationContext, input: String| async move {
            if input.is_empty() {
                ctx.set_custom_status("from the first execution");
                return ctx.continue_as_new("again").await;
            }
            Ok(ctx.get_custom_status().unwrap_or_default())
        }),
    )
    .await;

    assert_eq!(stage.run("c", "carry", "").await, "from the first execution");
    let (status, _) = next(&stage, "c", 0).await;
    assert_eq!(status.as_deref(), Some("from the first execution"));
    stage.stop().await;
}
