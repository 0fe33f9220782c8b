//! A worker and a client in two processes: the client starts work and sends a message, the worker does the work.
//!
//! On a throwaway server:
//! `cargo xtask postgres -- cargo run -p steadfast --example two_processes`
//!
//! On a server of yours:
//! `DATABASE_URL=postgres://user@host/database cargo run -p steadfast --example two_processes`
//!
//! The program is the client; it starts itself once more as the worker. All that the two share is the database: a
//! schema of their own, which the client makes and drops. The worker runs until its standard input ends, so it never
//! outlives the client.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example speaks by printing")]

use std::error::Error;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use duroxide::runtime::registry::ActivityRegistry;
use duroxide::runtime::{OrchestrationStatus, Runtime};
use duroxide::{ActivityContext, Client, OrchestrationContext, OrchestrationRegistry};
use steadfast::postgres::{Migrations, PostgresProvider};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let result = match (arguments.next().as_deref(), arguments.next()) {
        (Some("worker"), Some(schema)) => worker(&schema).await,
        _ => client().await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn database_url() -> Result<String, Box<dyn Error>> {
    Ok(std::env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL, or run me by `cargo xtask postgres`")?)
}

/// Starts an order, approves it, prints the result. Runs no orchestrations and no activities.
async fn client() -> Result<(), Box<dyn Error>> {
    let schema = format!("steadfast_example_two_processes_{}", std::process::id());
    let provider = PostgresProvider::builder(&database_url()?)
        .schema(&schema)
        .connect()
        .await?;
    let result = order(&provider, &schema).await;

    provider.cleanup_schema().await?;
    provider.close().await;
    result
}

async fn order(provider: &PostgresProvider, schema: &str) -> Result<(), Box<dyn Error>> {
    let mut worker = Command::new(std::env::current_exe()?)
        .args(["worker", schema])
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    println!("client {}: started a worker", std::process::id());

    let client = Client::new(Arc::new(provider.clone()));
    client.start_orchestration("order-1", "order", "a bicycle").await?;
    println!("client {}: started order-1", std::process::id());
    // A message of a queue is kept until the orchestration takes it: it may well come first.
    client.enqueue_event("order-1", "approval", "Ada").await?;
    println!("client {}: approved order-1", std::process::id());

    let status = client
        .wait_for_orchestration("order-1", Duration::from_secs(60))
        .await?;

    // The end of its input is the worker's sign to stop.
    drop(worker.stdin.take());
    let ended = worker.wait().await?;
    match status {
        OrchestrationStatus::Completed { output, .. } => println!("client {}: {output}", std::process::id()),
        other => return Err(format!("the order did not complete: {other:?}").into()),
    }
    if !ended.success() {
        return Err(format!("the worker failed: {ended}").into());
    }
    Ok(())
}

/// Runs orchestrations and activities until standard input ends.
async fn worker(schema: &str) -> Result<(), Box<dyn Error>> {
    let provider = PostgresProvider::builder(&database_url()?)
        .schema(schema)
        // The client has made the schema; this process needs no right to change it.
        .migrations(Migrations::Verify)
        .connect()
        .await?;
    let activities = ActivityRegistry::builder()
        .register("ship", |_: ActivityContext, goods: String| async move {
            println!("worker {}: ships {goods}", std::process::id());
            Ok(format!("{goods} shipped by process {}", std::process::id()))
        })
        .build();
    let orchestrations = OrchestrationRegistry::builder()
        .register("order", |ctx: OrchestrationContext, goods: String| async move {
            let by = ctx.dequeue_event("approval").await;
            let shipped = ctx.schedule_activity("ship", goods).await?;
            Ok(format!("{shipped}, approved by {by}"))
        })
        .build();
    let runtime = Runtime::start_with_store(Arc::new(provider.clone()), activities, orchestrations).await;

    let mut ignored = Vec::new();
    tokio::io::stdin().read_to_end(&mut ignored).await?;

    // What is under way is finished or given back, then the connections close.
    runtime.shutdown(Some(1_000)).await;
    provider.close().await;
    println!("worker {}: stopped", std::process::id());
    Ok(())
}
