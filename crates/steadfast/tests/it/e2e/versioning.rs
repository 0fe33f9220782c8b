//! Versions of an orchestration: new instances take the latest, running ones keep theirs.

use duroxide::OrchestrationContext;
use duroxide::runtime::registry::OrchestrationRegistryBuilder;

use super::stage::{Stage, activities, orchestrations};
use crate::harness::Store;

fn first() -> OrchestrationRegistryBuilder {
    orchestrations().register_versioned("order", "1.0.0", |ctx: OrchestrationContext, _: String| async move {
        Ok(format!("{} by the first", ctx.schedule_wait("go").await))
    })
}

fn both() -> OrchestrationRegistryBuilder {
    first().register_versioned("order", "2.0.0", |ctx: OrchestrationContext, _: String| async move {
        Ok(format!("{} by the second", ctx.schedule_wait("go").await))
    })
}

async fn go(stage: &Stage, instance: &str) -> String {
    stage.reached(instance, 1, "ExternalSubscribed").await;
    stage.client.raise_event(instance, "go", "done").await.expect("raise");
    stage.output(instance).await
}

async fn version(stage: &Stage, instance: &str) -> String {
    stage
        .client
        .get_instance_info(instance)
        .await
        .expect("information")
        .orchestration_version
}

pub(super) async fn new_instances_take_the_latest_version(store: &Store) {
    let stage = Stage::start(store, activities(), both()).await;

    stage.begin("latest", "order", "").await;
    stage
        .client
        .start_orchestration_versioned("pinned", "order", "1.0.0", "")
        .await
        .expect("start");
    assert_eq!(go(&stage, "latest").await, "done by the second");
    assert_eq!(go(&stage, "pinned").await, "done by the first");
    assert_eq!(version(&stage, "latest").await, "2.0.0");
    assert_eq!(version(&stage, "pinned").await, "1.0.0");
    stage.stop().await;
}

pub(super) async fn a_running_instance_keeps_its_version(store: &Store) {
    let old = Stage::start(store, activities(), first()).await;
    old.begin("running", "order", "").await;
    old.reached("running", 1, "ExternalSubscribed").await;
    old.stop().await;

    let new = Stage::start(store, activities(), both()).await;
    new.begin("started-later", "order", "").await;
    assert_eq!(go(&new, "running").await, "done by the first");
    assert_eq!(go(&new, "started-later").await, "done by the second");
    assert_eq!(version(&new, "running").await, "1.0.0");
    new.stop().await;
}
