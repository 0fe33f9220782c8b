//! Pruning and deleting around the moment between two executions.

use duroxide::providers::{ExecutionMetadata, InstanceFilter, Provider, ProviderAdmin, PruneOptions, WorkItem};

use crate::op::scene::{LONG, Scene, started, turn};

fn next(instance: &str) -> WorkItem {
    WorkItem::ContinueAsNew {
        instance: instance.to_owned(),
        orchestration: "trial".to_owned(),
        input: "again".to_owned(),
        version: Some("1.0.0".to_owned()),
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        carry_forward_events: Vec::new(),
        initial_custom_status: None,
    }
}

/// Ends an execution, which is the instance's current one, by continuing as new.
async fn continue_as_new(scene: &Scene, token: &str, instance: &str, execution: u64) {
    let metadata = ExecutionMetadata {
        status: Some("ContinuedAsNew".to_owned()),
        output: Some("again".to_owned()),
        orchestration_name: Some("trial".to_owned()),
        orchestration_version: Some("1.0.0".to_owned()),
        ..ExecutionMetadata::default()
    };
    let history = vec![started(instance, execution)];
    let messages = vec![next(instance)];
    let done =
        scene
            .provider
            .ack_orchestration_item(token, execution, history, Vec::new(), messages, metadata, Vec::new());
    done.await.expect("continue as new");
}

/// An instance between its fourth execution and its fifth.
async fn between_executions(scene: &Scene, instance: &str) {
    let mut token = scene.claim_turn(instance).await;
    for execution in 1..=3 {
        continue_as_new(scene, &token, instance, execution).await;
        token = turn(&*scene.provider, LONG).await.1;
    }
    continue_as_new(scene, &token, instance, 4).await;
}

async fn now_ms(scene: &Scene) -> u64 {
    let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + 1000";
    scene.number(now, &[]).await.unsigned_abs()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_09_pruning_by_age_matches_executions_that_continued() {
    let scene = Scene::open().await;
    between_executions(&scene, "i").await;
    // Two of them ended long ago.
    let age = "UPDATE sf_execution SET completed_at = completed_at - interval '1 day' WHERE execution_id <= 2";
    scene.sql().await.batch_execute(age).await.expect("age two executions");
    let an_hour_ago = now_ms(&scene).await - 3_600_000;
    let old = PruneOptions {
        keep_last: None,
        completed_before: Some(an_hour_ago),
    };
    let filter = InstanceFilter {
        completed_before: Some(an_hour_ago),
        ..InstanceFilter::default()
    };
    let pruned = scene
        .provider
        .prune_executions_bulk(filter, old.clone())
        .await
        .expect("prune");
    assert_eq!((pruned.instances_processed, pruned.executions_deleted), (1, 2));
    assert_eq!(scene.provider.list_executions("i").await.expect("list"), [3, 4]);
    let again = scene.provider.prune_executions("i", old).await.expect("prune");
    assert_eq!(again.executions_deleted, 0);
    let recent = PruneOptions {
        keep_last: None,
        completed_before: Some(now_ms(&scene).await),
    };
    let pruned = scene.provider.prune_executions("i", recent).await.expect("prune");
    assert_eq!(
        pruned.executions_deleted, 1,
        "never the current one, though it has ended"
    );
    assert_eq!(scene.provider.list_executions("i").await.expect("list"), [4]);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_09_bulk_deletion_spares_an_instance_between_executions() {
    let scene = Scene::open().await;
    between_executions(&scene, "i").await;
    let filters = [
        InstanceFilter::default(),
        InstanceFilter {
            instance_ids: Some(vec!["i".to_owned()]),
            completed_before: Some(now_ms(&scene).await),
            limit: None,
        },
    ];
    for filter in filters {
        let deleted = scene.provider.delete_instance_bulk(filter).await.expect("delete");
        assert_eq!((deleted.instances_deleted, deleted.events_deleted), (0, 0));
    }
    // It goes on where it was.
    let fetched = scene.provider.fetch_orchestration_item(LONG, LONG, None).await;
    let (item, _, _) = fetched.expect("fetch").expect("the next execution");
    assert_eq!((item.instance.as_str(), item.messages), ("i", vec![next("i")]));
    scene.close().await;
}
