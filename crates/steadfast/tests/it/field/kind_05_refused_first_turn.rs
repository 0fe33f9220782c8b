//! A turn that the store refuses for good fails its workflow: an instance to everybody, of whose failure its parent hears.

use duroxide::{ActivityContext, OrchestrationContext};

use super::site::{Site, Worker, activities, eventually, on_both_engines, orchestrations};

const LIMIT: usize = 1 << 20;

/// Ids that no store of ours holds.
fn impossible() -> [String; 3] {
    ["a\0b".to_owned(), "x".repeat(2_601), "x".repeat(1 << 17)]
}

/// The workflows: each schedules a child whose id is number `input` of the impossible ones.
async fn worker(site: &Site) -> Worker {
    let id = |input: &str| impossible()[input.parse::<usize>().expect("a number")].clone();
    let workflows = orchestrations()
        .register("first", move |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_sub_orchestration_with_id("leaf", id(&input), "").await
        })
        .register("later", move |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_activity("step", "").await?;
            ctx.schedule_sub_orchestration_with_id("leaf", id(&input), "").await
        })
        .register("again", move |ctx: OrchestrationContext, input: String| async move {
            match input.strip_prefix("now ") {
                Some(input) => ctx.schedule_sub_orchestration_with_id("leaf", id(input), "").await,
                None => ctx.continue_as_new(format!("now {input}")).await,
            }
        })
        .register("detached", move |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_orchestration("leaf", id(&input), "");
            Ok("sent".to_owned())
        })
        .register("leaf", |_: OrchestrationContext, _: String| async move {
            Ok("leaf".to_owned())
        })
        // Runs another as its child, and says how that ended.
        .register("parent", |ctx: OrchestrationContext, input: String| async move {
            let (child, input) = input.split_once(' ').expect("a name and an input");
            match ctx.schedule_sub_orchestration(child, input).await {
                Ok(output) => Ok(format!("completed {output}")),
                Err(error) => Ok(format!("failed {error}")),
            }
        })
        .register("descend", |ctx: OrchestrationContext, depth: String| async move {
            let depth: u32 = depth.parse().expect("a depth");
            match depth {
                0 => Ok("bottom".to_owned()),
                _ => ctx.schedule_sub_orchestration("descend", (depth - 1).to_string()).await,
            }
        });
    let steps = activities().register("step", |_: ActivityContext, _: String| async move { Ok(String::new()) });
    site.work(LIMIT, steps, workflows).await
}

async fn a_refused_turn_leaves_an_instance_for_every_verb(site: Site) {
    let worker = worker(&site).await;
    for workflow in ["first", "later", "again", "detached"] {
        for n in 0..impossible().len() {
            let id = format!("{workflow} {n}");
            let error = worker.run(&id, workflow, &n.to_string()).await.expect_err("it fails");
            assert!(error.display_message().contains("instance id"), "{error:?}");

            let info = worker.client.get_instance_info(&id).await.expect("known");
            assert_eq!(
                (info.status.as_str(), info.orchestration_name.as_str()),
                ("Failed", workflow)
            );
            assert!(worker.client.list_all_instances().await.expect("list").contains(&id));
            let seen = worker.provider.instance(&id).await.expect("look").expect("shown");
            assert_eq!(seen.summary.status, "Failed");
            let history = worker.provider.read(&id).await.expect("read");
            let ids: Vec<u64> = history.iter().map(|event| event.event_id).collect();
            assert_eq!(ids, (1..=history.len() as u64).collect::<Vec<_>>(), "{history:#?}");

            worker.client.delete_instance(&id, false).await.expect("delete");
            assert!(worker.provider.instance(&id).await.expect("look").is_none());
        }
    }
    // The ids are free.
    assert_eq!(worker.run("first 0", "leaf", "").await.expect("it completes"), "leaf");
    worker.stop().await;
}

async fn a_parent_hears_of_a_refused_child(site: Site) {
    let worker = worker(&site).await;
    for workflow in ["first", "later", "again", "detached"] {
        let id = format!("over {workflow}");
        let output = worker.run(&id, "parent", &format!("{workflow} 0")).await.expect("told");
        assert!(output.starts_with("failed ") && output.contains("NUL"), "{output}");
        let children = worker.client.get_instance_tree(&id).await.expect("the tree");
        assert_eq!(children.size(), 2, "{children:?}");
        worker.client.delete_instance(&id, false).await.expect("delete both");
    }
    worker.stop().await;
}

/// A client's longest id leaves room for children to be named after it; where even that ends, all hear of it.
async fn children_of_the_longest_id_live_or_fail(site: Site) {
    let worker = worker(&site).await;
    let longest = "i".repeat(steadfast::MAX_INSTANCE_ID_BYTES);
    assert_eq!(
        worker.run(&longest, "descend", "20").await.expect("it completes"),
        "bottom"
    );
    let refused = worker.client.start_orchestration("j".repeat(2_001), "leaf", "").await;
    let refused = refused.expect_err("too long for a client").to_string();
    assert!(
        refused.contains("2001 bytes") && refused.contains("2000 bytes"),
        "{refused}"
    );

    let deepest = "d".repeat(steadfast::MAX_INSTANCE_ID_BYTES);
    let error = worker
        .run(&deepest, "descend", "100")
        .await
        .expect_err("deeper than names can be");
    assert!(error.display_message().contains("2600 bytes"), "{error:?}");
    let running = eventually("all have ended", async || {
        let running = worker.client.list_instances_by_status("Running").await.expect("list");
        running.is_empty().then_some(running)
    });
    running.await;
    assert!(
        worker
            .client
            .list_instances_by_status("Pending")
            .await
            .expect("list")
            .is_empty()
    );
    worker.stop().await;
}

on_both_engines!(
    a_refused_turn_leaves_an_instance_for_every_verb,
    a_parent_hears_of_a_refused_child,
    children_of_the_longest_id_live_or_fail,
);
