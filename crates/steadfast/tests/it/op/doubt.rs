//! Calls whose outcome is unknown: the connection ends before, while or after the server does the work.
//!
//! Each operation is called alone and, where calls coalesce, in a batch with others. Whatever happened to the line, the
//! caller hears the truth, it happened once, and a token that was used is spent.

mod history;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use duroxide::providers::{Provider, ProviderError, TagFilter};
use steadfast::fault::{Rule, When};
use steadfast::postgres::PostgresProvider;

use self::history::{append_with_execution, delete_instances_atomic, prune_executions};
use super::gate::Gate;
use super::scene::{LONG, SOON, Scene, ack_turn, activity, assert_stale, completed, signal, start, turn, work};
use crate::harness::database_url;
use crate::proxy::{Fault, Proxy};

/// Calls of a batch, the one before it included.
const CALLS: usize = 6;
/// Long enough for a waiter to be known to other processes.
const BRIEF: Duration = Duration::from_millis(500);

/// What happens to the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Request,
    Answer,
    /// The line is lost while the server works, and the repeated call arrives while it still does.
    Line,
}

/// One provider behind a line that will be lost, once per trial.
struct Trial {
    scene: Scene,
    proxy: Proxy,
    loss: Loss,
    calls: usize,
}

type Answer<T> = Result<T, ProviderError>;

impl Trial {
    async fn new(loss: Loss, calls: usize) -> Self {
        let proxy = Proxy::start(&database_url()).await;
        let scene = Scene::with(&proxy.url(&database_url()), |builder| builder).await;
        Self {
            scene,
            proxy,
            loss,
            calls,
        }
    }

    fn provider(&self) -> Arc<PostgresProvider> {
        Arc::clone(&self.scene.provider)
    }

    fn instances(&self) -> Vec<String> {
        (0..self.calls).map(|n| format!("i{n}")).collect()
    }

    /// Makes the calls, loses the line under them, and returns their answers in order. `table` is one that the function
    /// writes to while it holds whatever a repeated call must wait for.
    ///
    /// Of several calls, the first is not lost: the others gather behind it and are sent as one.
    async fn strike<T, F, C>(&self, function: &'static str, table: &str, call: C) -> Vec<Answer<T>>
    where
        T: Send + 'static,
        F: Future<Output = Answer<T>> + Send + 'static,
        C: Fn(usize) -> F,
    {
        let pattern = format!(".{function}(");
        let gate = Gate::before(&self.scene, table).await;
        let mut answers = Vec::new();
        if self.calls > 1 {
            self.scene.faults.add(Rule {
                function,
                when: When::After,
                delay: Duration::from_millis(500),
                fault: None,
                times: 1,
            });
            answers.push(tokio::spawn(call(0)));
            let deadline = Instant::now() + SOON;
            while self.scene.faults.struck() == 0 {
                assert!(Instant::now() < deadline, "the first call was never answered");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let before = self.proxy.executed(&pattern);
        let fault = match self.loss {
            Loss::Request => Fault::DropRequest,
            Loss::Answer => Fault::DropAnswer,
            Loss::Line => Fault::CutMidway,
        };
        let lost = self.proxy.once(&pattern, fault);
        if self.loss == Loss::Line {
            gate.close().await;
        }
        answers.extend((answers.len()..self.calls).map(|n| tokio::spawn(call(n))));
        if self.loss == Loss::Line {
            // The original at the gate, and the repetition behind it.
            gate.queue(2).await;
            gate.open().await;
        }
        let mut results = Vec::new();
        for answer in answers {
            results.push(answer.await.expect("the call does not panic"));
        }
        assert!(
            lost.happened(),
            "nothing was lost: {} calls",
            self.proxy.executed(&pattern)
        );
        assert!(self.proxy.executed(&pattern) > before + 1, "the call was not repeated");
        results
    }

    async fn close(self) {
        self.scene.close().await;
    }
}

fn all_ok<T: std::fmt::Debug>(answers: Vec<Answer<T>>) -> Vec<T> {
    answers
        .into_iter()
        .map(|answer| answer.expect("the call landed"))
        .collect()
}

/// Makes `alone::<operation>::<loss>` of each, and `batched::<operation>::<loss>` of those whose calls coalesce.
macro_rules! trials {
    (batched { $($batched:ident,)* } alone { $($alone:ident,)* }) => {
        mod alone {
            $(trials!(@losses $batched 1);)*
            $(trials!(@losses $alone 1);)*
        }
        mod batched {
            $(trials!(@losses $batched crate::op::doubt::CALLS);)*
        }
    };
    (@losses $operation:ident $calls:expr) => {
        mod $operation {
            trials!(@test $operation $calls, the_request_is_lost Request);
            trials!(@test $operation $calls, the_answer_is_lost Answer);
            trials!(@test $operation $calls, the_line_is_lost_midway Line);
        }
    };
    (@test $operation:ident $calls:expr, $name:ident $loss:ident) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let trial = crate::op::doubt::Trial::new(crate::op::doubt::Loss::$loss, $calls).await;
            crate::op::doubt::$operation(&trial).await;
            trial.close().await;
        }
    };
}

trials! {
    batched {
        enqueue_for_orchestrator,
        enqueue_for_worker,
        fetch_orchestration_item,
        fetch_work_item,
        ack_orchestration_item,
        ack_work_item,
        ack_work_item_twice,
        ack_orchestration_item_twice,
        abandon_orchestration_item,
        abandon_work_item,
        renew_orchestration_item_lock,
        renew_work_item_lock,
    }
    alone {
        append_with_execution,
        delete_instances_atomic,
        prune_executions,
    }
}

async fn enqueue_for_orchestrator(trial: &Trial) {
    let answers = trial
        .strike("sf_enqueue_for_orchestrator", "sf_batch", |n| {
            let provider = trial.provider();
            async move { provider.enqueue_for_orchestrator(start(&format!("i{n}")), None).await }
        })
        .await;
    all_ok(answers);
    assert_eq!(trial.scene.rows("sf_inbox").await, trial.calls as i64);
    let distinct = "SELECT count(DISTINCT instance_id) FROM sf_inbox";
    assert_eq!(trial.scene.number(distinct, &[]).await, trial.calls as i64);
}

async fn enqueue_for_worker(trial: &Trial) {
    let answers = trial
        .strike("sf_enqueue_for_worker", "sf_batch", |n| {
            let provider = trial.provider();
            async move { provider.enqueue_for_worker(activity(&format!("i{n}"), 2)).await }
        })
        .await;
    all_ok(answers);
    assert_eq!(trial.scene.rows("sf_work").await, trial.calls as i64);
}

async fn fetch_orchestration_item(trial: &Trial) {
    // Known to wait already: the look that follows a registration would hide a look that was lost.
    let nothing = trial.scene.provider.fetch_orchestration_item(LONG, BRIEF, None).await;
    assert!(nothing.expect("wait").is_none());
    for instance in trial.instances() {
        let sent = trial
            .scene
            .provider
            .enqueue_for_orchestrator(start(&instance), None)
            .await;
        sent.expect("start an instance");
    }
    let answers = trial
        .strike("sf_fetch_orchestration_item", "sf_turn", |_| {
            let provider = trial.provider();
            async move { provider.fetch_orchestration_item(LONG, SOON, None).await }
        })
        .await;
    let mut instances = BTreeSet::new();
    for answer in all_ok(answers) {
        let (item, token, attempts) = answer.expect("there is a turn for everybody");
        assert_eq!(attempts, 1, "{}", item.instance);
        assert_eq!(item.messages, [start(&item.instance)]);
        let done = ack_turn(&*trial.scene.provider, &token, &item.instance, Vec::new(), Vec::new()).await;
        done.expect("the lease is the caller's");
        instances.insert(item.instance);
    }
    assert_eq!(instances.len(), trial.calls, "each turn once");
    assert_eq!(trial.scene.rows("sf_turn").await, 0, "nothing is claimed for nobody");
}

async fn fetch_work_item(trial: &Trial) {
    let nothing = trial
        .scene
        .provider
        .fetch_work_item(LONG, BRIEF, None, &TagFilter::default())
        .await;
    assert!(nothing.expect("wait").is_none());
    for instance in trial.instances() {
        let sent = trial.scene.provider.enqueue_for_worker(activity(&instance, 2)).await;
        sent.expect("queue an activity");
    }
    let answers = trial
        .strike("sf_fetch_work_item", "sf_work", |_| {
            let provider = trial.provider();
            async move { provider.fetch_work_item(LONG, SOON, None, &TagFilter::default()).await }
        })
        .await;
    let mut tokens = BTreeSet::new();
    for answer in all_ok(answers) {
        let (item, token, attempts) = answer.expect("there is an activity for everybody");
        assert_eq!(attempts, 1, "{item:?}");
        let done = trial.scene.provider.ack_work_item(&token, None).await;
        done.expect("the lease is the caller's");
        tokens.insert(token);
    }
    assert_eq!(tokens.len(), trial.calls, "each activity once");
    assert_eq!(trial.scene.rows("sf_work").await, 0, "nothing is claimed for nobody");
}

/// A turn with something of everything.
async fn ack_whole_turn(provider: &PostgresProvider, token: &str, instance: &str) -> Answer<()> {
    let (activities, messages) = (vec![activity(instance, 2)], vec![signal("other", instance)]);
    ack_turn(provider, token, instance, activities, messages).await
}

async fn assert_acknowledged_once(trial: &Trial, turns: i64) {
    for table in ["sf_event", "sf_work", "sf_inbox", "sf_execution"] {
        assert_eq!(trial.scene.rows(table).await, turns, "{table}");
    }
    for table in ["sf_turn", "sf_message"] {
        assert_eq!(trial.scene.rows(table).await, 0, "{table}");
    }
}

async fn ack_orchestration_item(trial: &Trial) {
    let mut tokens = Vec::new();
    for instance in trial.instances() {
        tokens.push(trial.scene.claim_turn(&instance).await);
    }
    let answers = trial
        .strike("sf_ack_orchestration_item", "sf_batch", |n| {
            let (provider, token) = (trial.provider(), tokens[n].clone());
            async move { ack_whole_turn(&provider, &token, &format!("i{n}")).await }
        })
        .await;
    all_ok(answers);
    assert_acknowledged_once(trial, trial.calls as i64).await;
    for (token, instance) in tokens.iter().zip(trial.instances()) {
        assert_stale(ack_whole_turn(&trial.scene.provider, token, &instance).await);
        assert_stale(
            trial
                .scene
                .provider
                .abandon_orchestration_item(token, None, false)
                .await,
        );
        assert_stale(trial.scene.provider.renew_orchestration_item_lock(token, LONG).await);
    }
    assert_acknowledged_once(trial, trial.calls as i64).await;
}

/// All calls that are lost together have one token: one of them is right.
async fn ack_orchestration_item_twice(trial: &Trial) {
    let token = trial.scene.claim_turn("i0").await;
    let other = trial.scene.claim_turn("ahead").await;
    let ahead = trial.calls > 1;
    // Alone, the rival comes from another provider, which has no trouble.
    let rival = trial.scene.another().await;
    let against = if trial.calls == 1 {
        let (rival, token) = (Arc::clone(&rival), token.clone());
        Some(tokio::spawn(async move { ack_whole_turn(&rival, &token, "i0").await }))
    } else {
        None
    };
    let mut answers = trial
        .strike(
            "sf_ack_orchestration_item",
            if ahead { "sf_event" } else { "sf_batch" },
            |n| {
                let first = ahead && n == 0;
                let (instance, token) = if first {
                    ("ahead", other.clone())
                } else {
                    ("i0", token.clone())
                };
                let provider = trial.provider();
                async move { ack_whole_turn(&provider, &token, instance).await }
            },
        )
        .await;
    if ahead {
        answers.remove(0).expect("nobody else has this token");
    } else {
        ack_whole_turn(&rival, &other, "ahead")
            .await
            .expect("nobody else has this token");
    }
    if let Some(against) = against {
        answers.push(against.await.expect("the rival does not panic"));
    }
    assert_one_right(answers);
    assert_acknowledged_once(trial, 2).await;
    rival.close().await;
}

fn assert_one_right(answers: Vec<Answer<()>>) {
    let (right, wrong): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(right.len(), 1, "besides: {wrong:?}");
    wrong.into_iter().for_each(assert_stale);
}

async fn ack_work_item(trial: &Trial) {
    let mut tokens = Vec::new();
    for instance in trial.instances() {
        tokens.push(trial.scene.claim_work(&instance).await);
    }
    let answers = trial
        .strike("sf_ack_work_item", "sf_batch", |n| {
            let (provider, token) = (trial.provider(), tokens[n].clone());
            async move {
                provider
                    .ack_work_item(&token, Some(completed(&format!("i{n}"), 2)))
                    .await
            }
        })
        .await;
    all_ok(answers);
    for token in &tokens {
        let provider = &trial.scene.provider;
        assert_stale(provider.ack_work_item(token, Some(completed("i0", 2))).await);
        assert_stale(provider.abandon_work_item(token, None, false).await);
        assert_stale(provider.renew_work_item_lock(token, LONG).await);
    }
    assert_eq!(trial.scene.rows("sf_work").await, 0);
    for instance in trial.instances() {
        let completions = "SELECT count(*) FROM sf_inbox WHERE instance_id = $1";
        assert_eq!(trial.scene.number(completions, &[&instance]).await, 1, "{instance}");
    }
}

async fn ack_work_item_twice(trial: &Trial) {
    let token = trial.scene.claim_work("i0").await;
    let other = trial.scene.claim_work("ahead").await;
    let ahead = trial.calls > 1;
    let rival = trial.scene.another().await;
    let against = if trial.calls == 1 {
        let (rival, token) = (Arc::clone(&rival), token.clone());
        Some(tokio::spawn(async move {
            rival.ack_work_item(&token, Some(completed("i0", 2))).await
        }))
    } else {
        None
    };
    let mut answers = trial
        .strike("sf_ack_work_item", if ahead { "sf_inbox" } else { "sf_batch" }, |n| {
            let first = ahead && n == 0;
            let (instance, token) = if first {
                ("ahead", other.clone())
            } else {
                ("i0", token.clone())
            };
            let provider = trial.provider();
            async move { provider.ack_work_item(&token, Some(completed(instance, 2))).await }
        })
        .await;
    if ahead {
        answers.remove(0).expect("nobody else has this token");
    } else {
        let done = rival.ack_work_item(&other, Some(completed("ahead", 2))).await;
        done.expect("nobody else has this token");
    }
    if let Some(against) = against {
        answers.push(against.await.expect("the rival does not panic"));
    }
    assert_one_right(answers);
    assert_eq!(trial.scene.rows("sf_work").await, 0);
    assert_eq!(trial.scene.rows("sf_inbox").await, 2, "one completion of each");
    rival.close().await;
}

/// The second claim of each is abandoned without counting: undone twice, it would take back the first as well.
async fn abandon_orchestration_item(trial: &Trial) {
    let provider = trial.provider();
    let mut tokens = Vec::new();
    for instance in trial.instances() {
        let first = trial.scene.claim_turn(&instance).await;
        let given_back = provider.abandon_orchestration_item(&first, None, false).await;
        given_back.expect("abandon the first claim");
        let (again, token, attempts) = turn(&*provider, LONG).await;
        assert_eq!((again, attempts), (instance, 2));
        tokens.push(token);
    }
    let answers = trial
        .strike("sf_abandon_orchestration_item", "sf_batch", |n| {
            let (provider, token) = (trial.provider(), tokens[n].clone());
            async move { provider.abandon_orchestration_item(&token, None, true).await }
        })
        .await;
    all_ok(answers);
    for token in &tokens {
        assert_stale(provider.abandon_orchestration_item(token, None, true).await);
        assert_stale(ack_whole_turn(&provider, token, "i0").await);
    }
    for _ in 0..trial.calls {
        let (instance, _, attempts) = turn(&*provider, LONG).await;
        assert_eq!(attempts, 2, "{instance}");
    }
}

async fn abandon_work_item(trial: &Trial) {
    let provider = trial.provider();
    let mut tokens = Vec::new();
    for instance in trial.instances() {
        let first = trial.scene.claim_work(&instance).await;
        let given_back = provider.abandon_work_item(&first, None, false).await;
        given_back.expect("abandon the first claim");
        let (again, token, attempts) = work(&*provider, LONG).await;
        assert_eq!((again, attempts), (instance, 2));
        tokens.push(token);
    }
    let answers = trial
        .strike("sf_abandon_work_item", "sf_batch", |n| {
            let (provider, token) = (trial.provider(), tokens[n].clone());
            async move { provider.abandon_work_item(&token, None, true).await }
        })
        .await;
    all_ok(answers);
    for token in &tokens {
        assert_stale(provider.abandon_work_item(token, None, true).await);
        assert_stale(provider.ack_work_item(token, None).await);
    }
    for _ in 0..trial.calls {
        let (instance, _, attempts) = work(&*provider, LONG).await;
        assert_eq!(attempts, 2, "{instance}");
    }
}

/// The leases of a table, in seconds from their start and from now, must be about this long.
async fn assert_leases(trial: &Trial, table: &str, seconds: f64) {
    let sql = format!(
        "SELECT count(*) FROM {table} WHERE lease_ms = {seconds} * 1000
             AND available_at = leased_at + {seconds} * interval '1 second'
             AND available_at <= clock_timestamp() + {seconds} * interval '1 second'
             AND leased_at > clock_timestamp() - interval '20 seconds'"
    );
    assert_eq!(trial.scene.number(&sql, &[]).await, trial.calls as i64, "{table}");
}

async fn renew_orchestration_item_lock(trial: &Trial) {
    let mut tokens = Vec::new();
    for instance in trial.instances() {
        tokens.push(trial.scene.claim_turn(&instance).await);
    }
    let answers = trial
        .strike("sf_renew_orchestration_item_lock", "sf_turn", |n| {
            let (provider, token) = (trial.provider(), tokens[n].clone());
            async move { provider.renew_orchestration_item_lock(&token, LONG * 2).await }
        })
        .await;
    all_ok(answers);
    assert_leases(trial, "sf_turn", 120.0).await;
    for (token, instance) in tokens.iter().zip(trial.instances()) {
        let done = ack_whole_turn(&trial.scene.provider, token, &instance).await;
        done.expect("the lease is still the caller's");
    }
}

async fn renew_work_item_lock(trial: &Trial) {
    let mut tokens = Vec::new();
    for instance in trial.instances() {
        tokens.push(trial.scene.claim_work(&instance).await);
    }
    let answers = trial
        .strike("sf_renew_work_item_lock", "sf_work", |n| {
            let (provider, token) = (trial.provider(), tokens[n].clone());
            async move { provider.renew_work_item_lock(&token, LONG * 2).await }
        })
        .await;
    all_ok(answers);
    assert_leases(trial, "sf_work", 120.0).await;
    for token in &tokens {
        let done = trial.scene.provider.ack_work_item(token, None).await;
        done.expect("the lease is still the caller's");
    }
}
