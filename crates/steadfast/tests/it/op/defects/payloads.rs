//! Payloads that an existing provider chokes on.

use std::time::{Duration, Instant};

use duroxide::providers::{Provider, WorkItem};
use duroxide::runtime::RuntimeOptions;
use duroxide::runtime::registry::{ActivityRegistry, OrchestrationRegistry};
use duroxide::{ActivityContext, OrchestrationContext};

use crate::op::scene::{LONG, SOON, Scene, ack_turn, output, runtime, start, turn};

const NUL: &str = "before\0after";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_01_a_nul_in_a_payload_hurts_nobody() {
    let scene = Scene::open().await;
    // One process has seen the message, another fetches it, and both fetch what comes behind it.
    let reader = scene.another().await;
    let poison = WorkItem::StartOrchestration {
        instance: "nul".to_owned(),
        orchestration: NUL.to_owned(),
        input: NUL.to_owned(),
        version: Some("1.0.0".to_owned()),
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        execution_id: 1,
    };
    scene
        .provider
        .enqueue_for_orchestrator(poison.clone(), None)
        .await
        .expect("start");
    scene
        .provider
        .enqueue_for_orchestrator(start("plain"), None)
        .await
        .expect("start");
    let fetched = reader.fetch_orchestration_item(LONG, LONG, None).await;
    let (item, token, _) = fetched.expect("fetch").expect("the first message");
    assert_eq!((item.messages, item.orchestration_name.as_str()), (vec![poison], NUL));
    ack_turn(&*reader, &token, "nul", Vec::new(), Vec::new())
        .await
        .expect("acknowledge");
    let (instance, token, attempts) = turn(&*scene.provider, LONG).await;
    assert_eq!((instance.as_str(), attempts), ("plain", 1));
    ack_turn(&*scene.provider, &token, "plain", Vec::new(), Vec::new())
        .await
        .expect("acknowledge");
    reader.close().await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_01_a_nul_travels_through_all_that_a_workflow_can_write() {
    let scene = Scene::open().await;
    let activities = ActivityRegistry::builder()
        .register("echo", |_: ActivityContext, input: String| async move { Ok(input) })
        .register(NUL, |_: ActivityContext, input: String| async move { Err(input) });
    let orchestrations = OrchestrationRegistry::builder()
        .register("everything", |ctx: OrchestrationContext, input: String| async move {
            ctx.set_custom_status(NUL);
            ctx.set_kv_value(NUL, NUL);
            let echoed = ctx.schedule_activity("echo", input).await?;
            let signalled = ctx.schedule_wait("signal").await;
            let failed = ctx.schedule_activity(NUL, NUL).await.unwrap_err();
            Ok(format!("{echoed}|{signalled}|{failed}"))
        })
        .register("plain", |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_activity("echo", input).await
        });
    let (running, client) = runtime(&scene.provider, activities, orchestrations, RuntimeOptions::default()).await;
    client
        .start_orchestration("nul", "everything", NUL)
        .await
        .expect("start");
    // Whoever signals before it waits signals for nothing.
    let deadline = Instant::now() + SOON;
    while scene.number("SELECT count(*) FROM sf_event WHERE kind = 30", &[]).await == 0 {
        assert!(Instant::now() < deadline, "it never waits");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.raise_event("nul", "signal", NUL).await.expect("signal");
    client
        .start_orchestration("plain", "plain", "well")
        .await
        .expect("start");
    assert_eq!(output(&client, "plain").await, "well");
    assert_eq!(output(&client, "nul").await, format!("{NUL}|{NUL}|{NUL}"));
    assert_eq!(
        scene.provider.get_kv_value("nul", NUL).await.expect("read"),
        Some(NUL.to_owned())
    );
    let status = scene
        .provider
        .get_custom_status("nul", 0)
        .await
        .expect("read")
        .expect("a status");
    assert_eq!(status.0.as_deref(), Some(NUL));
    running.shutdown(Some(1_000)).await;
    scene.close().await;
}
