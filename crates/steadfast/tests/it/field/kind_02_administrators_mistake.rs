//! Kind 2: Trouble that an administrator can mend fails no workflow.
//!
//! The roles are the documented ones, attempts and leases are production's, and what is broken is taken from the
//! catalogue: the object that a kind of call needs is found by breaking it.

use std::sync::Arc;
use std::time::Duration;

use duroxide::runtime::RuntimeOptions;

use super::errors::documented::Documented;
use super::errors::load::Load;

/// Breaks something for a while, under load, and judges.
async fn outlasted(broken: &[(&str, &str)], lasting: Duration, options: RuntimeOptions) {
    let place = Documented::create().await;
    let provider = place
        .builder("steadfast_worker")
        .connect()
        .await
        .expect("open as the worker");
    let load = Load::begin(Arc::new(provider.clone()), options, Duration::from_millis(20)).await;
    load.reached(20).await;
    for (breaks, mends) in broken {
        place.sql(breaks).await;
        tokio::time::sleep(lasting).await;
        place.sql(mends).await;
    }
    let verdict = load.settle().await;
    println!(
        "{broken:?} for {lasting:?}: {} acknowledged, {} not completed",
        verdict.acknowledged,
        verdict.failed.len()
    );
    provider.close().await;
    place.remove().await;
    verdict.assert_sound(&format!("{broken:?}"));
}

/// The field's figure: 52 of 213 acknowledged starts ended Failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_grants_for_three_seconds_fail_nothing() {
    let broken = [
        (
            "REVOKE INSERT ON sf_inbox FROM steadfast_worker",
            "GRANT INSERT ON sf_inbox TO steadfast_worker",
        ),
        (
            "REVOKE DELETE ON sf_work FROM steadfast_worker",
            "GRANT DELETE ON sf_work TO steadfast_worker",
        ),
    ];
    outlasted(&broken, Duration::from_secs(3), RuntimeOptions::default()).await;
}
