//! Claims beside dead rows that cannot be removed, because a transaction is open elsewhere: what a look from the floor costs,
//! and that what comes in front of the floor is found all the same.

use std::time::Duration;

use duroxide::providers::{Provider, TagFilter};
use tokio_postgres::Client;

use super::defects::cost::pages;
use super::scene::{LONG, SOON, Scene, activity, start, turn, work};

const DEAD: i64 = 150_000;
/// The beginning of a look that sees next to nothing of it, in µs of the epoch.
const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Looks of one waiter, without the end of the call: where they begin may follow.
const WORK: &str = "sf_fetch_work_item(gen_random_uuid(), false, 1, 1, 60000, NULL, NULL, 0, 1";
const TURN: &str =
    "sf_fetch_orchestration_item(gen_random_uuid(), false, 1, 1, 60000, NULL, NULL, 1, '{}', 1000, 1000000";

/// A database of its own, with a transaction that stays open, and dead rows that it keeps.
async fn held() -> (Scene, Client) {
    let scene = Scene::secluded().await;
    scene.make("crowd").await;
    let holder = scene.sql().await;
    // Without a transaction id: that would hold dead rows in the databases of other tests as well.
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM sf_instance";
    holder.batch_execute(begin).await.expect("hold a transaction open");
    // As of items that were taken before their time, and of leases, short and long, that ended before theirs.
    let at = format!(
        "now() + CASE g % 3 WHEN 0 THEN interval '-1 minute' WHEN 1 THEN g * interval '30 seconds' / {DEAD}
                 ELSE interval '4 minutes' END"
    );
    let crowds = format!(
        "INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, available_at, payload)
         SELECT 1, 1, g, '', {at}, 'w' FROM generate_series(1, {DEAD}) g;
         DELETE FROM sf_work;
         INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
         SELECT 'crowd', now() - interval '1 minute', 7, 'm' FROM generate_series(1, {DEAD}) g;
         DELETE FROM sf_inbox;
         INSERT INTO sf_turn (instance_key, lane, available_at)
         SELECT -g, 0, {at} FROM generate_series(1, {DEAD}) g;
         DELETE FROM sf_turn"
    );
    scene.sql().await.batch_execute(&crowds).await.expect("make a crowd");
    (scene, holder)
}

/// It says what raises the floor: without that the tests below would show nothing.
async fn assert_reads_much(scene: &Scene, look: &str) {
    let much = format!("SELECT count(look_us) FROM {look}) WHERE instance_key IS NULL");
    assert_eq!(scene.number(&much, &[]).await, 1, "{look}");
}

#[tokio::test]
async fn a_look_from_the_floor_passes_no_dead_rows() {
    let (scene, holder) = held().await;
    for (look, known) in [(WORK, "{\"\"}"), (TURN, "{0}")] {
        let whole = pages(&scene, &format!("SELECT * FROM {look})")).await;
        let part = pages(&scene, &format!("SELECT * FROM {look}, {NOW}, '{known}')")).await;
        println!("{whole} pages, {part} from the floor");
        assert!(whole > 1000, "the dead rows are in the way: {whole} pages");
        // It looks ahead for half a millisecond, past as many as that may be.
        assert!(part < whole / 8, "{part} pages from the floor, {whole} altogether");
    }
    drop(holder);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activity_in_front_of_the_floor_is_found() {
    let (scene, holder) = held().await;
    let provider = &*scene.provider;
    // Looks that read much, one after the other, raise the floor.
    for id in 10..26 {
        provider.enqueue_for_worker(activity("crowd", id)).await.expect("queue");
        work(provider, LONG).await;
    }
    assert_reads_much(&scene, WORK).await;
    // As of a transaction that committed long after its rows were due.
    let late = "INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, available_at, payload)
        SELECT i.instance_key, 1, g, '', now() - interval '10 minutes', convert_to($1, 'UTF8')
        FROM sf_instance i, generate_series(100, 119) g WHERE i.instance_id = 'crowd'";
    let payload = serde_json::to_string(&activity("crowd", 99)).expect("an item");
    let sql = scene.sql().await;
    sql.execute(late, &[&payload]).await.expect("commit late");
    // Those who come for one at a time do not pass over the others.
    let all = async {
        for _ in 0..20 {
            work(provider, LONG).await;
        }
    };
    tokio::time::timeout(SOON, all).await.expect("all of them in time");
    sql.execute(late, &[&payload]).await.expect("commit late");
    let at_once = provider
        .fetch_work_item(LONG, Duration::ZERO, None, &TagFilter::default())
        .await;
    assert!(at_once.expect("fetch").is_some(), "who may not wait sees everything");
    drop(holder);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_in_front_of_the_floor_is_found() {
    let (scene, holder) = held().await;
    let provider = &*scene.provider;
    let mut tokens = Vec::new();
    for n in 0..16 {
        let id = format!("i{n}");
        provider
            .enqueue_for_orchestrator(start(&id), None)
            .await
            .expect("start");
        let (instance, token, _) = turn(provider, LONG).await;
        assert_eq!(instance, id);
        tokens.push(token);
    }
    assert_reads_much(&scene, TURN).await;
    // Given back, its messages are as old as they were.
    let old = "UPDATE sf_message SET visible_at = visible_at - interval '10 minutes'";
    scene.sql().await.batch_execute(old).await.expect("age the messages");
    for token in &tokens {
        let given = provider.abandon_orchestration_item(token, None, true).await;
        given.expect("give back");
    }
    // As of a transaction that committed long after its rows were due.
    let old = "UPDATE sf_turn SET available_at = available_at - interval '10 minutes'";
    scene.sql().await.batch_execute(old).await.expect("age the turns");
    for _ in &tokens[1..] {
        turn(provider, SOON).await;
    }
    let at_once = provider.fetch_orchestration_item(LONG, Duration::ZERO, None).await;
    assert!(at_once.expect("fetch").is_some(), "who may not wait sees everything");
    drop(holder);
    scene.close().await;
}

/// What another call holds, and may give back, stays behind the floor that a look sets meanwhile.
#[tokio::test]
async fn a_row_that_is_locked_for_a_moment_is_not_passed_over() {
    let (scene, holder) = held().await;
    scene.make("i").await;
    let old = "INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, available_at, payload)
        SELECT i.instance_key, 1, 1, '', now() - interval '30 seconds', 'w' FROM sf_instance i WHERE i.instance_id = 'i';
        INSERT INTO sf_turn (instance_key, lane, available_at)
        SELECT i.instance_key, 0, now() - interval '30 seconds' FROM sf_instance i WHERE i.instance_id = 'i'";
    scene.sql().await.batch_execute(old).await.expect("something due");
    let mut taker = scene.sql().await;
    let taking = taker.transaction().await.expect("begin");
    let take = "SELECT FROM sf_work FOR UPDATE; SELECT FROM sf_instance WHERE instance_id = 'i' FOR UPDATE";
    taking.batch_execute(take).await.expect("lock them");
    for look in [WORK, TURN] {
        let sql = format!(
            "SELECT {NOW} - since_us, busy FROM {look}, 0) WHERE instance_key IS NULL AND since_us IS NOT NULL"
        );
        let row = scene.sql().await.query_one(&sql, &[]).await.expect("nothing to be had");
        let (behind_us, busy): (i64, bool) = (row.get(0), row.get(1));
        assert!(behind_us >= 30_000_000, "{look}: {behind_us} µs");
        assert!(busy, "{look}: worth another look");
    }
    drop((taking, holder));
    scene.close().await;
}
