//! The same through the `Provider` trait alone: items whose leases end again and again.

use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::{Provider, TagFilter, WorkItem};
use futures_util::future::join_all;

use crate::harness::{Engine, Mode, Store};
use crate::op::scene::{LONG, ack_turn, activity, completed, start};

const SHORT: Duration = Duration::from_millis(400);
/// A fetch that must bring something waits so long at most.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Turn,
    Work,
}

/// An item in hand.
struct Taken {
    instance: String,
    token: String,
    attempt: u32,
}

struct Queue {
    kind: Kind,
    provider: Arc<dyn Provider>,
}

impl Queue {
    async fn put(&self, instance: &str) {
        let put = match self.kind {
            Kind::Turn => self.provider.enqueue_for_orchestrator(start(instance), None).await,
            Kind::Work => self.provider.enqueue_for_worker(activity(instance, 2)).await,
        };
        put.expect("put an item into the queue");
    }

    async fn take(&self, lease: Duration, wait: Duration) -> Option<Taken> {
        match self.kind {
            Kind::Turn => {
                let fetched = self.provider.fetch_orchestration_item(lease, wait, None).await;
                fetched.expect("fetch a turn").map(|(item, token, attempt)| Taken {
                    instance: item.instance,
                    token,
                    attempt,
                })
            }
            Kind::Work => {
                let tags = TagFilter::default();
                let fetched = self.provider.fetch_work_item(lease, wait, None, &tags).await;
                fetched.expect("fetch an activity").map(|(item, token, attempt)| {
                    let WorkItem::ActivityExecute { instance, .. } = item else {
                        panic!("not an activity: {item:?}")
                    };
                    Taken {
                        instance,
                        token,
                        attempt,
                    }
                })
            }
        }
    }

    async fn must_take(&self, lease: Duration) -> Taken {
        let taken = self.take(lease, PATIENCE).await;
        taken.unwrap_or_else(|| panic!("{} {:?}: nothing is due", self.provider.name(), self.kind))
    }

    async fn ack(&self, taken: &Taken) {
        let acked = match self.kind {
            Kind::Turn => {
                ack_turn(
                    self.provider.as_ref(),
                    &taken.token,
                    &taken.instance,
                    Vec::new(),
                    Vec::new(),
                )
                .await
            }
            // Its orchestration is nobody here: nothing is told.
            Kind::Work => {
                let completion = completed(&taken.instance, 2);
                self.provider.ack_work_item(&taken.token, Some(completion)).await
            }
        };
        acked.expect("acknowledge");
    }

    /// Takes what there is, and lets its leases end, until each of these has been taken three times at least.
    async fn suspect(&self, instances: &[&str]) {
        let mut counts = vec![0; instances.len()];
        while counts.iter().any(|count| *count < 3) {
            let taken = self.must_take(SHORT).await;
            let at = instances.iter().position(|i| *i == taken.instance);
            counts[at.expect("one of them")] += 1;
        }
        tokio::time::sleep(SHORT).await;
    }
}

async fn everywhere<F: Future<Output = ()>>(trial: impl Fn(Queue) -> F) {
    let trial = &trial;
    let cases = [Engine::Postgres, Engine::Embedded]
        .into_iter()
        .flat_map(|engine| [Kind::Turn, Kind::Work].map(|kind| (engine, kind)));
    join_all(cases.map(|(engine, kind)| async move {
        let store = Store::on(engine, Mode::LongPoll);
        let provider = store.open().await;
        trial(Queue { kind, provider }).await;
        store.close().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_whose_lease_ends_six_times_is_still_handed_over_and_counted() {
    everywhere(async |queue: Queue| {
        queue.put("a").await;
        for attempt in 1..=6 {
            let taken = queue.must_take(SHORT).await;
            assert_eq!((taken.instance.as_str(), taken.attempt), ("a", attempt));
            tokio::time::sleep(SHORT).await;
        }
        let taken = queue.must_take(LONG).await;
        assert_eq!(taken.attempt, 7);
        queue.ack(&taken).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_item_has_no_other_beside_it_and_holds_up_nobody_else() {
    everywhere(async |queue: Queue| {
        queue.put("a").await;
        queue.put("b").await;
        queue.suspect(&["a", "b"]).await;
        let first = queue.must_take(LONG).await;
        // The other one waits, and keeps nobody else from being taken.
        queue.put("fresh").await;
        let fresh = queue.must_take(LONG).await;
        assert_eq!(fresh.instance, "fresh");
        queue.ack(&fresh).await;
        let other = queue.take(LONG, Duration::from_millis(2_500)).await;
        assert!(other.is_none(), "two isolated items in hand");
        queue.ack(&first).await;
        let second = queue.must_take(LONG).await;
        assert_ne!(first.instance, second.instance);
        queue.ack(&second).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_beside_an_isolated_item_is_not_spent() {
    everywhere(async |queue: Queue| {
        queue.put("culprit").await;
        queue.suspect(&["culprit"]).await;
        let culprit = queue.must_take(SHORT).await;
        assert_eq!(culprit.attempt, 4);
        queue.put("neighbour").await;
        let neighbour = queue.must_take(SHORT).await;
        assert_eq!((neighbour.instance.as_str(), neighbour.attempt), ("neighbour", 1));
        tokio::time::sleep(SHORT).await;
        let mut attempts = Vec::new();
        for _ in 0..2 {
            let taken = queue.must_take(LONG).await;
            queue.ack(&taken).await;
            attempts.push((taken.instance, taken.attempt));
        }
        attempts.sort_unstable();
        assert_eq!(attempts, [("culprit".to_owned(), 5), ("neighbour".to_owned(), 1)]);
    })
    .await;
}

/// An item that was acknowledged after bad luck begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_back_in_order_is_not_isolated() {
    everywhere(async |queue: Queue| {
        queue.put("a").await;
        for attempt in 1..=8 {
            let taken = queue.must_take(LONG).await;
            assert_eq!(taken.attempt, attempt);
            let provider = &queue.provider;
            let given_back = match queue.kind {
                Kind::Turn => provider.abandon_orchestration_item(&taken.token, None, false).await,
                Kind::Work => provider.abandon_work_item(&taken.token, None, false).await,
            };
            given_back.expect("give it back");
        }
        queue.put("b").await;
        let (a, b) = (queue.must_take(LONG).await, queue.must_take(LONG).await);
        assert_ne!(a.instance, b.instance);
    })
    .await;
}
