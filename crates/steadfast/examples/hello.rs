//! The smallest durable program: one orchestration, one activity, one result.
//!
//! On a throwaway server:
//! `cargo xtask postgres -- cargo run -p steadfast --example hello`
//!
//! On a server of yours:
//! `DATABASE_URL=postgres://user@host/database cargo run -p steadfast --example hello`
//!
//! It works in a schema of its own and drops it at the end.
#![allow(clippy::print_stdout, reason = "an example speaks by printing")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use duroxide::runtime::registry::ActivityRegistry;
use duroxide::runtime::{OrchestrationStatus, Runtime};
use duroxide::{ActivityContext, Client, OrchestrationContext, OrchestrationRegistry};
use steadfast::postgres::PostgresProvider;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL, or run me by `cargo xtask postgres`")?;
    let schema = format!("steadfast_example_hello_{}", std::process::id());

    // Opening installs the schema.
    let provider = PostgresProvider::builder(&url).schema(&schema).connect().await?;
    let result = greet(&provider).await;

    // A program of yours would keep its schema; an example tidies up, also after a failure.
    provider.cleanup_schema().await?;
    provider.close().await;
    result
}

async fn greet(provider: &PostgresProvider) -> Result<(), Box<dyn Error>> {
    // An activity does the real work: I/O, requests, anything. It may run more than once.
    let activities = ActivityRegistry::builder()
        .register("hello", |_: ActivityContext, name: String| async move {
            Ok(format!("Hello, {name}!"))
        })
        .build();
    // An orchestration decides what comes next. It is replayed, so it must be deterministic.
    let orchestrations = OrchestrationRegistry::builder()
        .register("greet", |ctx: OrchestrationContext, name: String| async move {
            ctx.schedule_activity("hello", name).await
        })
        .build();

    let store = Arc::new(provider.clone());
    let runtime = Runtime::start_with_store(store.clone(), activities, orchestrations).await;
    let client = Client::new(store);

    client.start_orchestration("greeting-1", "greet", "Steadfast").await?;
    let status = client
        .wait_for_orchestration("greeting-1", Duration::from_secs(30))
        .await?;
    runtime.shutdown(Some(1_000)).await;
    match status {
        OrchestrationStatus::Completed { output, .. } => println!("{output}"),
        other => return Err(format!("the orchestration did not complete: {other:?}").into()),
    }

    // What it went through is in the store.
    for event in client.read_execution_history("greeting-1", 1).await? {
        println!("{:>3}  {:?}", event.event_id, event.kind);
    }
    Ok(())
}
