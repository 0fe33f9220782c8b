//! Leases: whose clock decides, how long they last, and what they forbid when they have ended.

use std::time::Duration;

use duroxide::providers::{Provider, TagFilter, WorkItem};

use crate::op::scene::{LONG, Scene, ack_turn, activity, assert_stale, completed, signal, start, started, turn, work};

const FIVE_MINUTES_MS: i64 = 300_000;

/// The one lease in a table must have begun a moment ago by the database's clock, and last so long from there.
async fn assert_lease(scene: &Scene, table: &str, seconds: i32) {
    let sql = format!(
        "SELECT count(*) FROM {table} WHERE available_at = leased_at + $1 * interval '1 second'
             AND leased_at BETWEEN clock_timestamp() - interval '10 seconds' AND clock_timestamp()"
    );
    assert_eq!(scene.number(&sql, &[&f64::from(seconds)]).await, 1, "{table}");
}

async fn a_wrong_clock_changes_no_lease(skew_ms: i64) {
    let scene = Scene::open().await;
    let punctual = scene.another().await;
    scene.faults.set_clock_skew_ms(skew_ms);

    // A lease of the wrong clock is as long as any, and the others respect it.
    let token = scene.claim_turn("i").await;
    assert_lease(&scene, "sf_turn", 60).await;
    let stolen = punctual.fetch_orchestration_item(LONG, Duration::ZERO, None).await;
    assert!(stolen.expect("look").is_none());
    scene
        .provider
        .renew_orchestration_item_lock(&token, LONG / 2)
        .await
        .expect("renew");
    assert_lease(&scene, "sf_turn", 30).await;
    // What it makes is due at once for the others, and a delay is as long as it should be.
    let done = ack_turn(
        &*scene.provider,
        &token,
        "i",
        vec![activity("i", 2)],
        vec![signal("i", "")],
    )
    .await;
    done.expect("acknowledge");
    let (instance, token, _) = turn(&*punctual, LONG).await;
    assert_eq!(instance, "i");
    // And the wrong clock respects the leases of others.
    let stolen = scene
        .provider
        .fetch_orchestration_item(LONG, Duration::ZERO, None)
        .await;
    assert!(stolen.expect("look").is_none());
    assert_lease(&scene, "sf_turn", 60).await;
    punctual
        .abandon_orchestration_item(&token, None, true)
        .await
        .expect("abandon");

    let (_, token, _) = work(&*scene.provider, LONG).await;
    assert_lease(&scene, "sf_work", 60).await;
    let nothing = punctual
        .fetch_work_item(LONG, Duration::ZERO, None, &TagFilter::default())
        .await;
    assert!(nothing.expect("look").is_none());
    scene
        .provider
        .renew_work_item_lock(&token, LONG / 2)
        .await
        .expect("renew");
    assert_lease(&scene, "sf_work", 30).await;
    scene
        .provider
        .abandon_work_item(&token, Some(LONG), false)
        .await
        .expect("abandon");
    let soon = "SELECT count(*) FROM sf_work WHERE available_at - clock_timestamp() BETWEEN '50 s' AND '60 s'";
    assert_eq!(scene.number(soon, &[]).await, 1);

    let sent = scene
        .provider
        .enqueue_for_orchestrator(start("later"), Some(LONG))
        .await;
    sent.expect("start later");
    let soon = "SELECT count(*) FROM sf_inbox WHERE instance_id = 'later'
                    AND visible_at - clock_timestamp() BETWEEN '50 s' AND '60 s'";
    assert_eq!(scene.number(soon, &[]).await, 1);

    // All that it does change: when its own timers are due.
    let fire_at_ms = scene
        .number("SELECT extract(epoch FROM clock_timestamp())::bigint * 1000", &[])
        .await;
    let timer = WorkItem::TimerFired {
        instance: "i".to_owned(),
        execution_id: 1,
        id: 3,
        fire_at_ms: fire_at_ms.unsigned_abs(),
    };
    let (_, token, _) = turn(&*scene.provider, LONG).await;
    let history = vec![duroxide::Event {
        event_id: 9,
        ..started("i", 1)
    }];
    let done = scene.provider.ack_orchestration_item(
        &token,
        1,
        history,
        Vec::new(),
        vec![timer],
        Default::default(),
        Vec::new(),
    );
    done.await.expect("acknowledge");
    // What is due already may have been looked at for a slot that was expected back.
    let due = "SELECT count(*) FROM (SELECT kind, visible_at FROM sf_inbox UNION ALL SELECT kind, visible_at FROM sf_message) m
               WHERE kind = 4 AND visible_at = to_timestamp($1::bigint / 1000.0)";
    assert_eq!(scene.number(due, &[&(fire_at_ms + skew_ms)]).await, 1);
    punctual.close().await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_04_a_clock_that_is_fast_changes_no_lease() {
    a_wrong_clock_changes_no_lease(FIVE_MINUTES_MS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_04_a_clock_that_is_slow_changes_no_lease() {
    a_wrong_clock_changes_no_lease(-FIVE_MINUTES_MS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_05_events_can_be_appended() {
    let scene = Scene::open().await;
    scene
        .provider
        .append_with_execution("i", 1, vec![started("i", 1)])
        .await
        .expect("append");
    let history = scene.provider.read_with_execution("i", 1).await.expect("read");
    assert_eq!(history.iter().map(|event| event.event_id).collect::<Vec<_>>(), [1]);
    scene.make("made").await;
    let more = duroxide::Event {
        event_id: 2,
        ..started("made", 1)
    };
    scene
        .provider
        .append_with_execution("made", 1, vec![more])
        .await
        .expect("append");
    assert_eq!(scene.provider.read("made").await.expect("read").len(), 2);
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_05_no_lease_is_born_expired() {
    let scene = Scene::open().await;
    scene.claim_turn("i").await;
    assert_lease(&scene, "sf_turn", 60).await;
    scene.claim_work("i").await;
    assert_lease(&scene, "sf_work", 60).await;
    // A waiter that has waited longer than its lease gets a whole one.
    let waiter = scene.another().await;
    let waiting = tokio::spawn(async move { work(&*waiter, Duration::from_secs(2)).await });
    tokio::time::sleep(Duration::from_millis(2500)).await;
    scene
        .provider
        .enqueue_for_worker(activity("i", 3))
        .await
        .expect("queue");
    let (_, token, _) = waiting.await.expect("no panic");
    scene
        .provider
        .ack_work_item(&token, None)
        .await
        .expect("the lease lives");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_05_an_ack_cannot_commit_after_a_takeover() {
    const SHORT: Duration = Duration::from_millis(400);
    let scene = Scene::open().await;
    let other = scene.another().await;
    scene
        .provider
        .enqueue_for_orchestrator(start("i"), None)
        .await
        .expect("start");
    scene
        .provider
        .enqueue_for_worker(activity("j", 2))
        .await
        .expect("queue");
    let (_, turn_token, _) = turn(&*scene.provider, SHORT).await;
    let (_, work_token, _) = work(&*scene.provider, SHORT).await;
    let (instance, turn_heir, attempts) = turn(&*other, LONG).await;
    assert_eq!((instance.as_str(), attempts), ("i", 2));
    let (instance, work_heir, attempts) = work(&*other, LONG).await;
    assert_eq!((instance.as_str(), attempts), ("j", 2));

    let late = &scene.provider;
    assert_stale(ack_turn(&**late, &turn_token, "i", vec![activity("i", 2)], Vec::new()).await);
    assert_stale(late.renew_orchestration_item_lock(&turn_token, LONG).await);
    assert_stale(late.abandon_orchestration_item(&turn_token, None, false).await);
    assert_stale(late.ack_work_item(&work_token, Some(completed("j", 2))).await);
    assert_stale(late.renew_work_item_lock(&work_token, LONG).await);
    assert_stale(late.abandon_work_item(&work_token, None, false).await);
    assert_eq!((scene.rows("sf_event").await, scene.rows("sf_inbox").await), (0, 0));

    ack_turn(&*other, &turn_heir, "i", Vec::new(), Vec::new())
        .await
        .expect("the heir's turn");
    other
        .ack_work_item(&work_heir, Some(completed("j", 2)))
        .await
        .expect("the heir's activity");
    other.close().await;
    scene.close().await;
}

/// The ack began in time and has waited for a row until its lease was over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_05_an_ack_that_waited_past_its_lease_is_refused() {
    let scene = Scene::open().await;
    scene
        .provider
        .enqueue_for_orchestrator(start("i"), None)
        .await
        .expect("start");
    let (_, token, _) = turn(&*scene.provider, Duration::from_millis(800)).await;
    let mut holder = scene.sql().await;
    let held = holder.transaction().await.expect("begin");
    held.execute("SELECT FROM sf_instance FOR UPDATE", &[])
        .await
        .expect("hold the row");
    let provider = scene.provider.clone();
    let late = tokio::spawn(async move { ack_turn(&*provider, &token, "i", Vec::new(), Vec::new()).await });
    tokio::time::sleep(Duration::from_millis(1000)).await;
    held.rollback().await.expect("let go");
    let refused = late.await.expect("no panic").expect_err("the lease is over");
    println!("{refused:?}");
    assert_eq!(scene.rows("sf_event").await, 0);
    let (_, heir, attempts) = turn(&*scene.provider, LONG).await;
    assert_eq!(attempts, 2);
    ack_turn(&*scene.provider, &heir, "i", Vec::new(), Vec::new())
        .await
        .expect("the heir's turn");
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_05_a_renewal_counts_from_now() {
    let scene = Scene::open().await;
    let (turn_token, work_token) = (scene.claim_turn("i").await, scene.claim_work("j").await);
    // Shorter than what is left, then longer.
    for seconds in [5, 90] {
        let extend = Duration::from_secs(seconds);
        scene
            .provider
            .renew_orchestration_item_lock(&turn_token, extend)
            .await
            .expect("renew");
        scene
            .provider
            .renew_work_item_lock(&work_token, extend)
            .await
            .expect("renew");
        let seconds = i32::try_from(seconds).expect("small");
        assert_lease(&scene, "sf_turn", seconds).await;
        assert_lease(&scene, "sf_work", seconds).await;
    }
    scene.close().await;
}
