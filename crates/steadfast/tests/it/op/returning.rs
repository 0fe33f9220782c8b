//! Claims that go along with an ack for the slot that comes back, and reads that a claim vouches for: what if the slot
//! does not come back, what if something changes in between.

use std::sync::Arc;
use std::time::Duration;

use duroxide::Event;
use duroxide::providers::{Provider, TagFilter};

use super::scene::{LONG, Scene, activity, completed, started, turn, work};

/// Two activities; the first one is claimed by a caller that may wait, so that it is expected back.
async fn two_activities() -> (Scene, String) {
    let scene = Scene::open().await;
    for id in [2, 3] {
        let queued = scene.provider.enqueue_for_worker(activity("i", id)).await;
        queued.expect("queue an activity");
    }
    let (_, token, _) = work(&*scene.provider, LONG).await;
    (scene, token)
}

async fn at_once(provider: &dyn Provider) -> Option<(String, u32)> {
    let fetched = provider
        .fetch_work_item(LONG, Duration::ZERO, None, &TagFilter::default())
        .await;
    fetched.expect("fetch").map(|(_, token, attempts)| (token, attempts))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_finds_what_was_claimed_with_the_ack() {
    let (scene, token) = two_activities().await;
    let done = scene.provider.ack_work_item(&token, Some(completed("i", 2))).await;
    done.expect("acknowledge");
    let held = "SELECT count(*) FROM sf_work WHERE claim <> 0 AND attempt_count = 1";
    assert_eq!(scene.number(held, &[]).await, 1, "claimed in the same call");
    let (_, token, attempts) = work(&*scene.provider, LONG).await;
    assert_eq!(attempts, 1);
    scene.provider.ack_work_item(&token, None).await.expect("acknowledge");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_comes_for_goes_back_without_spending_an_attempt() {
    let (scene, token) = two_activities().await;
    let other = scene.another().await;
    scene.provider.ack_work_item(&token, None).await.expect("acknowledge");
    let (_, _, attempts) = work(&*other, LONG).await;
    assert_eq!(attempts, 1, "long before the lease of the claim would have ended");
    other.close().await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_wait_misses_nothing() {
    let (scene, token) = two_activities().await;
    scene.provider.ack_work_item(&token, None).await.expect("acknowledge");
    let found = at_once(&*scene.provider).await;
    assert_eq!(found.map(|(_, attempts)| attempts), Some(1));
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_gives_back_what_is_kept() {
    let (scene, token) = two_activities().await;
    let other = scene.another().await;
    scene.provider.ack_work_item(&token, None).await.expect("acknowledge");
    scene.provider.close().await;
    let found = at_once(&*other).await;
    assert_eq!(found.map(|(_, attempts)| attempts), Some(1));
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_instance_is_not_kept_for_anybody() {
    let (scene, token) = two_activities().await;
    let other = scene.another().await;
    scene.provider.ack_work_item(&token, None).await.expect("acknowledge");
    scene
        .sql()
        .await
        .batch_execute("DELETE FROM sf_work")
        .await
        .expect("cancel");
    // It may still be handed over, as if it had been a moment earlier; but its claim is void.
    let fetched = scene
        .provider
        .fetch_work_item(LONG, Duration::from_millis(100), None, &TagFilter::default())
        .await;
    if let Some((_, token, _)) = fetched.expect("a fetch is not troubled by it") {
        super::scene::assert_stale(scene.provider.ack_work_item(&token, None).await);
    }
    assert_eq!(at_once(&*scene.provider).await, None, "nobody gets it here");
    assert_eq!(at_once(&*other).await, None, "nor elsewhere");
    assert_eq!(scene.rows("sf_work").await, 0);
    other.close().await;
    scene.close().await;
}

/// An instance whose only turn has queued an activity, and that activity claimed in the task that asks.
async fn claimed_with_history(scene: &Scene) -> String {
    claimed_with_history_of(scene, "i").await
}

async fn claimed_with_history_of(scene: &Scene, instance: &str) -> String {
    let token = scene.claim_turn(instance).await;
    let activities = vec![activity(instance, 2)];
    let done = super::scene::ack_turn(&*scene.provider, &token, instance, activities, Vec::new()).await;
    done.expect("acknowledge");
    work(&*scene.provider, LONG).await.1
}

fn next_event() -> Event {
    Event {
        event_id: 2,
        ..started("i", 1)
    }
}

async fn in_a_task<F>(test: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    // What a claim vouches for belongs to the task; the body of a test is none.
    tokio::spawn(test).await.expect("the task");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_read_after_a_fetch_costs_no_call_once() {
    in_a_task(async {
        let scene = Scene::open().await;
        let sql = scene.sql().await;
        let mut vouched = 0;
        for n in 0..40 {
            let instance = format!("i{n}");
            claimed_with_history_of(&scene, &instance).await;
            // Behind the provider's back: the claim came first, and so does what it vouches for.
            sql.batch_execute("DELETE FROM sf_event").await.expect("corrupt");
            let first = scene.provider.read(&instance).await.expect("read").len();
            let second = scene.provider.read(&instance).await.expect("read").len();
            assert!(first <= 1 && second == 0, "{first}, {second}");
            // When the machine is slow, the first read asks as well; not each time.
            vouched += first;
        }
        assert!(vouched > 0, "no read was answered as of its claim");
        scene.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_task_changes_it_reads_whoever_wrote_it() {
    in_a_task(async {
        let scene = Scene::open().await;
        let other = scene.another().await;
        claimed_with_history(&scene).await;
        let appended = other.append_with_execution("i", 1, vec![next_event()]).await;
        appended.expect("append");
        assert_eq!(scene.provider.read("i").await.expect("read").len(), 2);
        other.close().await;
        scene.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_vouches_for_nothing_that_another_process_went_on_with() {
    in_a_task(async {
        let scene = Scene::open().await;
        let other = scene.another().await;
        let token = scene.claim_turn("i").await;
        let activities = vec![activity("i", 2)];
        let done = super::scene::ack_turn(&*scene.provider, &token, "i", activities, Vec::new()).await;
        done.expect("acknowledge");
        // Another process takes the next turn; then this one claims the activity.
        let sent = other
            .enqueue_for_orchestrator(super::scene::signal("i", "s"), None)
            .await;
        sent.expect("signal");
        let (_, token, _) = turn(&*other, LONG).await;
        let acked = other
            .ack_orchestration_item(
                &token,
                1,
                vec![next_event()],
                Vec::new(),
                Vec::new(),
                Default::default(),
                Vec::new(),
            )
            .await;
        acked.expect("acknowledge");
        work(&*scene.provider, LONG).await;
        assert_eq!(scene.provider.read("i").await.expect("read").len(), 2);
        other.close().await;
        scene.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_task_reads_for_itself() {
    let scene = Arc::new(Scene::open().await);
    let claiming = Arc::clone(&scene);
    in_a_task(async move {
        claimed_with_history(&claiming).await;
    })
    .await;
    scene
        .sql()
        .await
        .batch_execute("DELETE FROM sf_event")
        .await
        .expect("corrupt");
    let reading = Arc::clone(&scene);
    in_a_task(async move {
        assert_eq!(reading.provider.read("i").await.expect("read").len(), 0);
    })
    .await;
    scene.provider.close().await;
}
