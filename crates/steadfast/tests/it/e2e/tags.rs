//! Activity tags: work goes to the runtimes that take its tag, and waits when none does.

use duroxide::providers::TagFilter;
use duroxide::runtime::RuntimeOptions;
use duroxide::runtime::registry::{ActivityRegistryBuilder, OrchestrationRegistryBuilder};
use duroxide::{ActivityContext, OrchestrationContext};

use super::stage::{Stage, activities, eventually, options, orchestrations};
use crate::harness::Store;

fn taking(tags: TagFilter) -> RuntimeOptions {
    RuntimeOptions {
        worker_tag_filter: tags,
        ..options()
    }
}

/// An activity that tells in which runtime it ran, and by which tag.
fn place(name: &'static str) -> ActivityRegistryBuilder {
    activities().register("place", move |ctx: ActivityContext, _: String| async move {
        Ok(format!("{name}/{}", ctx.tag().unwrap_or("untagged")))
    })
}

fn mixed() -> OrchestrationRegistryBuilder {
    orchestrations().register("mixed", |ctx: OrchestrationContext, _: String| async move {
        let mut work = Vec::new();
        for _ in 0..4 {
            work.push(ctx.schedule_activity("place", ""));
            work.push(ctx.schedule_activity("place", "").with_tag("gpu"));
        }
        let places: Result<Vec<String>, String> = ctx.join(work).await.into_iter().collect();
        Ok(places?.join(" "))
    })
}

pub(super) async fn activities_go_to_the_runtime_that_takes_their_tag(store: &Store) {
    let plain = Stage::start_with(store, place("plain"), mixed(), taking(TagFilter::default_only())).await;
    let gpu = Stage::start_with(store, place("gpu"), mixed(), taking(TagFilter::tags(["gpu"]))).await;

    let expected = ["plain/untagged", "gpu/gpu"].repeat(4).join(" ");
    assert_eq!(plain.run("m", "mixed", "").await, expected);
    plain.stop().await;
    gpu.stop().await;
}

pub(super) async fn a_tag_that_nobody_takes_waits(store: &Store) {
    let plain = Stage::start_with(store, place("plain"), mixed(), taking(TagFilter::default_only())).await;
    plain.begin("m", "mixed", "").await;
    plain.reached("m", 4, "ActivityCompleted").await;
    eventually("only the tagged activities are left", async || {
        let depths = plain.client.get_queue_depths().await.expect("queue depths");
        (depths.worker_queue == 4).then_some(())
    })
    .await;

    let any = Stage::start_with(
        store,
        place("any"),
        mixed(),
        taking(TagFilter::default_and(["gpu", "tpu"])),
    )
    .await;
    assert_eq!(any.output("m").await, ["plain/untagged", "any/gpu"].repeat(4).join(" "));
    plain.stop().await;
    any.stop().await;
}
