//! Detached orchestrations: started by another one, and then on their own.

use duroxide::{EventKind, OrchestrationContext};

use super::stage::{Stage, activities, kinds, orchestrations};
use crate::harness::Store;

pub(super) async fn a_detached_orchestration_lives_on_its_own(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations()
            .register("errand", |ctx: OrchestrationContext, input: String| async move {
                Ok(format!("{input} {}", ctx.schedule_wait("go").await))
            })
            .register("sender", |ctx: OrchestrationContext, _: String| async move {
                for number in 0..3 {
                    ctx.schedule_orchestration("errand", format!("errand-{number}"), format!("errand {number}"));
                }
                Ok("sent".to_owned())
            }),
    )
    .await;

    assert_eq!(stage.run("s", "sender", "").await, "sent");
    let expected = [
        &["OrchestrationStarted"][..],
        &["OrchestrationChained"; 3],
        &["OrchestrationCompleted"],
    ]
    .concat();
    assert_eq!(kinds(&stage.history("s").await), expected);

    for number in 0..3 {
        let instance = format!("errand-{number}");
        stage.reached(&instance, 1, "ExternalSubscribed").await;
        assert!(
            matches!(
                &stage.history(&instance).await[0].kind,
                EventKind::OrchestrationStarted {
                    parent_instance: None,
                    parent_id: None,
                    ..
                }
            ),
            "nobody's child"
        );
        stage.client.raise_event(&instance, "go", "done").await.expect("raise");
        assert_eq!(stage.output(&instance).await, format!("errand {number} done"));
    }
    assert!(
        stage
            .client
            .get_instance_tree("s")
            .await
            .expect("the tree")
            .is_root_only()
    );
    stage.stop().await;
}
