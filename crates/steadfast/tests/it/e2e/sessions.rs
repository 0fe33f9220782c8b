//! Sessions: activities of one session run in one runtime, until that one is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use duroxide::providers::{Provider, SessionFetchConfig, TagFilter, WorkItem};
use duroxide::runtime::RuntimeOptions;
use duroxide::runtime::registry::ActivityRegistryBuilder;
use duroxide::{ActivityContext, BackoffStrategy, OrchestrationContext, RetryPolicy};

use super::stage::{Stage, activities, options, orchestrations};
use crate::harness::Store;
use crate::op::scene::{LONG, activity, completed};

fn node(name: &str) -> RuntimeOptions {
    RuntimeOptions {
        worker_node_id: Some(name.to_owned()),
        session_lock_timeout: Duration::from_secs(2),
        ..options()
    }
}

/// An activity that tells in which runtime it ran.
fn place(name: &'static str) -> ActivityRegistryBuilder {
    activities().register("place", move |ctx: ActivityContext, _: String| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(format!("{name}/{}", ctx.session_id().unwrap_or("none")))
    })
}

pub(super) async fn a_session_stays_with_one_runtime(store: &Store) {
    let visits = || {
        orchestrations().register("visit", |ctx: OrchestrationContext, session: String| async move {
            let mut places = Vec::new();
            for _ in 0..4 {
                // Two at a time: affinity must hold for waiting and for concurrent activities.
                let pair = (0..2)
                    .map(|_| ctx.schedule_activity_on_session("place", "", session.as_str()))
                    .collect();
                for place in ctx.join(pair).await {
                    places.push(place?);
                }
            }
            Ok(places.join(" "))
        })
    };
    let left = Stage::start_with(store, place("left"), visits(), node("left")).await;
    let right = Stage::start_with(store, place("right"), visits(), node("right")).await;

    for session in 0..6 {
        left.begin(&format!("v-{session}"), "visit", &format!("s{session}"))
            .await;
    }
    for session in 0..6 {
        let output = left.output(&format!("v-{session}")).await;
        let places: BTreeSet<&str> = output.split(' ').collect();
        assert_eq!(output.split(' ').count(), 8);
        assert_eq!(places.len(), 1, "session {session} was in {places:?}");
        assert!(output.ends_with(&format!("/s{session}")), "{output}");
    }
    left.stop().await;
    right.stop().await;
}

pub(super) async fn a_session_moves_when_its_runtime_stops(store: &Store) {
    let visits = || {
        orchestrations().register("visit", |ctx: OrchestrationContext, _: String| async move {
            let first = ctx.schedule_activity_on_session("place", "", "s").await?;
            ctx.schedule_wait("go on").await;
            let second = ctx.schedule_activity_on_session("place", "", "s").await?;
            Ok(format!("{first} {second}"))
        })
    };
    let left = Stage::start_with(store, place("left"), visits(), node("left")).await;
    left.begin("v", "visit", "").await;
    left.reached("v", 1, "ExternalSubscribed").await;
    left.kill().await;

    let right = Stage::start_with(store, place("right"), visits(), node("right")).await;
    right.client.raise_event("v", "go on", "").await.expect("raise");
    assert_eq!(right.output("v").await, "left/s right/s");
    right.stop().await;
}

pub(super) async fn retries_stay_on_their_session(store: &Store) {
    let calls = Arc::new(AtomicUsize::new(0));
    let flaky = |name: &'static str| {
        let calls = Arc::clone(&calls);
        activities().register("flaky", move |ctx: ActivityContext, _: String| {
            let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
            async move {
                let seen = format!("{name}/{}", ctx.session_id().unwrap_or("none"));
                if call < 3 { Err(seen) } else { Ok(seen) }
            }
        })
    };
    let stubborn = || {
        orchestrations().register("stubborn", |ctx: OrchestrationContext, _: String| async move {
            let backoff = BackoffStrategy::Fixed {
                delay: Duration::from_millis(50),
            };
            let policy = RetryPolicy::new(5).with_backoff(backoff);
            ctx.schedule_activity_with_retry_on_session("flaky", "", policy, "s")
                .await
        })
    };
    let left = Stage::start_with(store, flaky("left"), stubborn(), node("left")).await;
    let right = Stage::start_with(store, flaky("right"), stubborn(), node("right")).await;

    let output = left.run("r", "stubborn", "").await;
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    let failures: Vec<String> = left
        .history("r")
        .await
        .into_iter()
        .filter_map(|event| match event.kind {
            duroxide::EventKind::ActivityFailed { details } => Some(details.display_message()),
            _ => None,
        })
        .collect();
    assert_eq!(
        failures,
        [output.as_str(), output.as_str()],
        "all attempts ran in one place"
    );
    left.stop().await;
    right.stop().await;
}

/// An activity for this slot, if one comes within the time.
async fn fetch(provider: &dyn Provider, owner: &str, within: Duration) -> Option<String> {
    let session = SessionFetchConfig {
        owner_id: owner.to_owned(),
        lock_timeout: LONG,
    };
    let fetched = provider
        .fetch_work_item(LONG, within, Some(&session), &TagFilter::default())
        .await;
    fetched.expect("fetch").map(|(_, token, _)| token)
}

/// Others who wait find nothing, because the session is not theirs: its holder does not take their word for it.
pub(super) async fn a_backlog_is_worked_off_while_others_wait(store: &Store) {
    // Much longer than it takes, much shorter than the session's lease.
    const WITHIN: Duration = Duration::from_secs(10);
    let provider = store.open().await;
    for id in 1..=6 {
        let mut item = activity("i", id);
        if let WorkItem::ActivityExecute { session_id, .. } = &mut item {
            *session_id = Some("s".to_owned());
        }
        provider.enqueue_for_worker(item).await.expect("queue an activity");
    }
    let mut token = fetch(&*provider, "holder", WITHIN).await.expect("the first");
    let other = tokio::spawn({
        let provider = Arc::clone(&provider);
        async move { while fetch(&*provider, "other", Duration::from_secs(60)).await.is_none() {} }
    });
    for id in 1..=5 {
        // The other slot has seen that there is nothing for it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let done = provider.ack_work_item(&token, Some(completed("i", id))).await;
        done.expect("acknowledge");
        token = fetch(&*provider, "holder", WITHIN)
            .await
            .unwrap_or_else(|| panic!("number {}", id + 1));
    }
    assert!(!other.is_finished(), "the session has a holder");
    other.abort();
}
