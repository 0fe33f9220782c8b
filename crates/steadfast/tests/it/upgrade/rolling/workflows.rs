//! What the fixtures' instances run. Its invariant: it never changes, for they are in the middle of it.

use duroxide::runtime::registry::ActivityRegistry;
use duroxide::{ActivityContext, OrchestrationContext, OrchestrationRegistry};

/// The instances of a fixture, by id (which is the orchestration's name, too), and what each comes to.
pub(super) const RESULTS: [(&str, &str); 6] = [
    ("fans", "12"),
    ("waits", "[\"first\",\"second\"]"),
    ("timer", "2"),
    ("parent", "[]"),
    ("counts", "2"),
    ("session", "2"),
];

pub(super) fn activities() -> ActivityRegistry {
    let double = |_: ActivityContext, input: String| async move { double(&input) };
    ActivityRegistry::builder().register("double", double).build()
}

/// What the activity makes of its input.
pub(super) fn double(input: &str) -> Result<String, String> {
    let number: u64 = input.parse().map_err(|_| format!("not a number: {input}"))?;
    Ok((number * 2).to_string())
}

async fn fans(context: OrchestrationContext, _: String) -> Result<String, String> {
    let doubles = (1..4)
        .map(|n: u64| context.schedule_activity("double", n.to_string()))
        .collect();
    let mut sum = 0;
    for done in context.join(doubles).await {
        sum += done?.parse::<u64>().map_err(|error| error.to_string())?;
    }
    Ok(sum.to_string())
}

async fn waits(context: OrchestrationContext, _: String) -> Result<String, String> {
    let mut seen = Vec::new();
    loop {
        let order = context.dequeue_event("orders").await;
        if order == "end" {
            return serde_json::to_string(&seen).map_err(|error| error.to_string());
        }
        seen.push(order);
    }
}

async fn timer(context: OrchestrationContext, _: String) -> Result<String, String> {
    context.schedule_timer(std::time::Duration::from_secs(3)).await;
    context.schedule_activity("double", "1").await
}

async fn parent(context: OrchestrationContext, input: String) -> Result<String, String> {
    context.schedule_sub_orchestration("waits", input).await
}

async fn counts(context: OrchestrationContext, input: String) -> Result<String, String> {
    if input.is_empty() {
        context.set_kv_value("count", "1");
        return context.continue_as_new("again").await;
    }
    context.schedule_activity("double", "1").await?;
    let count: u64 = context
        .get_kv_value("count")
        .unwrap_or_default()
        .parse()
        .unwrap_or_default();
    context.set_kv_value("count", (count + 1).to_string());
    Ok((count + 1).to_string())
}

async fn session(context: OrchestrationContext, _: String) -> Result<String, String> {
    context.schedule_activity_on_session("double", "1", "the session").await
}

pub(super) fn orchestrations() -> OrchestrationRegistry {
    OrchestrationRegistry::builder()
        .register("fans", fans)
        .register("waits", waits)
        .register("timer", timer)
        .register("parent", parent)
        .register("counts", counts)
        .register("session", session)
        .build()
}
