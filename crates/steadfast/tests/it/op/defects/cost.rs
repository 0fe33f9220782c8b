//! What others leave in the queues costs a claim nothing, counted in the pages that it touches.

use duroxide::providers::{DispatcherCapabilityFilter, Provider, ProviderAdmin, SemverRange, TagFilter};

use crate::op::scene::{LONG, Scene, activity, signal, start, turn, work};

const MANY: i64 = 50_000;

/// Pages touched by a statement that is rolled back.
pub(crate) async fn pages(scene: &Scene, sql: &str) -> i64 {
    let mut client = scene.sql().await;
    let mut fewest = i64::MAX;
    // The first time reads the catalogue, and so does any after another test has changed it.
    for _ in 0..6 {
        let transaction = client.transaction().await.expect("begin");
        let plan = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}");

        let messages = transaction.simple_query(&plan).await.expect("explain");
        let text: String = messages
            .iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(ToOwned::to_owned),
                _ => None,
            })
            .collect();
        let plan: serde_json::Value = serde_json::from_str(&text).expect("a plan is JSON");
        let of = |key: &str| plan[0]["Plan"][key].as_i64().expect("pages are counted");
        fewest = fewest.min(of("Shared Hit Blocks") + of("Shared Read Blocks"));
        transaction.rollback().await.expect("roll back");
    }
    fewest
}

const TURN: &str = "SELECT * FROM sf_fetch_orchestration_item(
    gen_random_uuid(), false, 1, 1, 60000, NULL, NULL, 1, '{}', 1000, 1000000)";

async fn turn_pages(scene: &Scene) -> i64 {
    pages(scene, TURN).await
}

async fn work_pages(scene: &Scene) -> i64 {
    let sql = "SELECT * FROM sf_fetch_work_item(gen_random_uuid(), false, 1, 1, 60000, '{\"\"}', NULL, 0, 1)";
    pages(scene, sql).await
}

/// Waits until no transaction is open, in any database of the server, that was open when it was called: another test's
/// keeps the dead rows of this one.
async fn nobody_remembers(scene: &Scene) {
    let now = scene.number("SELECT pg_current_xact_id()::text::bigint", &[]).await;
    let oldest = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
    let began = std::time::Instant::now();
    while scene.number(oldest, &[]).await <= now {
        let waited = began.elapsed();
        assert!(waited.as_secs() < 120, "a transaction is open since {waited:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Pages touched once the table is vacuumed, which other tests' snapshots may hinder for a moment.
async fn vacuumed_pages(scene: &Scene, sql: &str, enough: i64) -> i64 {
    nobody_remembers(scene).await;
    let mut fewest = i64::MAX;
    for _ in 0..20 {
        let vacuumed = scene.sql().await.batch_execute("VACUUM sf_inbox").await;
        vacuumed.expect("vacuum");
        fewest = fewest.min(pages(scene, sql).await);
        if fewest <= enough {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    fewest
}

/// No more than half again as many, and a few for the deeper indexes.
fn assert_as_cheap(what: &str, before: i64, after: i64) {
    println!("{what}: {before} pages, then {after}");
    assert!(
        after <= before + before / 2 + 16,
        "{what}: {before} pages, then {after}"
    );
}

async fn fill(scene: &Scene, sql: &str) {
    let client = scene.sql().await;
    let rows = client
        .execute(sql, &[&MANY])
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(rows, MANY.unsigned_abs());
}

/// A turn and an activity that anybody may take.
async fn something_to_do(scene: &Scene) {
    scene
        .provider
        .enqueue_for_orchestrator(start("due"), None)
        .await
        .expect("start");
    scene
        .provider
        .enqueue_for_worker(activity("due", 2))
        .await
        .expect("queue");
}

async fn assert_both_are_had(scene: &Scene) {
    assert_eq!(turn(&*scene.provider, LONG).await.0, "due");
    assert_eq!(work(&*scene.provider, LONG).await.0, "due");
}

/// Rows that are put beside what is due, by raw SQL, must not be felt.
async fn costs_nothing(what: &str, sql: &str) {
    let scene = Scene::secluded().await;
    scene.make("filler").await;
    something_to_do(&scene).await;
    let before = (turn_pages(&scene).await, work_pages(&scene).await);
    fill(&scene, sql).await;
    assert_as_cheap(&format!("turns beside {what}"), before.0, turn_pages(&scene).await);
    assert_as_cheap(&format!("work beside {what}"), before.1, work_pages(&scene).await);
    assert_both_are_had(&scene).await;
    let nothing = scene
        .provider
        .fetch_work_item(LONG, std::time::Duration::ZERO, None, &TagFilter::default())
        .await;
    assert!(nothing.expect("look").is_none());
    scene.close().await;
}

const WORK: &str = "INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, available_at, payload)
    SELECT i.instance_key, 1, n, TAG, DUE, 'x' FROM generate_series(1, $1::bigint) n, sf_instance i
    WHERE i.instance_id = 'filler'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_07_foreign_tags_cost_nothing() {
    let past = "clock_timestamp() - interval '1 hour'";
    costs_nothing("foreign tags", &WORK.replace("TAG", "'=foreign'").replace("DUE", past)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_07_leased_and_delayed_activities_cost_nothing() {
    let future = "clock_timestamp() + interval '1 hour'";
    costs_nothing("delayed activities", &WORK.replace("TAG", "''").replace("DUE", future)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_07_future_timers_cost_nothing() {
    let sql = "INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
        SELECT 'filler', clock_timestamp() + interval '1 hour', 4, 'x' FROM generate_series(1, $1::bigint)";
    costs_nothing("future timers", sql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_07_sessions_of_others_cost_nothing() {
    let scene = Scene::secluded().await;
    scene.make("filler").await;
    something_to_do(&scene).await;
    let claim = "SELECT * FROM sf_fetch_work_item(
        gen_random_uuid(), false, 1, 1, 60000, '{\"\"}', '{me}', 60000, 1)";
    let session = "INSERT INTO sf_session VALUES ('theirs', 'them', clock_timestamp() + interval '1 hour')";
    scene.sql().await.batch_execute(session).await.expect("a session");
    let before = pages(&scene, claim).await;
    let sql = "INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, session_key, available_at, payload)
        SELECT i.instance_key, 1, n, '', 'theirs', clock_timestamp() - interval '1 hour', 'x'
        FROM generate_series(1, $1::bigint) n, sf_instance i WHERE i.instance_id = 'filler'";
    fill(&scene, sql).await;
    assert_as_cheap("sessions of others", before, pages(&scene, claim).await);
    assert_both_are_had(&scene).await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_07_messages_of_a_locked_instance_cost_nothing() {
    let scene = Scene::secluded().await;
    let token = scene.claim_turn("locked").await;
    something_to_do(&scene).await;
    let before = turn_pages(&scene).await;
    // Before what is due: every claim has to get past them.
    let sql = "INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
        SELECT 'locked', clock_timestamp() - interval '1 hour', 7, 'x' FROM generate_series(1, $1::bigint)";
    fill(&scene, sql).await;
    // Whoever comes first clears the way, and is served.
    assert_eq!(turn(&*scene.provider, LONG).await.0, "due");
    scene
        .provider
        .enqueue_for_orchestrator(start("next"), None)
        .await
        .expect("start");
    nobody_remembers(&scene).await;
    let soon = turn_pages(&scene).await;
    println!("at once, before any vacuum: {soon} pages");
    assert!(soon < 1_000, "{soon} pages");
    let after = vacuumed_pages(&scene, TURN, before + before / 2).await;
    assert_as_cheap("messages of a locked instance", before, after);
    assert_eq!(turn(&*scene.provider, LONG).await.0, "next");
    // They are not lost: the instance gets them, in bounded portions.
    assert_eq!(
        scene
            .number("SELECT count(*) FROM sf_message WHERE kind = 7", &[])
            .await,
        MANY
    );
    scene
        .provider
        .renew_orchestration_item_lock(&token, LONG)
        .await
        .expect("still leased");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_07_messages_of_an_incompatible_version_cost_nothing() {
    let scene = Scene::secluded().await;
    scene.make("filler").await;
    something_to_do(&scene).await;
    let claim = "SELECT * FROM sf_fetch_orchestration_item(
        gen_random_uuid(), false, 1, 1, 60000, 1, 1000, 1, '{}', 1000, 1000000)";
    // One instance for each message, all pinned to a version that this dispatcher does not run.
    let sql = "INSERT INTO sf_instance (instance_id, orchestration_name, replay_version)
        SELECT 'p' || n, 'trial', 5000 FROM generate_series(1, $1::bigint) n";
    fill(&scene, sql).await;
    let sql = "INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
        SELECT 'p' || n, clock_timestamp() - interval '1 hour', 7, 'x' FROM generate_series(1, $1::bigint) n";
    // Less than a page of them stays where it is: with 50,000 it costs what it costs with 71.
    scene.sql().await.execute(sql, &[&71i64]).await.expect("a few");
    let before = pages(&scene, claim).await;
    fill(&scene, sql).await;
    // Less than a page of them stays where it is.
    let client = scene.sql().await;
    let mut claims = 0;
    while scene
        .number("SELECT count(*) FROM sf_inbox WHERE instance_id <> 'due'", &[])
        .await
        >= 72
    {
        client.query(claim, &[]).await.expect("claim");
        claims += 1;
        assert!(claims <= 2 + MANY / 50, "the way is never cleared");
    }
    println!("{claims} claims cleared the way");
    scene
        .provider
        .enqueue_for_orchestrator(signal("filler", ""), None)
        .await
        .expect("signal");
    assert_as_cheap(
        "messages of an incompatible version",
        before,
        vacuumed_pages(&scene, claim, before).await,
    );
    scene.close().await;
}

/// A dispatcher gets past them by itself, soon, and is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_07_messages_of_an_incompatible_version_hide_nothing() {
    let scene = Scene::secluded().await;
    let sql = "INSERT INTO sf_instance (instance_id, orchestration_name, replay_version)
        SELECT 'p' || n, 'trial', 5000 FROM generate_series(1, $1::bigint) n";
    fill(&scene, sql).await;
    let sql = "INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
        SELECT 'p' || n, clock_timestamp() - interval '1 hour', 7, 'x' FROM generate_series(1, $1::bigint) n";
    fill(&scene, sql).await;
    scene
        .provider
        .enqueue_for_orchestrator(start("due"), None)
        .await
        .expect("start");
    let range = SemverRange::new(semver::Version::new(0, 1, 0), semver::Version::new(0, 2, 0));
    let filter = DispatcherCapabilityFilter {
        supported_duroxide_versions: vec![range],
    };
    let began = std::time::Instant::now();
    let fetched = scene.provider.fetch_orchestration_item(LONG, LONG, Some(&filter)).await;
    println!(
        "found after {:?}, {} messages left",
        began.elapsed(),
        scene.rows("sf_inbox").await
    );
    let (item, _, _) = fetched.expect("fetch").expect("the one that is due");
    assert_eq!(item.instance, "due");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_08_system_metrics_do_not_scan_a_big_history() {
    let scene = Scene::secluded().await;
    scene.make("i").await;
    let metrics = scene.provider.get_system_metrics().await.expect("metrics");
    assert_eq!(
        (metrics.total_instances, metrics.total_executions, metrics.total_events),
        (1, 1, 1)
    );
    let sql = "INSERT INTO sf_event (instance_key, execution_id, event_id, kind, payload)
        SELECT i.instance_key, 1, n + $1::bigint * ROUND, 0, repeat('x', 100)::bytea
        FROM generate_series(2, $1::bigint + 1) n, sf_instance i";
    let ask = "SELECT * FROM sf_system_metrics()";
    let mut seen = Vec::new();
    for round in 0..8 {
        fill(&scene, &sql.replace("ROUND", &round.to_string())).await;
        seen.push(pages(&scene, ask).await);
    }
    println!("pages for each 50,000 events more: {seen:?}");
    assert_as_cheap("metrics of 400,000 events instead of 150,000", seen[2], seen[7]);
    let metrics = scene.provider.get_system_metrics().await.expect("metrics");
    assert!(metrics.total_events >= 100_000, "{metrics:?}");
    scene.close().await;
}
