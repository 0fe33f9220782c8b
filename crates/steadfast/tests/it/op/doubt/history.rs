//! Calls that change histories as a whole, and never travel with others.

use duroxide::providers::{ExecutionMetadata, Provider, ProviderAdmin, PruneOptions};

use super::{Trial, all_ok};
use crate::op::scene::{LONG, signal, started, turn};

pub(super) async fn append_with_execution(trial: &Trial) {
    let answers = trial
        .strike("sf_append_with_execution", "sf_batch", |_| {
            let provider = trial.provider();
            async move { provider.append_with_execution("i0", 1, vec![started("i0", 1)]).await }
        })
        .await;
    all_ok(answers);
    assert_eq!(trial.scene.rows("sf_event").await, 1);
    let again = trial
        .scene
        .provider
        .append_with_execution("i0", 1, vec![started("i0", 1)])
        .await;
    again.expect_err("the event is there");
    assert_eq!(trial.scene.provider.read("i0").await.expect("read").len(), 1);
}

pub(super) async fn delete_instances_atomic(trial: &Trial) {
    trial.scene.make("i0").await;
    let sent = trial
        .scene
        .provider
        .enqueue_for_orchestrator(signal("i0", ""), None)
        .await;
    sent.expect("signal");
    let answers = trial
        .strike("sf_delete_instances", "sf_batch", |_| {
            let provider = trial.provider();
            async move { provider.delete_instances_atomic(&["i0".to_owned()], true).await }
        })
        .await;
    let deleted = all_ok(answers).remove(0);
    let counts = (
        deleted.instances_deleted,
        deleted.executions_deleted,
        deleted.events_deleted,
    );
    assert_eq!((counts, deleted.queue_messages_deleted), ((1, 1, 1), 1));
    for table in ["sf_instance", "sf_execution", "sf_event", "sf_inbox"] {
        assert_eq!(trial.scene.rows(table).await, 0, "{table}");
    }
}

pub(super) async fn prune_executions(trial: &Trial) {
    trial.scene.make("i0").await;
    for execution in 2..=4 {
        let sent = trial
            .scene
            .provider
            .enqueue_for_orchestrator(signal("i0", ""), None)
            .await;
        sent.expect("signal");
        let (_, token, _) = turn(&*trial.scene.provider, LONG).await;
        let metadata = ExecutionMetadata {
            status: Some("Completed".to_owned()),
            ..ExecutionMetadata::default()
        };
        let history = vec![started("i0", execution)];
        let done = trial.scene.provider.ack_orchestration_item(
            &token,
            execution,
            history,
            Vec::new(),
            Vec::new(),
            metadata,
            Vec::new(),
        );
        done.await.expect("acknowledge");
    }
    let answers = trial
        .strike("sf_prune_executions", "sf_batch", |_| {
            let provider = trial.provider();
            let options = PruneOptions {
                keep_last: Some(1),
                completed_before: None,
            };
            async move { provider.prune_executions("i0", options).await }
        })
        .await;
    let pruned = all_ok(answers).remove(0);
    // The first execution has never ended and stays.
    let counts = (
        pruned.instances_processed,
        pruned.executions_deleted,
        pruned.events_deleted,
    );
    assert_eq!(counts, (1, 2, 2));
    assert_eq!(trial.scene.rows("sf_execution").await, 2);
    assert_eq!(trial.scene.rows("sf_event").await, 2);
}
