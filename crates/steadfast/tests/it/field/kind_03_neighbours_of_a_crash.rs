//! Kind 3: An item that kills its process takes no other with it.

pub(super) mod child;
mod leases;

use std::sync::Arc;
use std::time::{Duration, Instant};

use duroxide::runtime::OrchestrationStatus;
use duroxide::{Client, ErrorDetails};
use futures_util::future::join_all;

use self::child::{Place, Worker};

/// No trial takes so long when all is well.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs so many workers, each started again whenever it has ended, until all of these instances have. Answers how they
/// ended, in order, and how often a worker did.
async fn until_ended(
    place: &Place,
    client: &Client,
    workers: usize,
    instances: &[&str],
) -> (Vec<OrchestrationStatus>, usize) {
    let begun = Instant::now();
    let mut workers: Vec<Worker> = (0..workers).map(|_| Worker::start(place)).collect();
    let mut crashes = 0;
    loop {
        for worker in &mut workers {
            if worker.ended() {
                crashes += 1;
                *worker = Worker::start(place);
            }
        }
        let mut ends = Vec::new();
        for instance in instances {
            let status = client
                .get_orchestration_status(instance)
                .await
                .expect("ask for a status");
            if matches!(
                status,
                OrchestrationStatus::Completed { .. } | OrchestrationStatus::Failed { .. }
            ) {
                ends.push(status);
            }
        }
        if ends.len() == instances.len() {
            return (ends, crashes);
        }
        assert!(begun.elapsed() < PATIENCE, "{crashes} crashes, and only {ends:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One that aborts its process, beside three activities of two seconds and an orchestration of some turns.
async fn beside_a_crash(place: Place, culprit: (&str, &str), workers: usize) {
    let provider = place.open().await;
    let client = Client::new(Arc::clone(&provider));
    let (orchestration, input) = culprit;
    let start = async |instance: &str, orchestration: &str, input: &str| {
        let started = client.start_orchestration(instance, orchestration, input).await;
        started.expect("start an instance");
    };
    start("a", "call", "sleep 2000").await;
    start("b", "call", "sleep 2000").await;
    start("culprit", orchestration, input).await;
    start("c", "call", "sleep 2000").await;
    start("d", "chain", "").await;
    let instances = ["culprit", "a", "b", "c", "d"];
    let (ends, crashes) = until_ended(&place, &client, workers, &instances).await;
    eprintln!("{orchestration} {input}, {workers} workers: {crashes} crashes");
    let poisoned = |status: &OrchestrationStatus| {
        matches!(
            status,
            OrchestrationStatus::Failed {
                details: ErrorDetails::Poison { .. },
                ..
            }
        )
    };
    assert!(poisoned(&ends[0]), "{ends:?}");
    for end in &ends[1..] {
        assert!(matches!(end, OrchestrationStatus::Completed { .. }), "{ends:?}");
    }
    // Attempts are the default: it had all ten.
    assert!(crashes >= 10, "{crashes} crashes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_of_an_activity_that_aborts_complete() {
    let runs = Place::both().map(|place| beside_a_crash(place, ("call", "abort 100"), 1));
    join_all(runs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_of_a_turn_that_aborts_complete() {
    let runs = Place::both().map(|place| beside_a_crash(place, ("abort-in-turn", ""), 1));
    join_all(runs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_complete_among_several_processes() {
    let runs = Place::both().map(|place| beside_a_crash(place, ("call", "abort 100"), 2));
    join_all(runs).await;
}

/// A supervisor that ends workers in the midst of their work is no fault of the work's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_activity_survives_five_restarts() {
    join_all(Place::both().map(|place| async move {
        let provider = place.open().await;
        let client = Client::new(Arc::clone(&provider));
        for instance in ["long", "longer"] {
            let started = client.start_orchestration(instance, "call", "sleep 5000").await;
            started.expect("start an instance");
        }
        for _ in 0..5 {
            let mut worker = Worker::start(&place);
            tokio::time::sleep(Duration::from_millis(4_000)).await;
            worker.kill();
        }
        let (ends, _) = until_ended(&place, &client, 1, &["long", "longer"]).await;
        for end in &ends {
            assert!(matches!(end, OrchestrationStatus::Completed { .. }), "{ends:?}");
        }
    }))
    .await;
}
