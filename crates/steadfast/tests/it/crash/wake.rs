//! Wake-ups across processes: work made in one reaches sleepers in another, also when hints or listeners are lost.

use std::time::{Duration, Instant};

use duroxide::providers::Provider;
use steadfast::postgres::{ListenerState, LongPoll};

use super::child::{Orders, Process};
use crate::harness::database_url;
use crate::op::scene::{LONG, Scene, activity, start, turn, work};

/// Much less than the fallback interval that would find the work in any case.
const WELL_BEFORE: Duration = Duration::from_secs(5);
const RARE: Duration = Duration::from_secs(60);

fn orders(scene: &Scene, role: &'static str, fallback: Duration) -> Orders {
    Orders {
        role,
        url: database_url(),
        schema: scene.schema.clone(),
        lease: LONG,
        fallback,
        seed: 0,
    }
}

/// Returns when another connection says that it waits for so many queues of this schema: an advisory lock each.
async fn sleeping(scene: &Scene, queues: i64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let sql = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND l.mode = 'ShareLock' AND l.objsubid = 2 AND l.granted
          AND l.classid = $1::bigint::oid";
    let digest = sha2_of(&format!("\"{}\"", scene.schema));
    let class = i64::from(u32::from_be_bytes([digest[12], digest[13], digest[14], digest[15]]));
    while scene.number(sql, &[&class]).await < queues {
        assert!(Instant::now() < deadline, "nobody sleeps");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn sha2_of(text: &str) -> Vec<u8> {
    use sha2::Digest;
    sha2::Sha256::digest(text.as_bytes()).to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_made_in_one_process_wakes_a_sleeper_in_another() {
    let scene = Scene::open().await;
    let mut child = Process::start(&orders(&scene, "waiter", RARE));
    sleeping(&scene, 2).await;
    scene
        .provider
        .enqueue_for_orchestrator(start("i"), None)
        .await
        .expect("start");
    child.line("turn i", WELL_BEFORE).await;
    scene
        .provider
        .enqueue_for_worker(activity("w", 2))
        .await
        .expect("queue");
    child.line("work", WELL_BEFORE).await;
    child.done().await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delayed_work_wakes_a_sleeper_in_another_process() {
    const DELAY: Duration = Duration::from_secs(2);
    let scene = Scene::open().await;
    let mut child = Process::start(&orders(&scene, "waiter", RARE));
    sleeping(&scene, 2).await;
    scene
        .provider
        .enqueue_for_orchestrator(start("i"), Some(DELAY))
        .await
        .expect("start");
    child.line("turn i", DELAY + WELL_BEFORE).await;
    scene
        .provider
        .enqueue_for_worker(activity("w", 2))
        .await
        .expect("queue");
    child.line("work", WELL_BEFORE).await;
    child.done().await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_hint_costs_no_more_than_the_fallback_interval() {
    const FALLBACK: Duration = Duration::from_secs(2);
    let scene = Scene::open().await;
    let mut child = Process::start(&orders(&scene, "deaf", FALLBACK));
    sleeping(&scene, 2).await;
    scene
        .provider
        .enqueue_for_orchestrator(start("i"), None)
        .await
        .expect("start");
    scene
        .provider
        .enqueue_for_worker(activity("w", 2))
        .await
        .expect("queue");
    child.line("turn i", FALLBACK + WELL_BEFORE).await;
    child.line("work", WELL_BEFORE).await;
    child.done().await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wake_ups_go_on_after_the_listener_was_lost() {
    let scene = Scene::open().await;
    let maker = scene.another().await;
    for round in 0..3 {
        let sleeper = scene.provider.clone();
        let turns = tokio::spawn(async move { turn(&*sleeper, LONG).await.0 });
        let sleeper = scene.provider.clone();
        let works = tokio::spawn(async move { work(&*sleeper, LONG).await.0 });
        sleeping(&scene, 2).await;
        scene.faults.drop_listener();
        if round == 1 {
            // Another time it is not only lost but back again: it has to be noticed first.
            let deadline = Instant::now() + WELL_BEFORE;
            while scene.provider.health().listener == ListenerState::Listening {
                assert!(Instant::now() < deadline, "the loss is never noticed");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            sleeping(&scene, 2).await;
        }
        let name = format!("i{round}");
        maker.enqueue_for_orchestrator(start(&name), None).await.expect("start");
        maker.enqueue_for_worker(activity(&name, 2)).await.expect("queue");
        let both = async { (turns.await.expect("no panic"), works.await.expect("no panic")) };
        let woken = tokio::time::timeout(WELL_BEFORE, both)
            .await
            .expect("the sleepers wake well before the fallback");
        assert_eq!(woken, (name.clone(), name));
    }
    maker.close().await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_listener_comes_back() {
    let scene = Scene::open().await;
    let maker = scene.another().await;
    let sleeper = scene.provider.clone();
    let turns = tokio::spawn(async move { turn(&*sleeper, LONG).await.0 });
    sleeping(&scene, 1).await;
    let digest = sha2_of(&format!("\"{}\"", scene.schema));
    let class = i64::from(u32::from_be_bytes([digest[12], digest[13], digest[14], digest[15]]));
    let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks
        WHERE locktype = 'advisory' AND mode = 'ShareLock' AND classid = $1::bigint::oid";
    assert_eq!(scene.number(terminate, &[&class]).await, 1);
    maker.enqueue_for_orchestrator(start("i"), None).await.expect("start");
    let woken = tokio::time::timeout(WELL_BEFORE, turns)
        .await
        .expect("well before the fallback");
    assert_eq!(woken.expect("no panic"), "i");
    maker.close().await;
    scene.close().await;
}

/// Found dry before, nobody has waited here for a while, and others make work meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_known_of_a_queue_is_forgotten_while_nobody_waits() {
    let scene = Scene::open().await;
    let maker = scene.another().await;
    for poll in [Duration::ZERO, Duration::from_millis(300)] {
        let nothing = scene.provider.fetch_orchestration_item(LONG, poll, None).await;
        assert!(nothing.expect("look").is_none());
        // Long enough for the others to be told that nobody waits.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let name = format!("i{}", poll.as_millis());
        maker.enqueue_for_orchestrator(start(&name), None).await.expect("start");
        let found = tokio::time::timeout(WELL_BEFORE, turn(&*scene.provider, LONG)).await;
        assert_eq!(found.expect("found well before the fallback").0, name);
    }
    maker.close().await;
    scene.close().await;
}

/// Without hints at all, polling finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_listening_is_impossible_polling_finds_the_work() {
    let scene = Scene::with(&database_url(), |builder| {
        builder.long_poll(LongPoll {
            listen: false,
            fallback_poll_interval: RARE,
            ..LongPoll::default()
        })
    })
    .await;
    let maker = scene.another().await;
    let sleeper = scene.provider.clone();
    let turns = tokio::spawn(async move { turn(&*sleeper, LONG).await.0 });
    tokio::time::sleep(Duration::from_secs(2)).await;
    maker.enqueue_for_orchestrator(start("i"), None).await.expect("start");
    let woken = tokio::time::timeout(WELL_BEFORE, turns)
        .await
        .expect("well before the fallback");
    assert_eq!(woken.expect("no panic"), "i");
    assert_eq!(scene.provider.health().listener, ListenerState::Polling);
    maker.close().await;
    scene.close().await;
}
