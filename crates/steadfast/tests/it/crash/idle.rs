//! A process that waits costs nothing.

use std::time::Duration;

use duroxide::providers::{Provider, TagFilter};
use steadfast::postgres::{ListenerState, LongPoll};

use crate::harness::database_url;
use crate::op::scene::{LONG, Scene};
use crate::proxy::Proxy;

/// All that it sends goes through a proxy, which counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_idle_slots_send_two_statements_in_thirty_seconds() {
    const POLL: Duration = Duration::from_secs(50);
    let proxy = Proxy::start(&database_url()).await;
    let scene = Scene::with(&proxy.url(&database_url()), |builder| {
        builder.long_poll(LongPoll::default())
    })
    .await;
    let mut slots = Vec::new();
    for _ in 0..32 {
        let provider = scene.provider.clone();
        slots.push(tokio::spawn(async move {
            provider.fetch_orchestration_item(LONG, POLL, None).await.is_err()
        }));
        let provider = scene.provider.clone();
        slots.push(tokio::spawn(async move {
            let tags = TagFilter::default();
            provider.fetch_work_item(LONG, POLL, None, &tags).await.is_err()
        }));
    }
    // Until all sleep, and what was begun for that is over.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let health = scene.provider.health();
    assert_eq!((health.waiting_dispatchers, health.waiting_workers), (32, 32));
    assert_eq!(health.listener, ListenerState::Listening);
    let before = proxy.round_trips();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let sent = proxy.round_trips() - before;
    println!("{sent} statements");
    assert!(sent <= 2, "{sent} statements");
    scene.close().await;
    for slot in slots {
        assert!(slot.await.expect("no panic"), "it waited until the provider was closed");
    }
}
