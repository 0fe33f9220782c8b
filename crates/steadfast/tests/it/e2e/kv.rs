//! Key-value pairs of an instance: inside it, from a client, from another instance, across executions.

use std::collections::HashMap;

use duroxide::OrchestrationContext;

use super::stage::{PATIENCE, Stage, activities, orchestrations};
use crate::harness::Store;

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

pub(super) async fn values_are_set_read_and_cleared(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("scribe", |ctx: OrchestrationContext, _: String| async move {
            ctx.set_kv_value("a", "1");
            ctx.set_kv_value("b", "2");
            ctx.set_kv_value("c", "3");
            ctx.schedule_wait("written").await;
            let a = ctx.get_kv_value("a").unwrap_or_default();
            ctx.set_kv_value("a", format!("{a}1"));
            ctx.clear_kv_value("b");
            ctx.schedule_wait("changed").await;
            let left = ctx.get_kv_all_keys().join(",");
            ctx.clear_all_kv_values();
            ctx.set_kv_value("d", "4");
            ctx.schedule_wait("cleared").await;
            Ok(format!("{left} then {}", ctx.get_kv_all_keys().join(",")))
        }),
    )
    .await;

    stage.begin("s", "scribe", "").await;
    let stages = [
        ("written", map(&[("a", "1"), ("b", "2"), ("c", "3")])),
        ("changed", map(&[("a", "11"), ("c", "3")])),
        ("cleared", map(&[("d", "4")])),
    ];
    for (number, (event, expected)) in stages.into_iter().enumerate() {
        stage.reached("s", number + 1, "ExternalSubscribed").await;
        assert_eq!(
            stage.client.get_kv_all_values("s").await.expect("values"),
            expected,
            "before {event}"
        );
        for key in ["a", "b", "c", "d"] {
            let value = stage.client.get_kv_value("s", key).await.expect("a value");
            assert_eq!(value.as_ref(), expected.get(key), "{key} before {event}");
        }
        stage.client.raise_event("s", event, "").await.expect("raise");
    }
    assert_eq!(stage.output("s").await, "a,c then d");
    stage.stop().await;
}

pub(super) async fn values_outlive_the_instance(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("scribe", |ctx: OrchestrationContext, input: String| async move {
            ctx.set_kv_value("Schlüssel \0 '\"", input);
            ctx.set_kv_value("empty", "");
            Ok(String::new())
        }),
    )
    .await;

    let value = format!("a NUL \0, an umlaut ü, and {}", "more ".repeat(10_000));
    stage.run("s", "scribe", &value).await;
    let expected = map(&[("Schlüssel \0 '\"", value.as_str()), ("empty", "")]);
    assert_eq!(stage.client.get_kv_all_values("s").await.expect("values"), expected);
    assert_eq!(stage.client.get_kv_value("s", "missing").await.expect("a value"), None);
    assert_eq!(
        stage.client.get_kv_all_values("nobody").await.expect("values"),
        HashMap::new()
    );
    stage.stop().await;
}

pub(super) async fn values_cross_continue_as_new(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("heir", |ctx: OrchestrationContext, input: String| async move {
            let seen = format!("{input}[{}]", ctx.get_kv_all_keys().join(","));
            match ctx.execution_id() {
                1 => {
                    ctx.set_kv_value("kept", "1");
                    ctx.set_kv_value("dropped", "1");
                    ctx.continue_as_new(seen).await
                }
                2 => {
                    ctx.clear_kv_value("dropped");
                    ctx.set_kv_value("new", "2");
                    ctx.continue_as_new(seen).await
                }
                _ => Ok(seen),
            }
        }),
    )
    .await;

    assert_eq!(stage.run("h", "heir", "").await, "[][dropped,kept][kept,new]");
    assert_eq!(
        stage.client.get_kv_all_values("h").await.expect("values"),
        map(&[("kept", "1"), ("new", "2")])
    );
    stage.stop().await;
}

pub(super) async fn a_client_sees_values_while_the_instance_runs(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations().register("desk", |ctx: OrchestrationContext, _: String| async move {
            let question = ctx.dequeue_event("questions").await;
            ctx.set_kv_value(format!("answer to {question}"), question.to_uppercase());
            Ok(ctx.schedule_wait("close").await)
        }),
    )
    .await;

    stage.begin("d", "desk", "").await;
    stage.reached("d", 1, "ExternalSubscribedPersistent").await;
    stage
        .client
        .enqueue_event("d", "questions", "why")
        .await
        .expect("enqueue");
    assert_eq!(
        stage
            .client
            .wait_for_kv_value("d", "answer to why", PATIENCE)
            .await
            .expect("an answer"),
        "WHY"
    );
    stage.reached("d", 1, "ExternalSubscribed").await;
    stage.client.raise_event("d", "close", "closed").await.expect("raise");
    assert_eq!(stage.output("d").await, "closed");
    stage.stop().await;
}

pub(super) async fn an_instance_reads_the_values_of_another(store: &Store) {
    let stage = Stage::start(
        store,
        activities(),
        orchestrations()
            .register("writer", |ctx: OrchestrationContext, _: String| async move {
                ctx.set_kv_value("price", "42");
                Ok(ctx.schedule_wait("end").await)
            })
            .register("reader", |ctx: OrchestrationContext, _: String| async move {
                let price = ctx.get_kv_value_from_instance("w", "price").await?;
                let none = ctx.get_kv_value_from_instance("w", "colour").await?;
                Ok(format!("{price:?} {none:?}"))
            }),
    )
    .await;

    stage.begin("w", "writer", "").await;
    stage.reached("w", 1, "ExternalSubscribed").await;
    assert_eq!(stage.run("r", "reader", "").await, "Some(\"42\") None");
    stage.client.raise_event("w", "end", "").await.expect("raise");
    stage.output("w").await;
    stage.stop().await;
}
