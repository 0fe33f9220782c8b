//! A row that somebody else holds: only the operations that need it wait, and they succeed when it is released.
//!
//! No clocks: who waits is told by the order in which calls come back while the row is held.

use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::{Provider, ProviderError, ScheduledActivityIdentifier, TagFilter};
use steadfast::postgres::PostgresProvider;
use tokio::sync::mpsc;
use tokio_postgres::Client;

use crate::harness::{Mode, Store};
use crate::upgrade::place::{LEASE, activity, completion, event, named, signal, start, started};

const COUNT: usize = 8;
/// The one whose row is held.
const HELD: usize = 3;

fn name(n: usize) -> String {
    format!("instance {n}")
}

struct Scene {
    store: Store,
    provider: Arc<PostgresProvider>,
    /// The admin's session.
    admin: Client,
}

impl Scene {
    async fn open() -> Self {
        let store = Store::new(Mode::ShortPoll);
        let provider = store.open_postgres().await;
        let admin = store.raw().await;
        Self { store, provider, admin }
    }

    /// Starts all instances and fetches their turns: tokens by number.
    async fn turns(&self) -> Vec<String> {
        for n in 0..COUNT {
            self.provider
                .enqueue_for_orchestrator(start(&name(n)), None)
                .await
                .unwrap();
        }
        let mut tokens = vec![String::new(); COUNT];
        for _ in 0..COUNT {
            let (item, token, _) = self.fetch_turn().await.expect("a turn for each");
            let n: usize = item.rsplit(' ').next().unwrap().parse().unwrap();
            tokens[n] = token;
        }
        tokens
    }

    /// Queues an activity of each instance and fetches them: tokens by number.
    async fn work(&self) -> Vec<String> {
        for n in 0..COUNT {
            self.provider.enqueue_for_worker(activity(&name(n), 2)).await.unwrap();
        }
        let mut tokens = Vec::new();
        for n in 0..COUNT {
            let (instance, token) = self.fetch_work().await.expect("an activity of each");
            assert_eq!(instance, name(n));
            tokens.push(token);
        }
        tokens
    }

    async fn fetch_turn(&self) -> Option<(String, String, u32)> {
        let fetched = self
            .provider
            .fetch_orchestration_item(LEASE, Duration::ZERO, None)
            .await;
        fetched
            .unwrap()
            .map(|(item, token, attempts)| (item.instance, token, attempts))
    }

    async fn fetch_work(&self) -> Option<(String, String)> {
        let fetched = self
            .provider
            .fetch_work_item(LEASE, Duration::ZERO, None, &TagFilter::Any)
            .await;
        let (item, token, _) = fetched.unwrap()?;
        let duroxide::providers::WorkItem::ActivityExecute { instance, .. } = item else {
            panic!("not an activity: {item:?}")
        };
        Some((instance, token))
    }

    async fn hold_instance(&self) {
        self.hold("SELECT 1 FROM sf_instance WHERE instance_id = $1 FOR UPDATE")
            .await;
    }

    async fn hold_work(&self) {
        self.hold(
            "SELECT 1 FROM sf_work w JOIN sf_instance i USING (instance_key) WHERE i.instance_id = $1 FOR UPDATE OF w",
        )
        .await;
    }

    async fn hold(&self, sql: &str) {
        self.admin.batch_execute("BEGIN").await.unwrap();
        let rows = self.admin.query(sql, &[&name(HELD)]).await.unwrap();
        assert_eq!(rows.len(), 1, "one row is held");
    }

    async fn release(&self) {
        self.admin.batch_execute("ROLLBACK").await.unwrap();
    }

    /// Runs `call` for each number at once, several times over in different orders of arrival: all but the held one
    /// come back while the row is held, and that one after it was released.
    async fn only_one_waits<F, R>(&self, call: F)
    where
        F: Fn(Arc<PostgresProvider>, usize) -> R,
        R: Future<Output = Result<(), ProviderError>> + Send + 'static,
    {
        let (ended, mut endings) = mpsc::unbounded_channel();
        for n in 0..COUNT {
            let (call, ended) = (call(Arc::clone(&self.provider), n), ended.clone());
            tokio::spawn(async move {
                let _ = ended.send((n, call.await));
            });
        }
        let next = async |endings: &mut mpsc::UnboundedReceiver<_>| {
            tokio::time::timeout(Duration::from_secs(60), endings.recv())
                .await
                .expect("it must not wait")
                .expect("a call ended")
        };
        let mut others = Vec::new();
        for _ in 1..COUNT {
            let (n, result): (usize, Result<(), ProviderError>) = next(&mut endings).await;
            assert_ne!(n, HELD, "it cannot have ended: {result:?}");
            result.unwrap_or_else(|error| panic!("number {n}, which nobody holds: {error:?}"));
            others.push(n);
        }
        // Longer than a lock may be waited for in one statement: the caller asks again.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert!(endings.try_recv().is_err(), "the held one waits");
        self.release().await;
        let (n, result) = next(&mut endings).await;
        assert_eq!(n, HELD);
        result.expect("it succeeds once the row is free");
    }
}

#[tokio::test]
async fn acks_of_turns() {
    let scene = Scene::open().await;
    let tokens = scene.turns().await;
    scene.hold_instance().await;
    scene
        .only_one_waits(|provider, n| {
            let token = tokens[n].clone();
            async move {
                let history = vec![event(&name(n), 1, 1, started())];
                let work = vec![activity(&name(n), 2)];
                provider
                    .ack_orchestration_item(&token, 1, history, work, vec![], named(), vec![])
                    .await
            }
        })
        .await;
    for _ in 0..COUNT {
        assert!(scene.fetch_work().await.is_some(), "every ack has queued its activity");
    }
    assert!(scene.fetch_work().await.is_none(), "and only once");
    scene.store.close().await;
}

#[tokio::test]
async fn renewals_of_turns() {
    let scene = Scene::open().await;
    let tokens = scene.turns().await;
    scene.hold_instance().await;
    scene
        .only_one_waits(|provider, n| {
            let token = tokens[n].clone();
            async move { provider.renew_orchestration_item_lock(&token, LEASE).await }
        })
        .await;
    scene.store.close().await;
}

#[tokio::test]
async fn abandons_of_turns() {
    let scene = Scene::open().await;
    let tokens = scene.turns().await;
    scene.hold_instance().await;
    scene
        .only_one_waits(|provider, n| {
            let token = tokens[n].clone();
            async move { provider.abandon_orchestration_item(&token, None, true).await }
        })
        .await;
    for _ in 0..COUNT {
        let (_, _, attempts) = scene.fetch_turn().await.expect("all are free again");
        assert_eq!(attempts, 1, "no attempt was spent");
    }
    scene.store.close().await;
}

#[tokio::test]
async fn acks_renewals_and_abandons_of_activities() {
    let scene = Scene::open().await;
    let tokens = scene.work().await;
    scene.hold_work().await;
    scene
        .only_one_waits(|provider, n| {
            let token = tokens[n].clone();
            async move { provider.renew_work_item_lock(&token, LEASE).await }
        })
        .await;
    scene.hold_work().await;
    scene
        .only_one_waits(|provider, n| {
            let token = tokens[n].clone();
            async move { provider.abandon_work_item(&token, None, true).await }
        })
        .await;
    let mut again = vec![String::new(); COUNT];
    for _ in 0..COUNT {
        let (instance, token) = scene.fetch_work().await.expect("all are free again");
        again[instance.rsplit(' ').next().unwrap().parse::<usize>().unwrap()] = token;
    }
    scene.hold_work().await;
    scene
        .only_one_waits(|provider, n| {
            let token = again[n].clone();
            async move { provider.ack_work_item(&token, Some(completion(&name(n), 2))).await }
        })
        .await;
    scene.store.close().await;
}

#[tokio::test]
async fn acks_that_cancel_an_activity_whose_row_is_held() {
    let scene = Scene::open().await;
    let tokens = scene.turns().await;
    for n in 0..COUNT {
        scene.provider.enqueue_for_worker(activity(&name(n), 2)).await.unwrap();
    }
    scene.hold_work().await;
    scene
        .only_one_waits(|provider, n| {
            let token = tokens[n].clone();
            async move {
                let history = vec![event(&name(n), 1, 1, started())];
                let cancelled = vec![ScheduledActivityIdentifier {
                    instance: name(n),
                    execution_id: 1,
                    activity_id: 2,
                }];
                provider
                    .ack_orchestration_item(&token, 1, history, vec![], vec![], named(), cancelled)
                    .await
            }
        })
        .await;
    assert!(scene.fetch_work().await.is_none(), "all were cancelled");
    scene.store.close().await;
}

#[tokio::test]
async fn claims_pass_over_an_instance_that_is_held() {
    for routed in [false, true] {
        let scene = Scene::open().await;
        // The instances exist, and each has a message: in the inbox, or routed and given back.
        for (n, token) in scene.turns().await.iter().enumerate() {
            if routed {
                scene
                    .provider
                    .abandon_orchestration_item(token, None, true)
                    .await
                    .unwrap();
            } else {
                let history = vec![event(&name(n), 1, 1, started())];
                scene
                    .provider
                    .ack_orchestration_item(token, 1, history, vec![], vec![signal(&name(n))], named(), vec![])
                    .await
                    .unwrap();
            }
        }
        scene.hold_instance().await;
        for _ in 1..COUNT {
            let (instance, ..) = scene.fetch_turn().await.expect("the others are had");
            assert_ne!(instance, name(HELD));
        }
        assert!(scene.fetch_turn().await.is_none());
        scene.release().await;
        let (instance, ..) = scene.fetch_turn().await.expect("now this one");
        assert_eq!(instance, name(HELD));
        scene.store.close().await;
    }
}

#[tokio::test]
async fn claims_pass_over_an_activity_that_is_held() {
    let scene = Scene::open().await;
    for n in 0..COUNT {
        scene.provider.enqueue_for_worker(activity(&name(n), 2)).await.unwrap();
    }
    scene.hold_work().await;
    for _ in 1..COUNT {
        let (instance, _) = scene.fetch_work().await.expect("the others are had");
        assert_ne!(instance, name(HELD));
    }
    assert!(scene.fetch_work().await.is_none());
    scene.release().await;
    assert_eq!(scene.fetch_work().await.expect("now this one").0, name(HELD));
    scene.store.close().await;
}

/// A user's transaction that has started or signalled an instance and stays open.
const SENDS: &str =
    "SELECT sf_enqueue_for_orchestrator(gen_random_uuid(), 60000, false, ARRAY[$1::text], ARRAY[NULL::bigint],
    ARRAY[NULL::bigint], ARRAY[$2::smallint], ARRAY[convert_to($3, 'UTF8')])";

#[tokio::test]
async fn an_open_transaction_that_sent_a_message_stalls_nobody() {
    let scene = Scene::open().await;
    let tokens = scene.turns().await;
    scene.admin.batch_execute("BEGIN").await.unwrap();
    let text = serde_json::to_string(&signal(&name(HELD))).unwrap();
    scene.admin.query(SENDS, &[&name(HELD), &7i16, &text]).await.unwrap();
    let text = serde_json::to_string(&start("new")).unwrap();
    scene.admin.query(SENDS, &[&"new", &1i16, &text]).await.unwrap();

    // Every call comes back, of this instance too: nothing here ends the transaction before they have.
    for (n, token) in tokens.iter().enumerate() {
        scene
            .provider
            .renew_orchestration_item_lock(token, LEASE)
            .await
            .unwrap();
        let history = vec![event(&name(n), 1, 1, started())];
        scene
            .provider
            .ack_orchestration_item(token, 1, history, vec![activity(&name(n), 2)], vec![], named(), vec![])
            .await
            .unwrap();
    }
    for n in 0..COUNT {
        let (_, token) = scene.fetch_work().await.expect("an activity of each");
        scene
            .provider
            .ack_work_item(&token, Some(completion(&name(n), 2)))
            .await
            .unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..COUNT {
        let (instance, token, _) = scene.fetch_turn().await.expect("other work of every instance");
        scene
            .provider
            .abandon_orchestration_item(&token, Some(LEASE), true)
            .await
            .unwrap();
        seen.push(instance);
    }
    assert!(seen.contains(&name(HELD)));
    assert!(scene.fetch_turn().await.is_none(), "what is not committed is not seen");
    scene
        .provider
        .enqueue_for_orchestrator(start("new"), None)
        .await
        .unwrap();
    let (instance, token, _) = scene.fetch_turn().await.expect("the second start of an instance");
    assert_eq!(instance, "new");
    scene
        .provider
        .abandon_orchestration_item(&token, Some(LEASE), true)
        .await
        .unwrap();

    scene.admin.batch_execute("COMMIT").await.unwrap();
    let mut late = vec![
        scene.fetch_turn().await.expect("a message that was sent late").0,
        scene.fetch_turn().await.expect("the other one").0,
    ];
    late.sort();
    assert_eq!(late, [name(HELD), "new".to_owned()]);
    scene.store.close().await;
}

#[tokio::test]
async fn a_deletion_waits_for_its_instance_and_holds_up_nobody_else() {
    let scene = Scene::open().await;
    for (n, token) in scene.turns().await.iter().enumerate() {
        let history = vec![event(&name(n), 1, 1, started())];
        scene
            .provider
            .ack_orchestration_item(token, 1, history, vec![], vec![], named(), vec![])
            .await
            .unwrap();
    }
    scene.hold_instance().await;
    let deleter = Arc::clone(&scene.provider);
    let mut deletion = tokio::spawn(async move {
        let admin = deleter.as_management_capability().unwrap();
        admin.delete_instance(&name(HELD), true).await
    });
    for n in 0..COUNT {
        scene
            .provider
            .enqueue_for_orchestrator(signal(&name(n)), None)
            .await
            .unwrap();
    }
    for _ in 1..COUNT {
        let (instance, token, _) = scene.fetch_turn().await.expect("the others are had");
        let history = vec![event(&instance, 1, 2, started())];
        scene
            .provider
            .ack_orchestration_item(&token, 1, history, vec![], vec![], named(), vec![])
            .await
            .unwrap();
    }
    let waited = tokio::time::timeout(Duration::from_millis(100), &mut deletion).await;
    assert!(waited.is_err(), "the deletion waits: {waited:?}");
    scene.release().await;
    let deleted = deletion.await.unwrap().expect("it succeeds once the row is free");
    assert_eq!(deleted.instances_deleted, 1);
    assert!(scene.fetch_turn().await.is_none(), "with its message");
    scene.store.close().await;
}
