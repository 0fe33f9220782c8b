//! A payload has a limit, at every door; what is beyond it fails the one workflow that made it, by name, and nobody else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use duroxide::providers::Provider;
use duroxide::runtime::RuntimeOptions;
use duroxide::{ActivityContext, Client, OrchestrationContext};

use super::form::{is_long, report};
use super::site::{Site, Worker, activities, eventually, on_both_engines, orchestrations};

/// The limit of these stores, and payloads beside it.
const LIMIT: usize = 64 << 10;
const MUCH: usize = LIMIT + 1;

#[track_caller]
fn assert_named(error: &str, limit: usize) {
    for part in ["payload_limit", &limit.to_string()] {
        assert!(
            error.contains(part),
            "{part} is missing: {}",
            error.chars().take(400).collect::<String>()
        );
    }
}

async fn worker(site: &Site) -> Worker {
    let size = |input: &str| input.parse::<usize>().expect("a size");
    let steps = activities()
        .register("make", move |_: ActivityContext, input: String| async move {
            Ok("x".repeat(size(&input)))
        })
        .register("fail", move |_: ActivityContext, input: String| async move {
            Err("x".repeat(size(&input)))
        })
        .register("take", |_: ActivityContext, input: String| async move {
            Ok(input.len().to_string())
        });
    let workflows = orchestrations()
        .register(
            "echo",
            |_: OrchestrationContext, input: String| async move { Ok(input) },
        )
        .register("make", move |_: OrchestrationContext, input: String| async move {
            Ok("x".repeat(size(&input)))
        })
        .register("fail", move |_: OrchestrationContext, input: String| async move {
            Err("x".repeat(size(&input)))
        })
        .register("again", move |ctx: OrchestrationContext, input: String| async move {
            ctx.continue_as_new("x".repeat(size(&input))).await
        })
        .register("give", move |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_activity("take", "x".repeat(size(&input))).await
        })
        .register("beget", move |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_sub_orchestration("echo", "x".repeat(size(&input))).await
        })
        .register("many", |ctx: OrchestrationContext, input: String| async move {
            let all = (0..40)
                .map(|_| ctx.schedule_activity("take", &input))
                .collect::<Vec<_>>();
            ctx.join(all)
                .await
                .into_iter()
                .collect::<Result<Vec<_>, _>>()
                .map(|all| all.concat())
        })
        // Runs an activity, and says how that ended.
        .register("try", |ctx: OrchestrationContext, input: String| async move {
            let (name, input) = input.split_once(' ').expect("a name and an input");
            match ctx.schedule_activity(name, input).await {
                Ok(output) => Ok(format!("completed {}", output.len())),
                Err(error) => Ok(format!("failed {error}")),
            }
        })
        .register("parent", |ctx: OrchestrationContext, input: String| async move {
            let (name, input) = input.split_once(' ').expect("a name and an input");
            match ctx.schedule_sub_orchestration(name, input).await {
                Ok(output) => Ok(format!("completed {}", output.len())),
                Err(error) => Ok(format!("failed {error}")),
            }
        });
    site.work(LIMIT, steps, workflows).await
}

async fn every_door_refuses_what_is_too_large(site: Site) {
    let worker = worker(&site).await;
    let client = &worker.client;
    client.start_orchestration("i", "try", "take 1").await.expect("start");
    let much = || "x".repeat(MUCH);
    let refusals = [
        client
            .start_orchestration("large", "echo", much())
            .await
            .expect_err("start"),
        client
            .start_orchestration_versioned("large", "echo", "1.0.0", much())
            .await
            .expect_err("start"),
        client.raise_event("i", "go", much()).await.expect_err("event"),
        client
            .enqueue_event("i", "queue", much())
            .await
            .expect_err("queue event"),
        client.cancel_instance("i", much()).await.expect_err("cancel"),
        // Small as it is given, large as it is stored.
        client
            .start_orchestration("large", "echo", "\u{1}".repeat(LIMIT / 4))
            .await
            .expect_err("start"),
    ];
    for error in refusals {
        assert!(!error.is_retryable(), "{error:?}");
        assert_named(&error.to_string(), LIMIT);
    }
    assert!(
        worker.provider.instance("large").await.expect("look").is_none(),
        "nothing is left of it"
    );
    worker.stop().await;
}

async fn a_workflow_fails_by_what_it_makes(site: Site) {
    let worker = worker(&site).await;
    for workflow in ["make", "fail", "again", "give", "beget"] {
        let error = worker
            .run(workflow, workflow, &MUCH.to_string())
            .await
            .expect_err("too large");
        assert_named(&error.display_message(), LIMIT);
        let info = worker.client.get_instance_info(workflow).await.expect("known");
        assert_eq!(
            (info.status.as_str(), info.orchestration_name.as_str()),
            ("Failed", workflow)
        );
        let over = format!("over {workflow}");
        let output = worker
            .run(&over, "parent", &format!("{workflow} {MUCH}"))
            .await
            .expect("told");
        assert!(output.starts_with("failed "), "{output}");
        assert_named(&output, LIMIT);
    }
    for activity in ["make", "fail"] {
        let output = worker
            .run(&format!("try {activity}"), "try", &format!("{activity} {MUCH}"))
            .await;
        let output = output.expect("it sees a failed activity");
        assert!(output.starts_with("failed "), "{output}");
        assert_named(&output, LIMIT);
    }
    // Each is small enough, together they are not.
    let error = worker
        .run("many", "many", &"x".repeat(LIMIT / 2))
        .await
        .expect_err("too much");
    assert!(error.display_message().contains("payload_limit"), "{error:?}");
    // Nobody else minds.
    assert_eq!(
        worker.run("small", "try", "make 1000").await.expect("it completes"),
        "completed 1000"
    );
    let most = LIMIT - 1000;
    assert_eq!(
        worker
            .run("most", "try", &format!("make {most}"))
            .await
            .expect("it completes"),
        format!("completed {most}")
    );
    worker.stop().await;
}

/// The field's: 300 MiB, and what no message of a server holds.
async fn a_huge_start_is_refused_at_once(site: Site) {
    let provider = site.open().await;
    let client = Client::new(provider.clone() as Arc<dyn Provider>);
    let sizes: &[usize] = if is_long() {
        &[300 << 20, 1126 << 20]
    } else {
        &[300 << 20]
    };
    let alone = small_starts(&client, "alone", Duration::from_secs(3));
    let alone = if is_long() { alone.await } else { Duration::ZERO };
    for size in sizes {
        let pill = "x".repeat(*size);
        let beside = tokio::spawn({
            let (client, run) = (client.clone(), format!("beside {size}"));
            async move { small_starts(&client, &run, Duration::from_secs(3)).await }
        });
        let mut longest = Duration::ZERO;
        loop {
            let sent = pill.clone();
            let begun = Instant::now();
            let refused = client.start_orchestration("pill", "echo", sent).await;
            longest = longest.max(begun.elapsed());
            let error = refused.expect_err("too large");
            assert!(!error.is_retryable(), "{error:?}");
            assert_named(&error.to_string(), 16 << 20);
            assert!(error.to_string().contains(&size.to_string()), "{error}");
            if beside.is_finished() || !is_long() {
                break;
            }
        }
        if is_long() {
            let beside = beside.await.expect("no panic");
            report(&format!(
                "- kind 6, {}: a start of {} MiB was refused within {longest:.1?}; the p99 of small starts: {alone:.1?} alone, \
                 {beside:.1?} beside it",
                provider.name(),
                size >> 20
            ));
        } else {
            beside.abort();
        }
    }
    assert!(provider.instance("pill").await.expect("look").is_none());
    provider.close().await;
}

/// Starts one after the other for so long; the time that 99 of 100 took at most.
async fn small_starts(client: &Client, run: &str, lasting: Duration) -> Duration {
    let begun = Instant::now();
    let mut took = Vec::new();
    while begun.elapsed() < lasting {
        let start = Instant::now();
        let started = client
            .start_orchestration(format!("{run} {}", took.len()), "echo", "small")
            .await;
        started.expect("start");
        took.push(start.elapsed());
    }
    took.sort();
    took[(took.len() * 99 / 100).min(took.len() - 1)]
}

/// Sent through a provider that lets more in: nobody's turn is held up by it, and its operator is not helpless.
async fn a_pill_that_is_there_fails_or_is_removed(site: Site) {
    let generous = site.open_with(32 << 20).await;
    let client = Client::new(generous.clone() as Arc<dyn Provider>);
    for id in ["fails", "deleted", "cancelled"] {
        client
            .start_orchestration(id, "echo", "x".repeat(20 << 20))
            .await
            .expect("start");
        let seen = generous.instance(id).await.expect("look").expect("it is there");
        assert_eq!(
            (seen.summary.status.as_str(), seen.summary.orchestration_name.as_str()),
            ("Pending", "echo")
        );
    }
    // By a provider that does not read it.
    let strict = site.open_with(LIMIT).await;
    let operator = Client::new(strict.clone() as Arc<dyn Provider>);
    let seen = strict.instance("deleted").await.expect("look").expect("it is there");
    assert_eq!(
        (seen.summary.status.as_str(), seen.summary.orchestration_name.as_str()),
        ("Pending", "echo")
    );
    assert_eq!(
        operator
            .delete_instance("deleted", true)
            .await
            .expect("delete")
            .instances_deleted,
        1
    );
    operator
        .cancel_instance("cancelled", "never mind")
        .await
        .expect("cancel");

    let worker = worker(&site).await;
    assert_eq!(
        worker.run("small", "try", "make 1000").await.expect("beside it"),
        "completed 1000"
    );
    for id in ["fails", "cancelled"] {
        let error = worker.failure(id).await;
        assert!(error.contains("payload_limit"), "{error}");
        assert_eq!(
            worker
                .client
                .get_instance_info(id)
                .await
                .expect("known")
                .orchestration_name,
            "echo"
        );
        worker.client.delete_instance(id, false).await.expect("delete");
    }
    assert!(worker.provider.instance("deleted").await.expect("look").is_none());
    worker.stop().await;
    strict.close().await;
    generous.close().await;
}

/// The last word over a poisoned start quotes it; however much that is, the word is heard.
async fn a_poisons_ack_lands(site: Site) {
    let provider = site.open_with(LIMIT).await;
    let options = RuntimeOptions {
        dispatcher_min_poll_interval: Duration::from_millis(20),
        max_attempts: 1,
        ..RuntimeOptions::default()
    };
    let worker = Worker::start(provider, activities(), orchestrations(), options).await;
    // Quotes are escaped anew each time they are quoted.
    let started = worker
        .client
        .start_orchestration("i", "nobody's", "\"".repeat(LIMIT / 3))
        .await;
    started.expect("start");
    let error = worker.failure("i").await;
    assert!(error.contains("poison"), "{error}");
    let seen = eventually("it is failed", async || {
        let seen = worker.provider.instance("i").await.expect("look").expect("known");
        (seen.summary.status == "Failed").then_some(seen)
    });
    assert_eq!(seen.await.summary.orchestration_name, "nobody's");
    worker.stop().await;
}

on_both_engines!(
    every_door_refuses_what_is_too_large,
    a_workflow_fails_by_what_it_makes,
    a_huge_start_is_refused_at_once,
    a_pill_that_is_there_fails_or_is_removed,
    a_poisons_ack_lands,
);

#[tokio::test]
async fn a_limit_that_cannot_work_is_refused_by_name() {
    for bytes in [0, steadfast::MAX_PAYLOAD_LIMIT + 1] {
        let builder = steadfast::postgres::PostgresProvider::builder(&crate::harness::database_url());
        let error = builder.payload_limit(bytes).connect().await.expect_err("refused");
        assert_eq!(error.kind(), steadfast::postgres::OpenErrorKind::Configuration);
        assert!(error.to_string().contains("payload_limit"), "{error}");
        let builder = steadfast::embedded::EmbeddedProvider::builder_in_memory();
        let error = builder.payload_limit(bytes).open().await.expect_err("refused");
        assert_eq!(error.kind(), steadfast::embedded::OpenErrorKind::Configuration);
    }
}
