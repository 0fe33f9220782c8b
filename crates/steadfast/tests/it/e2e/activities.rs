//! Activities: in sequence, side by side, failing, and with any payload.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use duroxide::{ActivityContext, AppErrorKind, ErrorDetails, OrchestrationContext};

use super::stage::{Stage, activities, assert_sound, count, kinds, orchestrations};
use crate::harness::Store;

pub(super) async fn a_chain_runs_in_sequence(store: &Store) {
    let stage = Stage::start(
        store,
        activities().register("append", |ctx: ActivityContext, input: String| async move {
            Ok(format!("{input}>{}", ctx.instance_id()))
        }),
        orchestrations().register("chain", |ctx: OrchestrationContext, input: String| async move {
            let first = ctx.schedule_activity("append", input).await?;
            let second = ctx.schedule_activity("append", first).await?;
            ctx.schedule_activity("append", second).await
        }),
    )
    .await;

    assert_eq!(stage.run("c", "chain", "in").await, "in>c>c>c");

    let history = stage.history("c").await;
    assert_sound(&history);
    let step = ["ActivityScheduled", "ActivityCompleted"];
    let expected: Vec<&str> = ["OrchestrationStarted"]
        .into_iter()
        .chain(step.into_iter().cycle().take(6))
        .chain(["OrchestrationCompleted"])
        .collect();
    assert_eq!(kinds(&history), expected);
    stage.stop().await;
}

pub(super) async fn fan_out_fans_in_in_order(store: &Store) {
    const WIDTH: usize = 25;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let stage = Stage::start(
        store,
        activities().register("square", move |_: ActivityContext, input: String| {
            let calls = Arc::clone(&counted);
            async move {
                calls.fetch_add(1, Ordering::SeqCst);
                let number: usize = input.parse().map_err(|_| format!("not a number: {input}"))?;
                Ok((number * number).to_string())
            }
        }),
        orchestrations().register("fan", |ctx: OrchestrationContext, _: String| async move {
            let squares = (0..WIDTH)
                .map(|number| ctx.schedule_activity("square", number.to_string()))
                .collect();
            let results: Result<Vec<String>, String> = ctx.join(squares).await.into_iter().collect();
            Ok(results?.join(","))
        }),
    )
    .await;

    let expected: Vec<String> = (0..WIDTH).map(|number| (number * number).to_string()).collect();
    assert_eq!(stage.run("f", "fan", "").await, expected.join(","));

    let history = stage.history("f").await;
    assert_sound(&history);
    assert_eq!(count(&history, "ActivityScheduled"), WIDTH);
    assert_eq!(count(&history, "ActivityCompleted"), WIDTH);
    assert_eq!(calls.load(Ordering::SeqCst), WIDTH, "each ran once");
    stage.stop().await;
}

pub(super) async fn a_failure_reaches_the_orchestration(store: &Store) {
    let stage = Stage::start(
        store,
        activities()
            .register("book", |_: ActivityContext, _: String| async move {
                Err("no seats".to_owned())
            })
            .register("apologise", |_: ActivityContext, why: String| async move {
                Ok(format!("sorry: {why}"))
            }),
        orchestrations().register("trip", |ctx: OrchestrationContext, _: String| async move {
            match ctx.schedule_activity("book", "").await {
                Ok(_) => Err("a seat was found".to_owned()),
                Err(why) => ctx.schedule_activity("apologise", why).await,
            }
        }),
    )
    .await;

    assert_eq!(stage.run("t", "trip", "").await, "sorry: no seats");
    let history = stage.history("t").await;
    assert_sound(&history);
    assert_eq!(
        (count(&history, "ActivityFailed"), count(&history, "ActivityCompleted")),
        (1, 1)
    );
    stage.stop().await;
}

pub(super) async fn an_uncaught_failure_fails_the_instance(store: &Store) {
    let stage = Stage::start(
        store,
        activities().register("break", |_: ActivityContext, _: String| async move {
            Err("it broke".to_owned())
        }),
        orchestrations().register("fragile", |ctx: OrchestrationContext, _: String| async move {
            ctx.schedule_activity("break", "").await
        }),
    )
    .await;

    stage.begin("f", "fragile", "").await;
    let details = stage.failure("f").await;
    assert!(
        matches!(&details, ErrorDetails::Application { kind: AppErrorKind::OrchestrationFailed, message, .. }
            if message == "it broke"),
        "{details:?}"
    );
    assert_eq!(
        kinds(&stage.history("f").await).last().map(String::as_str),
        Some("OrchestrationFailed")
    );
    stage.stop().await;
}

pub(super) async fn a_panic_fails_the_activity(store: &Store) {
    let stage = Stage::start(
        store,
        activities().register("explode", |_: ActivityContext, input: String| async move {
            assert!(input.is_empty(), "this panic is part of the scenario");
            Ok(input)
        }),
        orchestrations().register("brave", |ctx: OrchestrationContext, _: String| async move {
            let error = ctx.schedule_activity("explode", "now").await.expect_err("it panics");
            Ok(format!("survived: {}", error.contains("panic")))
        }),
    )
    .await;

    assert_eq!(stage.run("b", "brave", "").await, "survived: true");
    stage.stop().await;
}

pub(super) async fn any_payload_survives(store: &Store) {
    let stage = Stage::start(
        store,
        activities().register("echo", |_: ActivityContext, input: String| async move { Ok(input) }),
        orchestrations().register("through", |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_activity("echo", input).await
        }),
    )
    .await;

    let deep = "[".repeat(2_000) + &"]".repeat(2_000);
    let payloads = [
        String::new(),
        "null".to_owned(),
        "a NUL \0 in the middle, and \u{1}\u{7f}\u{ffff}".to_owned(),
        "\u{feff}Grüße 😀 \u{202e}reversed".to_owned(),
        r#"{"quotes": "'\"\\", "dollar": "$$ $1 %s {}"}"#.to_owned(),
        deep,
        "x".repeat(1 << 20),
    ];
    for (number, payload) in payloads.into_iter().enumerate() {
        let instance = format!("payload-{number}");
        let output = stage.run(&instance, "through", &payload).await;
        assert!(
            output == payload,
            "payload {number} came back changed ({} bytes)",
            output.len()
        );
    }
    stage.stop().await;
}

pub(super) async fn many_instances_run_side_by_side(store: &Store) {
    let stage = Stage::start(
        store,
        activities().register("twice", |_: ActivityContext, input: String| async move {
            Ok(input.repeat(2))
        }),
        orchestrations().register("double", |ctx: OrchestrationContext, input: String| async move {
            let once = ctx.schedule_activity("twice", input).await?;
            ctx.schedule_activity("twice", once).await
        }),
    )
    .await;

    for number in 0..30 {
        stage
            .begin(&format!("i-{number}"), "double", &format!("<{number}>"))
            .await;
    }
    for number in 0..30 {
        assert_eq!(
            stage.output(&format!("i-{number}")).await,
            format!("<{number}>").repeat(4)
        );
    }
    stage.stop().await;
}

pub(super) async fn two_runtimes_share_the_work(store: &Store) {
    let named = |name: &'static str| {
        activities().register("where", move |_: ActivityContext, _: String| async move {
            // Long enough that the other one finds something left.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            Ok(name.to_owned())
        })
    };
    let spread = || {
        orchestrations().register("spread", |ctx: OrchestrationContext, _: String| async move {
            let places = (0..10).map(|_| ctx.schedule_activity("where", "")).collect();
            let places: Result<Vec<String>, String> = ctx.join(places).await.into_iter().collect();
            Ok(places?.join(","))
        })
    };
    let left = Stage::start(store, named("left"), spread()).await;
    let right = Stage::start(store, named("right"), spread()).await;

    for number in 0..8 {
        left.begin(&format!("s-{number}"), "spread", "").await;
    }
    let mut places = BTreeSet::new();
    for number in 0..8 {
        let instance = format!("s-{number}");
        let output = right.output(&instance).await;
        assert_eq!(output.split(',').count(), 10);
        places.extend(output.split(',').map(str::to_owned));
        assert_sound(&right.history(&instance).await);
    }
    assert_eq!(places.len(), 2, "both had a share: {places:?}");
    left.stop().await;
    right.stop().await;
}
