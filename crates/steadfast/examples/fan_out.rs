//! Fan-out and fan-in: one orchestration runs many activities side by side and puts their results together.
//!
//! On a throwaway server:
//! `cargo xtask postgres -- cargo run -p steadfast --example fan_out`
//!
//! On a server of yours:
//! `DATABASE_URL=postgres://user@host/database cargo run -p steadfast --example fan_out`
//!
//! It works in a schema of its own and drops it at the end.
#![allow(clippy::print_stdout, reason = "an example speaks by printing")]

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use duroxide::runtime::registry::ActivityRegistry;
use duroxide::runtime::{OrchestrationStatus, Runtime, RuntimeOptions};
use duroxide::{ActivityContext, Client, OrchestrationContext, OrchestrationRegistry};
use steadfast::postgres::PostgresProvider;

/// How many activities the orchestration schedules at once.
const NUMBERS: u64 = 40;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL, or run me by `cargo xtask postgres`")?;
    let schema = format!("steadfast_example_fan_out_{}", std::process::id());

    let provider = PostgresProvider::builder(&url).schema(&schema).connect().await?;
    let result = sum_of_squares(&provider).await;

    provider.cleanup_schema().await?;
    provider.close().await;
    result
}

async fn sum_of_squares(provider: &PostgresProvider) -> Result<(), Box<dyn Error>> {
    let activities = ActivityRegistry::builder()
        .register("square", |_: ActivityContext, number: String| async move {
            let number: u64 = number.parse().map_err(|_| format!("not a number: {number}"))?;
            // Stands for a request or a computation.
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok((number * number).to_string())
        })
        .build();
    let orchestrations = OrchestrationRegistry::builder()
        .register("sum_of_squares", |ctx: OrchestrationContext, upto: String| async move {
            let upto: u64 = upto.parse().map_err(|_| format!("not a number: {upto}"))?;
            // Out: all are scheduled in one turn, which is one commit.
            let squares = (1..=upto)
                .map(|number| ctx.schedule_activity("square", number.to_string()))
                .collect();
            // In: the results come in the order in which the activities were scheduled.
            let mut sum = 0;
            for square in ctx.join(squares).await {
                sum += square?.parse::<u64>().map_err(|error| error.to_string())?;
            }
            Ok(sum.to_string())
        })
        .build();

    let store = Arc::new(provider.clone());
    // Slots, not connections: the calls of many slots travel together.
    let options = RuntimeOptions {
        orchestration_concurrency: 4,
        worker_concurrency: 16,
        ..RuntimeOptions::default()
    };
    let runtime = Runtime::start_with_options(store.clone(), activities, orchestrations, options).await;
    let client = Client::new(store);

    client
        .start_orchestration("sum-1", "sum_of_squares", NUMBERS.to_string())
        .await?;
    let status = client.wait_for_orchestration("sum-1", Duration::from_secs(60)).await?;
    let health = provider.health();
    runtime.shutdown(Some(1_000)).await;
    match status {
        OrchestrationStatus::Completed { output, .. } => {
            println!("1² + 2² + … + {NUMBERS}² = {output}");
            println!("{} connections served 16 workers and 4 dispatchers", health.connections);
            let expected = NUMBERS * (NUMBERS + 1) * (2 * NUMBERS + 1) / 6;
            if output == expected.to_string() {
                Ok(())
            } else {
                Err(format!("it should be {expected}").into())
            }
        }
        other => Err(format!("the orchestration did not complete: {other:?}").into()),
    }
}
