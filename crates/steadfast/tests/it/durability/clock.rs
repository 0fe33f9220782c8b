//! The machine's wall clock is set: leases and delays run on.

use std::path::Path;
use std::time::Duration;

use duroxide::providers::{Provider, TagFilter};
use steadfast::embedded::EmbeddedProvider;
use steadfast::fault::Faults;

use crate::op::scene::{LONG, SOON, activity, signal, start, turn, work};

const HOUR_MS: i64 = 3_600_000;

async fn open(path: &Path) -> (EmbeddedProvider, Faults) {
    let faults = Faults::new();
    let opened = EmbeddedProvider::builder(path).faults(faults.clone()).open().await;
    (opened.expect("open the file"), faults)
}

async fn nothing_due(provider: &dyn Provider) {
    let turn = provider.fetch_orchestration_item(LONG, Duration::ZERO, None).await;
    assert!(turn.expect("fetch").is_none(), "a lease was stolen");
    let work = provider
        .fetch_work_item(LONG, Duration::ZERO, None, &TagFilter::default())
        .await;
    assert!(work.expect("fetch").is_none(), "a lease was stolen");
}

/// The clock jumps while leases run: they are neither ended nor prolonged, for this process and for one that opens now.
async fn jump(by_ms: i64) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store.db");
    let (provider, faults) = open(&path).await;
    provider
        .enqueue_for_orchestrator(start("i"), None)
        .await
        .expect("enqueue");
    provider.enqueue_for_worker(activity("i", 2)).await.expect("enqueue");
    let lease = Duration::from_secs(2);
    let held = (turn(&provider, lease).await, work(&provider, lease).await);
    faults.set_clock_skew_ms(by_ms);
    nothing_due(&provider).await;
    let (other, others_faults) = open(&path).await;
    others_faults.set_clock_skew_ms(-by_ms);
    nothing_due(&other).await;
    // What is delayed now is delayed by so much, whatever the wall clock says.
    other
        .enqueue_for_orchestrator(signal("i", "later"), Some(Duration::from_millis(300)))
        .await
        .expect("enqueue");
    // Not frozen: the leases end, and others take over with one more attempt.
    let (instance, token, attempt) = turn(&other, LONG).await;
    assert_eq!((instance.as_str(), attempt), ("i", 2));
    let (_, work_token, attempt) = work(&other, LONG).await;
    assert_eq!(attempt, 2);
    assert_ne!((held.0.1, held.1.1), (token.clone(), work_token));
    other
        .abandon_orchestration_item(&token, None, true)
        .await
        .expect("abandon");
    let fetched = other.fetch_orchestration_item(LONG, SOON, None).await;
    let (item, _, _) = fetched.expect("fetch").expect("a turn");
    assert_eq!(item.messages.len(), 2, "the delayed message is due");
    provider.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_ahead_steals_no_lease() {
    jump(HOUR_MS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_back_freezes_no_lease() {
    jump(-HOUR_MS).await;
}
