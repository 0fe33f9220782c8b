//! Management through the client: lists, descriptions, statistics, deletion and pruning.

use std::collections::BTreeSet;

use duroxide::providers::{InstanceFilter, PruneOptions};
use duroxide::runtime::OrchestrationStatus;
use duroxide::runtime::registry::OrchestrationRegistryBuilder;
use duroxide::{ActivityContext, ClientError, OrchestrationContext};

use super::stage::{Stage, activities, orchestrations};
use crate::harness::Store;

/// Orchestrations that complete, fail, wait, have a child, and count their executions down.
fn cast() -> OrchestrationRegistryBuilder {
    orchestrations()
        .register("complete", |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_activity("echo", input).await
        })
        .register("fail", |_: OrchestrationContext, _: String| async move {
            Err("on purpose".to_owned())
        })
        .register("wait", |ctx: OrchestrationContext, _: String| async move {
            Ok(ctx.schedule_wait("go").await)
        })
        .register("family", |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_sub_orchestration_with_id("complete", format!("{input}-child"), input)
                .await
        })
        .register("countdown", |ctx: OrchestrationContext, input: String| async move {
            ctx.set_kv_value("left", input.as_str());
            match input.parse::<u32>() {
                Ok(0) => Ok("lift-off".to_owned()),
                Ok(left) => ctx.continue_as_new((left - 1).to_string()).await,
                Err(error) => Err(error.to_string()),
            }
        })
}

async fn start(store: &Store) -> Stage {
    let echo = activities().register("echo", |_: ActivityContext, input: String| async move { Ok(input) });
    Stage::start(store, echo, cast()).await
}

fn set<const N: usize>(ids: [&str; N]) -> BTreeSet<String> {
    ids.map(str::to_owned).into()
}

async fn begin_and_wait(stage: &Stage, instance: &str) {
    stage.begin(instance, "wait", "").await;
    stage.reached(instance, 1, "ExternalSubscribed").await;
}

pub(super) async fn instances_are_listed_by_status(store: &Store) {
    let stage = start(store).await;
    stage.run("done-1", "complete", "").await;
    stage.run("done-2", "complete", "").await;
    stage.begin("failed", "fail", "").await;
    stage.failure("failed").await;
    begin_and_wait(&stage, "waiting").await;

    let all = stage.client.list_all_instances().await.expect("list");
    assert_eq!(all.len(), 4, "{all:?}");
    assert_eq!(BTreeSet::from_iter(all), set(["done-1", "done-2", "failed", "waiting"]));
    for (status, expected) in [
        ("Completed", set(["done-1", "done-2"])),
        ("Failed", set(["failed"])),
        ("Running", set(["waiting"])),
    ] {
        let listed = stage
            .client
            .list_instances_by_status(status)
            .await
            .expect("list by status");
        assert_eq!(BTreeSet::from_iter(listed), expected, "{status}");
    }
    stage.stop().await;
}

pub(super) async fn an_instance_describes_itself(store: &Store) {
    let stage = start(store).await;
    stage.run("done", "complete", "result").await;

    let info = stage.client.get_instance_info("done").await.expect("information");
    assert_eq!(info.instance_id, "done");
    assert_eq!(
        (info.orchestration_name.as_str(), info.orchestration_version.as_str()),
        ("complete", "1.0.0")
    );
    assert_eq!((info.current_execution_id, info.status.as_str()), (1, "Completed"));
    assert_eq!(info.output.as_deref(), Some("result"));
    assert_eq!(info.parent_instance_id, None);
    assert!(info.created_at > 0 && info.updated_at >= info.created_at, "{info:?}");

    let execution = stage
        .client
        .get_execution_info("done", 1)
        .await
        .expect("an execution's information");
    assert_eq!((execution.execution_id, execution.status.as_str()), (1, "Completed"));
    assert_eq!(
        (execution.output.as_deref(), execution.event_count),
        (Some("result"), 4)
    );
    assert!(
        execution.completed_at.is_some_and(|end| end >= execution.started_at),
        "{execution:?}"
    );

    begin_and_wait(&stage, "waiting").await;
    let info = stage.client.get_instance_info("waiting").await.expect("information");
    assert_eq!((info.status.as_str(), info.output), ("Running", None));
    let execution = stage
        .client
        .get_execution_info("waiting", 1)
        .await
        .expect("an execution's information");
    assert_eq!((execution.status.as_str(), execution.completed_at), ("Running", None));

    assert!(stage.client.get_instance_info("nobody").await.is_err());
    assert_eq!(
        stage.client.get_orchestration_status("nobody").await.expect("a status"),
        OrchestrationStatus::NotFound
    );
    stage.stop().await;
}

pub(super) async fn statistics_count_events_and_values(store: &Store) {
    let stage = start(store).await;
    stage.run("c", "countdown", "2").await;

    let stats = stage
        .client
        .get_orchestration_stats("c")
        .await
        .expect("statistics")
        .expect("there are some");
    assert_eq!(stats.history_event_count, stage.history("c").await.len() as u64);
    assert!(stats.history_size_bytes > 0);
    assert_eq!((stats.kv_user_key_count, stats.kv_total_value_bytes), (1, 1));
    assert_eq!(stats.queue_pending_count, 0);
    assert_eq!(
        stage
            .client
            .get_orchestration_stats("nobody")
            .await
            .expect("statistics"),
        None
    );
    stage.stop().await;
}

pub(super) async fn system_metrics_count_everything(store: &Store) {
    let stage = start(store).await;
    stage.run("done", "complete", "").await;
    stage.run("c", "countdown", "2").await;
    stage.begin("failed", "fail", "").await;
    stage.failure("failed").await;
    begin_and_wait(&stage, "waiting").await;

    let metrics = stage.client.get_system_metrics().await.expect("metrics");
    assert_eq!(
        (metrics.total_instances, metrics.total_executions),
        (4, 6),
        "{metrics:?}"
    );
    assert_eq!(
        (
            metrics.completed_instances,
            metrics.failed_instances,
            metrics.running_instances
        ),
        (2, 1, 1),
        "{metrics:?}"
    );
    let mut events = 0;
    for (instance, executions) in [("done", 1), ("c", 3), ("failed", 1), ("waiting", 1)] {
        for execution in 1..=executions {
            events += stage.execution(instance, execution).await.len() as u64;
        }
    }
    assert_eq!(metrics.total_events, events);
    let depths = stage.client.get_queue_depths().await.expect("queue depths");
    assert_eq!(
        (depths.orchestrator_queue, depths.worker_queue, depths.timer_queue),
        (0, 0, 0)
    );
    stage.stop().await;
}

pub(super) async fn a_tree_is_deleted_as_a_whole(store: &Store) {
    let stage = start(store).await;
    stage.run("p", "family", "p").await;
    stage.run("other", "complete", "").await;

    let tree = stage.client.get_instance_tree("p").await.expect("the tree");
    assert_eq!(
        (tree.root_id.as_str(), BTreeSet::from_iter(tree.all_ids)),
        ("p", set(["p", "p-child"]))
    );

    let refused = stage.client.delete_instance("p-child", false).await;
    assert!(
        matches!(&refused, Err(ClientError::CannotDeleteSubOrchestration { .. })),
        "{refused:?}"
    );

    let events = stage.history("p").await.len() + stage.history("p-child").await.len();
    let deleted = stage.client.delete_instance("p", false).await.expect("delete");
    assert_eq!(
        (deleted.instances_deleted, deleted.executions_deleted),
        (2, 2),
        "{deleted:?}"
    );
    assert_eq!(deleted.events_deleted, events as u64);
    assert_eq!(stage.client.list_all_instances().await.expect("list"), ["other"]);
    let gone = stage.client.delete_instance("p", false).await;
    assert!(matches!(&gone, Err(ClientError::InstanceNotFound { .. })), "{gone:?}");
    stage.stop().await;
}

pub(super) async fn a_running_instance_is_deleted_only_by_force(store: &Store) {
    let stage = start(store).await;
    begin_and_wait(&stage, "waiting").await;

    let refused = stage.client.delete_instance("waiting", false).await;
    assert!(
        matches!(&refused, Err(ClientError::InstanceStillRunning { .. })),
        "{refused:?}"
    );
    let deleted = stage
        .client
        .delete_instance("waiting", true)
        .await
        .expect("delete by force");
    assert_eq!(deleted.instances_deleted, 1);
    assert_eq!(
        stage
            .client
            .get_orchestration_status("waiting")
            .await
            .expect("a status"),
        OrchestrationStatus::NotFound
    );
    stage.stop().await;
}

pub(super) async fn a_deleted_id_can_be_used_again(store: &Store) {
    let stage = start(store).await;
    for round in 0..5 {
        let input = format!("round {round}");
        assert_eq!(stage.run("again", "complete", &input).await, input);
        assert_eq!(
            stage.history("again").await.len(),
            4,
            "nothing is left of the last round"
        );
        stage.client.delete_instance("again", false).await.expect("delete");
    }
    stage.stop().await;
}

pub(super) async fn many_are_deleted_in_bulk(store: &Store) {
    let stage = start(store).await;
    for number in 0..6 {
        stage.run(&format!("done-{number}"), "complete", "").await;
    }
    begin_and_wait(&stage, "waiting").await;

    let two = InstanceFilter {
        instance_ids: Some(vec![
            "done-0".to_owned(),
            "done-1".to_owned(),
            "waiting".to_owned(),
            "nobody".to_owned(),
        ]),
        ..InstanceFilter::default()
    };
    assert_eq!(
        stage
            .client
            .delete_instance_bulk(two)
            .await
            .expect("delete")
            .instances_deleted,
        2
    );
    let limited = InstanceFilter {
        limit: Some(3),
        ..InstanceFilter::default()
    };
    assert_eq!(
        stage
            .client
            .delete_instance_bulk(limited)
            .await
            .expect("delete")
            .instances_deleted,
        3
    );
    assert_eq!(
        stage
            .client
            .delete_instance_bulk(InstanceFilter::default())
            .await
            .expect("delete")
            .instances_deleted,
        1
    );
    assert_eq!(stage.client.list_all_instances().await.expect("list"), ["waiting"]);
    stage.stop().await;
}

pub(super) async fn old_executions_are_pruned(store: &Store) {
    let stage = start(store).await;
    stage.run("c", "countdown", "5").await;
    stage.run("d", "countdown", "3").await;
    assert_eq!(
        stage.client.list_executions("c").await.expect("list"),
        [1, 2, 3, 4, 5, 6]
    );

    let keep_two = PruneOptions {
        keep_last: Some(2),
        ..PruneOptions::default()
    };
    let pruned = stage.client.prune_executions("c", keep_two).await.expect("prune");
    assert_eq!(
        (pruned.instances_processed, pruned.executions_deleted),
        (1, 4),
        "{pruned:?}"
    );
    assert_eq!(stage.client.list_executions("c").await.expect("list"), [5, 6]);
    assert_eq!(stage.output("c").await, "lift-off");
    assert_eq!(
        stage
            .client
            .get_kv_value("c", "left")
            .await
            .expect("a value")
            .as_deref(),
        Some("0")
    );

    let keep_one = PruneOptions {
        keep_last: Some(1),
        ..PruneOptions::default()
    };
    let pruned = stage
        .client
        .prune_executions_bulk(InstanceFilter::default(), keep_one)
        .await
        .expect("prune");
    assert_eq!(pruned.executions_deleted, 1 + 3, "{pruned:?}");
    assert_eq!(stage.client.list_executions("c").await.expect("list"), [6]);
    assert_eq!(stage.client.list_executions("d").await.expect("list"), [4]);
    assert_eq!(stage.output("d").await, "lift-off");
    stage.stop().await;
}
