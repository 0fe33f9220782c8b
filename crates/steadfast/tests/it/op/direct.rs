//! Claims of just what a call makes, for those who sleep here: who gets it, and what if the answer is lost, or if it is for
//! somebody else.

use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::{Provider, TagFilter, WorkItem};
use steadfast::postgres::PostgresProvider;

use super::scene::{LONG, SOON, Scene, ack_turn, activity, assert_stale, completed, signal, turn, work};
use crate::harness::database_url;
use crate::proxy::{Fault, Proxy, Sprung};

const HANDED: &str = ".sf_handed_work(";
const CLAIMED: &str = ".sf_claim_instances(";
/// Long enough to look once and fall asleep.
const ASLEEP: Duration = Duration::from_millis(400);

struct Line {
    scene: Scene,
    proxy: Proxy,
}

impl Line {
    async fn open() -> Self {
        let proxy = Proxy::start(&database_url()).await;
        let scene = Scene::with(&proxy.url(&database_url()), |builder| builder).await;
        Self { scene, proxy }
    }

    fn provider(&self) -> Arc<PostgresProvider> {
        Arc::clone(&self.scene.provider)
    }

    /// The call was lost as it should have been, or else it was made once.
    fn assert_called(&self, pattern: &str, lost: Option<&Sprung>) {
        match lost {
            Some(lost) => assert!(lost.happened(), "nothing was lost"),
            None => assert_eq!(self.proxy.executed(pattern), 1, "in the same call"),
        }
    }

    /// A worker that has looked, found nothing, and sleeps.
    async fn worker(&self) -> tokio::task::JoinHandle<(String, String, u32)> {
        let provider = self.provider();
        let task = tokio::spawn(async move { work(&*provider, LONG).await });
        tokio::time::sleep(ASLEEP).await;
        task
    }

    /// A dispatcher that does.
    async fn dispatcher(&self) -> tokio::task::JoinHandle<(String, String, u32)> {
        let provider = self.provider();
        let task = tokio::spawn(async move { turn(&*provider, LONG).await });
        tokio::time::sleep(ASLEEP).await;
        task
    }
}

fn tagged(id: u64, tag: &str) -> WorkItem {
    match activity("i", id) {
        WorkItem::ActivityExecute {
            instance,
            execution_id,
            id,
            name,
            input,
            session_id,
            ..
        } => WorkItem::ActivityExecute {
            instance,
            execution_id,
            id,
            name,
            input,
            session_id,
            tag: Some(tag.to_owned()),
        },
        other => other,
    }
}

async fn hand(fault: Option<Fault>) {
    let line = Line::open().await;
    let token = line.scene.claim_turn("i").await;
    let first = line.worker().await;
    let second = line.worker().await;
    let lost = fault.map(|fault| line.proxy.once(HANDED, fault));
    let activities = (2..5).map(|id| activity("i", id)).collect();
    let acked = ack_turn(&*line.scene.provider, &token, "i", activities, Vec::new()).await;
    acked.expect("acknowledge");
    let mut tokens = Vec::new();
    for task in [first, second] {
        let (instance, token, attempts) = task.await.expect("a worker");
        assert_eq!((instance.as_str(), attempts), ("i", 1));
        tokens.push(token);
    }
    line.assert_called(HANDED, lost.as_ref());
    // The third was for nobody who slept here.
    let (_, token, attempts) = work(&*line.scene.provider, LONG).await;
    assert_eq!(attempts, 1);
    tokens.push(token);
    for (token, id) in tokens.iter().zip(2..) {
        let done = line.scene.provider.ack_work_item(token, Some(completed("i", id))).await;
        done.expect("acknowledge an activity");
        assert_stale(line.scene.provider.ack_work_item(token, None).await);
    }
    assert_eq!(line.scene.rows("sf_work").await, 0);
    line.scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sleeping_workers_are_handed_what_a_turn_queues() {
    hand(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_handed_is_found_when_the_answer_is_lost() {
    hand(Some(Fault::DropAnswer)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_to_be_handed_is_found_when_the_request_is_lost() {
    hand(Some(Fault::DropRequest)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_worker_must_take_is_left_to_him() {
    let line = Line::open().await;
    let token = line.scene.claim_turn("i").await;
    let sleeping = line.worker().await;
    let activities = vec![tagged(2, "gpu"), activity("i", 3)];
    let acked = ack_turn(&*line.scene.provider, &token, "i", activities, Vec::new()).await;
    acked.expect("acknowledge");
    let (_, _, attempts) = sleeping.await.expect("a worker");
    assert_eq!(attempts, 1);
    let fetched = line
        .scene
        .provider
        .fetch_work_item(LONG, SOON, None, &TagFilter::tags(["gpu"]))
        .await;
    let (_, _, attempts) = fetched.expect("fetch").expect("the other activity");
    assert_eq!(attempts, 1);
    line.scene.close().await;
}

async fn claim(fault: Option<Fault>) {
    let line = Line::open().await;
    let token = line.scene.claim_turn("i").await;
    let acked = ack_turn(&*line.scene.provider, &token, "i", vec![activity("i", 2)], Vec::new()).await;
    acked.expect("acknowledge");
    let (_, token, _) = work(&*line.scene.provider, LONG).await;
    let dispatcher = line.dispatcher().await;
    let lost = fault.map(|fault| line.proxy.once(CLAIMED, fault));
    let acked = line.scene.provider.ack_work_item(&token, Some(completed("i", 2))).await;
    acked.expect("acknowledge");
    let (instance, _, attempts) = dispatcher.await.expect("a dispatcher");
    assert_eq!((instance.as_str(), attempts), ("i", 1));
    line.assert_called(CLAIMED, lost.as_ref());
    line.scene.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeping_dispatcher_gets_the_instance_with_the_completion() {
    claim(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_instance_is_found_when_the_answer_is_lost() {
    claim(Some(Fault::DropAnswer)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_instance_is_found_when_the_request_is_lost() {
    claim(Some(Fault::DropRequest)).await;
}

/// The ack of a turn no longer sends everybody to look: it says whether messages wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_during_a_turn_is_found_after_its_ack() {
    let line = Line::open().await;
    let token = line.scene.claim_turn("i").await;
    let sent = line
        .scene
        .provider
        .enqueue_for_orchestrator(signal("i", "s"), None)
        .await;
    sent.expect("signal");
    // It is passed over: the instance is leased.
    let dispatcher = line.dispatcher().await;
    let acked = ack_turn(&*line.scene.provider, &token, "i", Vec::new(), Vec::new()).await;
    acked.expect("acknowledge");
    // Sooner than the safety poll.
    let found = tokio::time::timeout(Duration::from_secs(5), dispatcher).await;
    let (instance, _, attempts) = found.expect("in time").expect("a dispatcher");
    assert_eq!((instance.as_str(), attempts), ("i", 1));
    line.scene.close().await;
}
