//! Kind 9: A call never waits for a connection attempt while another connection becomes free.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use duroxide::providers::Provider;
use duroxide::runtime::registry::{ActivityRegistry, OrchestrationRegistry};
use duroxide::runtime::{OrchestrationStatus, Runtime, RuntimeOptions};
use duroxide::{ActivityContext, Client, OrchestrationContext};
use steadfast::postgres::{Builder, DEFAULT_POOL_SIZE, PostgresProvider};

use crate::field::form::report;
use crate::harness::{database_url, fresh_schema, raw};
use crate::op::scene::{LONG, ack_turn, start, turn};
use crate::proxy::Proxy;

const CHAINS: usize = 40;
/// No attempt that hangs gives up by itself while a test runs: whoever waits for one hangs as well.
const HANGING: &str = "connect_timeout=600";

fn with_patience(url: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{HANGING}")
}

/// Runs 40 chains of 5 activities to their end, and says how long that took.
async fn chains(provider: &Arc<PostgresProvider>) -> Duration {
    let activities = ActivityRegistry::builder()
        .register("Step", |_: ActivityContext, input: String| async move { Ok(input) })
        .build();
    let orchestrations = OrchestrationRegistry::builder()
        .register("Chain", |ctx: OrchestrationContext, input: String| async move {
            for step in 0..5 {
                ctx.schedule_activity("Step", format!("{input}-{step}")).await?;
            }
            Ok(input)
        })
        .build();
    let options = RuntimeOptions {
        orchestration_concurrency: 32,
        worker_concurrency: 32,
        ..RuntimeOptions::default()
    };
    let shared = Arc::clone(provider) as Arc<dyn Provider>;
    let runtime = Runtime::start_with_options(Arc::clone(&shared), activities, orchestrations, options).await;
    let client = Client::new(shared);
    let begun = Instant::now();
    let one = |n: usize| {
        let (client, id) = (&client, format!("chain-{n}"));
        async move {
            let started = client.start_orchestration(&id, "Chain", &id).await;
            started.expect("start a chain");
            match client.wait_for_orchestration(&id, LONG).await {
                Ok(OrchestrationStatus::Completed { output, .. }) => assert_eq!(output, id),
                other => panic!("{id} did not complete: {other:?}"),
            }
        }
    };
    futures_util::future::join_all((0..CHAINS).map(one)).await;
    let took = begun.elapsed();
    runtime.shutdown(Some(5_000)).await;
    took
}

async fn opened(builder: Builder) -> Arc<PostgresProvider> {
    Arc::new(builder.schema(fresh_schema()).connect().await.expect("open"))
}

/// The chains through a proxy that lets three connections through and lets the others hang.
async fn through_three(pool_size: usize) -> (Duration, u64) {
    let proxy = Proxy::start(&database_url()).await;
    let url = with_patience(&proxy.url(&database_url()));
    proxy.welcome(3);
    let provider = opened(PostgresProvider::builder(&url).pool_size(pool_size)).await;
    let took = chains(&provider).await;
    let hung = proxy.hung();
    proxy.welcome_all();
    provider.close().await;
    (took, hung)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chains_need_no_more_connections_than_there_are() {
    let (two, _) = through_three(2).await;
    let (many, hung) = through_three(DEFAULT_POOL_SIZE).await;
    report(&format!(
        "- kind 9, 40 chains of 5 through a proxy that lets three connections through: {two:.2?} with two connections, {many:.2?} \
         with the default pool, {hung} attempts hanging"
    ));
    assert!(hung > 0, "the default pool has not tried to open more");
}

/// A server that lets this role have three connections refuses the others (SQLSTATE 53300).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_is_no_trouble_while_connections_serve() {
    let admin = raw().await;
    let role = fresh_schema();
    let database: String = admin
        .query_one("SELECT current_database()::text", &[])
        .await
        .expect("ask")
        .get(0);
    admin
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'secret' CONNECTION LIMIT 3; GRANT CREATE ON DATABASE \"{database}\" TO {role}"
        ))
        .await
        .expect("make a role");
    let proxy = Proxy::start(&database_url()).await;
    let url = proxy.url(&database_url());
    let (address, _) = url.split_once('?').expect("settings");
    let url = format!("{address}?sslmode=disable&user={role}&password=secret");
    let provider = opened(PostgresProvider::builder(&url)).await;
    let took = chains(&provider).await;
    report(&format!(
        "- kind 9, 40 chains of 5, a server that allows three connections: {took:.2?}"
    ));
    // The first opened the store.
    assert!(proxy.connections() > 4, "nobody has tried to open more");
    provider.close().await;
    let dropped = format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}");
    admin.batch_execute(&dropped).await.expect("drop the role");
}

/// What gives the password answers twice, and then never, or panics: nobody's call waits for it.
async fn password(after: fn() -> bool) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let builder = PostgresProvider::builder(&database_url()).password_provider(move || {
        let nth = counter.fetch_add(1, Ordering::Relaxed);
        async move {
            if nth >= 2 && after() {
                pending::<()>().await;
            }
            Ok("unused by this server, or right".to_owned())
        }
    });
    let provider = opened(builder).await;
    chains(&provider).await;
    assert!(asked.load(Ordering::Relaxed) > 2, "nobody has asked for more");
    provider.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_does_not_come_holds_up_nobody() {
    password(|| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_provider_that_panics_holds_up_nobody() {
    password(|| panic!("a password provider that panics, on purpose")).await;
}

/// Where there is no connection at all, those who wait are told why, as soon as it is known, and not that their time is
/// over; and when the server is back, all is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_connection_calls_are_told_why() {
    let proxy = Proxy::start(&database_url()).await;
    let role = fresh_schema();
    let admin = raw().await;
    let made = format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'secret'");
    admin.batch_execute(&made).await.expect("make a role");
    let url = proxy.url(&database_url());
    let (address, _) = url.split_once('?').expect("settings");
    let url = format!("{address}?sslmode=disable&user={role}&password=secret");
    let builder = PostgresProvider::builder(&url)
        .call_timeout(LONG)
        .retry_timeout(Duration::from_secs(1))
        .trouble_timeout(Duration::from_secs(1));
    let provider = opened(builder).await;
    let started = provider.enqueue_for_orchestrator(start("a"), None).await;
    started.expect("enqueue");

    proxy.cut();
    proxy.refuse();
    let told = tokio::time::timeout(LONG / 2, provider.read("a")).await;
    let error = told
        .expect("told before the call's time is over")
        .expect_err("no server");
    assert!(error.is_retryable(), "{error:?}");
    proxy.accept();

    let barred = format!("ALTER ROLE {role} NOLOGIN");
    admin.batch_execute(&barred).await.expect("bar the role");
    proxy.cut();
    let reads = futures_util::future::join_all((0..20).map(|_| provider.get_instance_stats("a")));
    let told = tokio::time::timeout(LONG / 2, reads).await;
    for answer in told.expect("told before the calls' time is over") {
        let error = answer.expect_err("the server refuses who we are");
        assert!(error.message.contains(&role), "{error:?}");
    }

    let welcome = format!("ALTER ROLE {role} LOGIN");
    admin.batch_execute(&welcome).await.expect("let the role in");
    let (instance, token, _) = turn(&*provider, LONG).await;
    ack_turn(&*provider, &token, &instance, Vec::new(), Vec::new())
        .await
        .expect("acknowledge");
    provider.close().await;
    let dropped = format!("REASSIGN OWNED BY {role} TO CURRENT_USER; DROP ROLE {role}");
    admin.batch_execute(&dropped).await.expect("drop the role");
}
