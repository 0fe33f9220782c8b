//! Trouble that passes: acks and renewals outlive it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use duroxide::runtime::RuntimeOptions;
use duroxide::runtime::registry::{
    ActivityRegistry, ActivityRegistryBuilder, OrchestrationRegistry, OrchestrationRegistryBuilder,
};
use duroxide::{ActivityContext, OrchestrationContext};
use steadfast::fault::{Fault, Rule, When};

use crate::op::gate::Gate;
use crate::op::scene::{Scene, output, runtime};

fn echo() -> ActivityRegistryBuilder {
    ActivityRegistry::builder().register("echo", |_: ActivityContext, input: String| async move { Ok(input) })
}

fn chain() -> OrchestrationRegistryBuilder {
    OrchestrationRegistry::builder().register("chain", |ctx: OrchestrationContext, input: String| async move {
        let first = ctx.schedule_activity("echo", input).await?;
        ctx.schedule_activity("echo", first).await
    })
}

/// Stops the backend that runs an ack, by `sql`, more often than the runtime would repeat the ack itself.
async fn an_ack_outlives(sql: &str, table: &str) {
    const BLOWS: usize = 7;
    let scene = Scene::open().await;
    let gate = Gate::before(&scene, table).await;
    let (running, client) = runtime(&scene.provider, echo(), chain(), RuntimeOptions::default()).await;
    let hand = scene.sql().await;
    gate.close().await;
    // Where the gate stops messages, the start waits there too.
    let starter = client.clone();
    let starting = tokio::spawn(async move { starter.start_orchestration("i", "chain", "output").await });
    let mut blows = 0;
    while blows < BLOWS {
        for pid in gate.queue(1).await {
            let hit: bool = hand.query_one(sql, &[&pid]).await.expect("strike").get(0);
            blows += usize::from(hit);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gate.open().await;
    starting.await.expect("no panic").expect("start");
    assert_eq!(output(&client, "i").await, "output");
    running.shutdown(Some(1_000)).await;
    let completions = "SELECT count(*) FROM sf_event WHERE kind IN (11, 2)";
    assert_eq!(
        scene.number(completions, &[]).await,
        3,
        "two activities and the end, once each"
    );
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_02_an_ack_outlives_its_terminated_backend() {
    an_ack_outlives("SELECT pg_terminate_backend($1)", "sf_event").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_02_an_ack_outlives_a_cancelled_statement() {
    an_ack_outlives("SELECT pg_cancel_backend($1)", "sf_event").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_02_an_activitys_ack_outlives_its_terminated_backend() {
    // The inbox is written to by the start as well, which then is repeated likewise.
    an_ack_outlives("SELECT pg_terminate_backend($1)", "sf_inbox").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_02_an_ack_outlives_the_servers_own_statement_timeout() {
    let scene = Scene::open().await;
    let gate = Gate::before(&scene, "sf_event").await;
    let hand = scene.sql().await;
    // It reaches the calls in flight too: each statement of the function's transaction is bound by it.
    let function = "ALTER FUNCTION gate() SET lock_timeout = '50ms'";
    hand.batch_execute(function).await.expect("set a timeout");
    let (running, client) = runtime(&scene.provider, echo(), chain(), RuntimeOptions::default()).await;
    gate.close().await;
    client.start_orchestration("i", "chain", "output").await.expect("start");
    for _ in 0..7 {
        gate.queue(1).await;
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    gate.open().await;
    assert_eq!(output(&client, "i").await, "output");
    running.shutdown(Some(1_000)).await;
    scene.close().await;
}

/// All that a server says when it will be well again later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_02_acks_outlive_every_passing_error() {
    const PASSING: [&str; 14] = [
        "08006", "40001", "40P01", "53200", "53300", "55P03", "57014", "57P01", "57P02", "57P03", "57P05", "25006",
        "0A000", "26000",
    ];
    let scene = Scene::open().await;
    for function in [
        "sf_ack_orchestration_item",
        "sf_ack_work_item",
        "sf_enqueue_for_orchestrator",
    ] {
        for code in PASSING {
            scene.faults.add(Rule {
                function,
                when: When::Before,
                delay: Duration::ZERO,
                fault: Some(Fault::Error(code)),
                times: 1,
            });
        }
    }
    let (running, client) = runtime(&scene.provider, echo(), chain(), RuntimeOptions::default()).await;
    // Three calls share the errors, so each is repeated more often than the runtime would repeat it.
    for instance in ["a", "b"] {
        client
            .start_orchestration(instance, "chain", instance)
            .await
            .expect("start");
    }
    for instance in ["a", "b"] {
        assert_eq!(output(&client, instance).await, instance);
    }
    assert_eq!(scene.faults.struck(), 3 * PASSING.len() as u64);
    running.shutdown(Some(1_000)).await;
    scene.close().await;
}

/// An activity that takes three renewals of its lease, all of which meet trouble.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_03_trouble_with_a_renewal_does_not_cancel_the_activity() {
    let scene = Scene::open().await;
    let renewal = |when, fault, times| Rule {
        function: "sf_renew_work_item_lock",
        when,
        delay: Duration::ZERO,
        fault: Some(fault),
        times,
    };
    scene.faults.add(renewal(When::Before, Fault::Cut, 2));
    scene.faults.add(renewal(When::Before, Fault::Error("57P01"), 2));
    scene.faults.add(renewal(When::After, Fault::Cut, 2));
    scene.faults.add(renewal(When::Before, Fault::Error("53300"), 2));
    let (runs, cancelled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let seen = (Arc::clone(&runs), Arc::clone(&cancelled));
    let activities = ActivityRegistry::builder().register("long", move |ctx: ActivityContext, _: String| {
        let (runs, cancelled) = (Arc::clone(&seen.0), Arc::clone(&seen.1));
        async move {
            runs.fetch_add(1, Ordering::SeqCst);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(6)) => Ok("done".to_owned()),
                () = ctx.cancelled() => {
                    cancelled.store(true, Ordering::SeqCst);
                    Err("cancelled".to_owned())
                }
            }
        }
    });
    let orchestrations = OrchestrationRegistry::builder()
        .register("patient", |ctx: OrchestrationContext, _: String| async move {
            ctx.schedule_activity("long", "").await
        });
    let options = RuntimeOptions {
        worker_lock_timeout: Duration::from_secs(3),
        worker_lock_renewal_buffer: Duration::from_millis(1500),
        ..RuntimeOptions::default()
    };
    let (running, client) = runtime(&scene.provider, activities, orchestrations, options).await;
    client.start_orchestration("i", "patient", "").await.expect("start");
    assert_eq!(output(&client, "i").await, "done");
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert!(!cancelled.load(Ordering::SeqCst));
    assert!(
        scene.faults.struck() >= 6,
        "only {} renewals met trouble",
        scene.faults.struck()
    );
    running.shutdown(Some(1_000)).await;
    scene.close().await;
}
