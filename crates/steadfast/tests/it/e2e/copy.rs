//! A store is carried to another engine in the midst of its work, and goes on there.

use std::time::Duration;

use duroxide::providers::TagFilter;
use duroxide::runtime::RuntimeOptions;
use duroxide::runtime::registry::{ActivityRegistryBuilder, OrchestrationRegistryBuilder};
use duroxide::{ActivityContext, OrchestrationContext};
use steadfast::inspect::Inspect;
use steadfast::transfer::{CopyError, CopyReport, copy};

use super::stage::{PATIENCE, Stage, activities, eventually, options, orchestrations};
use crate::harness::{Engine, Mode, Store};

fn work() -> ActivityRegistryBuilder {
    activities().register("echo", |_: ActivityContext, text: String| async move {
        Ok(format!("<{text}>"))
    })
}

fn plays() -> OrchestrationRegistryBuilder {
    orchestrations()
        .register("waiter", |ctx: OrchestrationContext, input: String| async move {
            ctx.set_kv_value("seen", "start\0nul");
            ctx.set_kv_value("gone", "x");
            ctx.set_custom_status(format!("waiting {input}"));
            let first = ctx.schedule_wait("first").await;
            ctx.clear_kv_value("gone");
            let second = ctx.schedule_wait("second").await;
            let seen = ctx.get_kv_value("seen").unwrap_or_default();
            Ok(format!("{first} {second} {}", seen.len()))
        })
        .register("sleeper", |ctx: OrchestrationContext, _: String| async move {
            ctx.schedule_timer(Duration::from_secs(8)).await;
            Ok("woke".to_owned())
        })
        .register("renderer", |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_activity("echo", input).with_tag("gpu").await
        })
        .register("parent", |ctx: OrchestrationContext, _: String| async move {
            let child = ctx
                .schedule_sub_orchestration_with_id("waiter", "child", "below")
                .await?;
            Ok(format!("child: {child}"))
        })
        .register("walker", |ctx: OrchestrationContext, input: String| async move {
            let steps: u32 = input.parse().unwrap_or(0);
            if steps < 2 {
                return ctx.continue_as_new((steps + 1).to_string()).await;
            }
            let on = ctx.schedule_activity_on_session("echo", "step", "legs").await?;
            Ok(format!("{on} {}", ctx.schedule_wait("on").await))
        })
}

fn without_gpu() -> RuntimeOptions {
    RuntimeOptions {
        worker_tag_filter: TagFilter::default_only(),
        session_lock_timeout: Duration::from_secs(2),
        worker_lock_timeout: Duration::from_secs(2),
        worker_lock_renewal_buffer: Duration::from_secs(1),
        ..options()
    }
}

/// Brings a store into the midst of its work, and leaves it.
async fn fill(store: &Store) {
    let stage = Stage::start_with(store, work(), plays(), without_gpu()).await;
    stage.begin("w", "waiter", "above").await;
    stage.begin("s", "sleeper", "").await;
    stage.begin("r", "renderer", "frame").await;
    stage.begin("p", "parent", "").await;
    stage.begin("n", "walker", "0").await;
    stage.reached("w", 1, "ExternalSubscribed").await;
    stage.client.raise_event("w", "first", "1").await.expect("raise");
    stage.reached("w", 2, "ExternalSubscribed").await;
    stage.reached("child", 1, "ExternalSubscribed").await;
    stage.reached("s", 1, "TimerCreated").await;
    stage.reached("r", 1, "ActivityScheduled").await;
    eventually("the walker's third execution waits", async || {
        let history = stage.history("n").await;
        history
            .iter()
            .any(|e| super::stage::kind_of(e) == "ExternalSubscribed")
            .then_some(())
    })
    .await;
    // One attempt of the activity that nobody takes.
    let (_, token, attempt) = stage
        .provider
        .fetch_work_item(Duration::from_secs(5), PATIENCE, None, &TagFilter::tags(["gpu"]))
        .await
        .expect("fetch")
        .expect("the activity");
    assert_eq!(attempt, 1);
    stage
        .provider
        .abandon_work_item(&token, None, false)
        .await
        .expect("abandon");
    stage.stop().await;
    // Nobody is there to take these.
    let provider = store.open().await;
    let client = duroxide::Client::new(provider);
    client
        .start_orchestration("late", "waiter", "late")
        .await
        .expect("start");
    client.raise_event("w", "second", "2").await.expect("raise");
}

/// Copies once the leases of those who left have ended; how often it was refused until then.
async fn copy_when_idle(from: &dyn Inspect, to: &dyn Inspect) -> (CopyReport, u32) {
    for refusals in 0..100 {
        match copy(from, to).await {
            Ok(report) => return (report, refusals),
            Err(CopyError::Leased { .. }) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the leases never ended");
}

/// Everything ends as it would have ended where it began.
async fn finish(store: &Store) {
    let gpu = TagFilter::tags(["gpu"]);
    let provider = store.open().await;
    let fetched = provider
        .fetch_work_item(Duration::from_secs(5), PATIENCE, None, &gpu)
        .await;
    let (_, token, attempt) = fetched.expect("fetch").expect("the activity came along");
    assert_eq!(attempt, 2, "attempts are kept");
    provider.abandon_work_item(&token, None, true).await.expect("abandon");
    let stage = Stage::start_with(
        store,
        work(),
        plays(),
        RuntimeOptions {
            worker_tag_filter: TagFilter::default_and(["gpu"]),
            ..options()
        },
    )
    .await;
    assert_eq!(stage.output("w").await, "1 2 9");
    assert_eq!(stage.output("r").await, "<frame>");
    stage.reached("late", 1, "ExternalSubscribed").await;
    for (instance, event) in [
        ("n", "on"),
        ("late", "first"),
        ("late", "second"),
        ("child", "first"),
        ("child", "second"),
    ] {
        if event == "second" {
            stage.reached(instance, 2, "ExternalSubscribed").await;
        }
        stage.client.raise_event(instance, event, "x").await.expect("raise");
    }
    assert_eq!(stage.output("n").await, "<step> x");
    assert_eq!(stage.output("late").await, "x x 9");
    assert_eq!(stage.output("p").await, "child: x x 9");
    assert_eq!(stage.output("s").await, "woke");
    let executions = stage.client.list_executions("n").await.expect("executions");
    assert_eq!(executions, [1, 2, 3]);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_store_moves_from_a_file_to_postgres_and_back() {
    let first = Store::on(Engine::Embedded, Mode::LongPoll);
    let database = Store::on(Engine::Postgres, Mode::LongPoll);
    let second = Store::on(Engine::Embedded, Mode::LongPoll);
    fill(&first).await;
    let (from, between, to) = (
        first.open_to_inspect().await,
        database.open_to_inspect().await,
        second.open_to_inspect().await,
    );
    let (there, _) = copy_when_idle(from.as_ref(), between.as_ref()).await;
    println!("file -> PostgreSQL: {there:?}");
    assert_eq!((there.instances, there.sessions, there.activities), (6, 1, 1));
    assert_eq!(there.executions, 8);
    assert!(there.key_values >= 2 && there.messages >= 3 && there.events > 20);
    let (back, refusals) = copy_when_idle(between.as_ref(), to.as_ref()).await;
    assert_eq!(refusals, 0, "leases are not carried");
    println!("PostgreSQL -> file: {back:?}");
    assert_eq!(back, there);
    finish(&second).await;
    for store in [&first, &database, &second] {
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_store_goes_on_in_postgres() {
    let file = Store::on(Engine::Embedded, Mode::LongPoll);
    let database = Store::on(Engine::Postgres, Mode::LongPoll);
    fill(&file).await;
    let (from, to) = (file.open_to_inspect().await, database.open_to_inspect().await);
    copy_when_idle(from.as_ref(), to.as_ref()).await;
    finish(&database).await;
    file.close().await;
    database.close().await;
}

async fn refuses_what_is_in_use(engine: Engine) {
    let (source, target) = (
        Store::on(Engine::Embedded, Mode::ShortPoll),
        Store::on(engine, Mode::ShortPoll),
    );
    let (from, to) = (source.open_to_inspect().await, target.open_to_inspect().await);
    duroxide::Client::new(source.open().await)
        .start_orchestration("i", "o", "")
        .await
        .expect("start");
    let (_, token, _) = from
        .fetch_orchestration_item(Duration::from_secs(30), Duration::ZERO, None)
        .await
        .expect("fetch")
        .expect("a turn");
    assert!(matches!(
        copy(from.as_ref(), to.as_ref()).await,
        Err(CopyError::Leased { side: "source", leases: 1, longest_ms }) if longest_ms > 20_000
    ));
    from.abandon_orchestration_item(&token, None, false)
        .await
        .expect("abandon");
    let first = copy(from.as_ref(), to.as_ref()).await.expect("copy");
    // A message that was tried once, of an instance that nobody has started.
    assert_eq!((first.instances, first.messages), (0, 1));
    assert!(matches!(
        copy(from.as_ref(), to.as_ref()).await,
        Err(CopyError::NotEmpty)
    ));
    let (_, _, attempt) = to
        .fetch_orchestration_item(Duration::from_secs(1), Duration::ZERO, None)
        .await
        .expect("fetch")
        .expect("the turn came along");
    assert_eq!(attempt, 2);
    source.close().await;
    target.close().await;
}

#[tokio::test]
async fn a_store_in_use_is_neither_copied_nor_filled_on_postgres() {
    refuses_what_is_in_use(Engine::Postgres).await;
}

#[tokio::test]
async fn a_store_in_use_is_neither_copied_nor_filled_in_a_file() {
    refuses_what_is_in_use(Engine::Embedded).await;
}

/// More than a page, of each kind that can be many, with payloads that fill one.
async fn pages(from: Engine, to: Engine) {
    let (source, target) = (Store::on(from, Mode::ShortPoll), Store::on(to, Mode::ShortPoll));
    let (full, empty) = (source.open_to_inspect().await, target.open_to_inspect().await);
    let client = duroxide::Client::new(source.open().await);
    let big = "ü".repeat(300_000);
    let starts = (0..2_500).map(|n| client.start_orchestration(format!("i{n}"), "o", "small"));
    for started in futures_util::future::join_all(starts).await {
        started.expect("start");
    }
    for n in 0..12 {
        client
            .start_orchestration(format!("big{n}"), "o", big.as_str())
            .await
            .expect("start");
    }
    let report = copy(full.as_ref(), empty.as_ref()).await.expect("copy");
    assert_eq!(report.messages, 2_512);
    source.close().await;
    target.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pages_go_from_a_file_to_postgres() {
    pages(Engine::Embedded, Engine::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pages_go_from_postgres_to_a_file() {
    pages(Engine::Postgres, Engine::Embedded).await;
}
