//! A start that no worker has taken is an instance in state pending: to be seen, cancelled and deleted, with the time at
//! which it was sent. The library keeps duroxide's semantics otherwise: a second start of an id is dropped.

use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::{Provider, WorkItem};
use duroxide::{Client, OrchestrationContext};
use steadfast::feed::{ChangePoller, Kind};
use steadfast::inspect::{Inspect, InstanceQuery, PENDING};

use super::site::{PATIENCE, Site, activities, on_both_engines, orchestrations};

const LIMIT: usize = 16 << 20;

fn client(provider: &Arc<dyn Inspect>) -> Client {
    Client::new(Arc::clone(provider) as Arc<dyn Provider>)
}

fn start(instance: &str, parent: Option<&str>) -> WorkItem {
    WorkItem::StartOrchestration {
        instance: instance.to_owned(),
        orchestration: "quick".to_owned(),
        input: String::new(),
        version: None,
        parent_instance: parent.map(str::to_owned),
        parent_id: parent.map(|_| 2),
        parent_execution_id: parent.map(|_| 1),
        execution_id: 1,
    }
}

async fn pending(provider: &Arc<dyn Inspect>) -> Vec<String> {
    let query = InstanceQuery {
        status: Some(PENDING.to_owned()),
        limit: 1_000,
        ..InstanceQuery::default()
    };
    let found = provider.instances(query).await.expect("list");
    found.into_iter().map(|summary| summary.instance_id).collect()
}

async fn a_pending_start_is_listed_and_known(site: Site) {
    let provider = site.open().await;
    let client = client(&provider);
    for n in 0..5 {
        client
            .start_orchestration(format!("i{n}"), "quick", "")
            .await
            .expect("start");
    }
    // Sent again, delayed, begun by nobody's parent: each is one instance; what is only spoken to is none.
    client
        .start_orchestration("i0", "other", "")
        .await
        .expect("start again");
    client.raise_event("nobody", "go", "").await.expect("an event");
    let later = Some(Duration::from_secs(3600));
    provider
        .enqueue_for_orchestrator(start("later", None), later)
        .await
        .expect("start later");
    provider
        .enqueue_for_orchestrator(start("child", Some("p")), None)
        .await
        .expect("start a child");

    assert_eq!(
        pending(&provider).await,
        ["child", "later", "i4", "i3", "i2", "i1", "i0"]
    );
    assert_eq!(client.list_all_instances().await.expect("list").len(), 7);
    assert_eq!(client.list_instances_by_status(PENDING).await.expect("list").len(), 7);
    assert!(
        client
            .list_instances_by_status("Running")
            .await
            .expect("list")
            .is_empty()
    );
    let info = client.get_instance_info("i0").await.expect("known");
    assert_eq!(
        (info.status.as_str(), info.orchestration_name.as_str()),
        (PENDING, "quick"),
        "the first counts"
    );
    let child = provider.instance("child").await.expect("look").expect("known");
    assert_eq!(child.summary.parent_instance_id.as_deref(), Some("p"));
    // Sent now, whenever it is due.
    let (soon, later) = (
        client.get_instance_info("i4").await,
        client.get_instance_info("later").await,
    );
    let (soon, later) = (soon.expect("known").created_at, later.expect("known").created_at);
    assert!(later >= soon && later - soon < 600_000, "{soon} {later}");

    // Page by page.
    let mut seen = Vec::new();
    let mut query = InstanceQuery {
        limit: 3,
        ..InstanceQuery::default()
    };
    loop {
        let page = provider.instances(query.clone()).await.expect("a page");
        let Some(last) = page.last() else { break };
        query.before = Some(last.key);
        seen.extend(page.into_iter().map(|summary| summary.instance_id));
    }
    assert_eq!(seen, ["child", "later", "i4", "i3", "i2", "i1", "i0"]);
    provider.close().await;
}

/// Beside a great many messages of others, and paged together with instances that were begun.
async fn begun_and_pending_are_one_list(site: Site) {
    let workflows = || {
        orchestrations()
            .register("quick", |_: OrchestrationContext, _: String| async move {
                Ok(String::new())
            })
            .register("wait", |ctx: OrchestrationContext, _: String| async move {
                Ok(ctx.schedule_wait("go").await)
            })
    };
    let worker = site.work(LIMIT, activities(), workflows()).await;
    for n in 0..4 {
        worker
            .run(&format!("done{n}"), "quick", "")
            .await
            .expect("it completes");
    }
    worker.stop().await;
    let provider = site.open().await;
    let client = client(&provider);
    for n in 0..300 {
        client
            .raise_event("done0", "noise", n.to_string())
            .await
            .expect("an event");
    }
    for n in 0..4 {
        client
            .start_orchestration(format!("new{n}"), "quick", "")
            .await
            .expect("start");
    }
    let mut seen = Vec::new();
    let mut query = InstanceQuery {
        limit: 3,
        ..InstanceQuery::default()
    };
    loop {
        let page = provider.instances(query.clone()).await.expect("a page");
        let Some(last) = page.last() else { break };
        query.before = Some(last.key);
        seen.extend(page.into_iter().map(|summary| summary.instance_id));
    }
    assert_eq!(
        seen,
        ["new3", "new2", "new1", "new0", "done3", "done2", "done1", "done0"]
    );
    assert_eq!(pending(&provider).await, ["new3", "new2", "new1", "new0"]);
    provider.close().await;

    let worker = site.work(LIMIT, activities(), workflows()).await;
    for n in 0..4 {
        worker.ended(&format!("new{n}")).await.expect("it completes");
    }
    assert!(pending(&worker.provider).await.is_empty());
    worker.stop().await;
}

async fn a_pending_start_is_deleted_and_the_feed_says_so(site: Site) {
    let provider = site.open().await;
    let client = client(&provider);
    client.start_orchestration("i", "quick", "").await.expect("start");
    client.start_orchestration("i", "quick", "").await.expect("start again");
    client.raise_event("i", "go", "").await.expect("an event");
    client.enqueue_event("i", "queue", "").await.expect("an event");
    client.start_orchestration("kept", "quick", "").await.expect("start");
    let refused = client
        .delete_instance("i", false)
        .await
        .expect_err("not without force")
        .to_string();
    assert!(refused.contains("pending"), "{refused}");
    let deleted = client.delete_instance("i", true).await.expect("delete");
    assert_eq!((deleted.instances_deleted, deleted.queue_messages_deleted), (1, 4));
    assert_eq!(pending(&provider).await, ["kept"]);
    client.get_instance_info("i").await.expect_err("gone");
    client.delete_instance("i", true).await.expect_err("gone");

    let (other, feed) = site.feed().await;
    let mut poller = ChangePoller::new(&feed);
    let told = async {
        loop {
            let events = poller.poll().await.expect("read the feed").events;
            if let Some(told) = events.into_iter().find(|event| event.kind == Kind::Deleted) {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await.expect("the feed says so");
    assert_eq!(told.instance, "i");
    other.close().await;
    provider.close().await;
}

/// In a worker's hand, put back, or never begun: what waits for its first turn can be removed.
async fn a_start_in_hand_is_pending_too(site: Site) {
    let provider = site.open().await;
    let client = client(&provider);
    client.start_orchestration("i", "quick", "").await.expect("start");
    let fetched = provider
        .fetch_orchestration_item(Duration::from_secs(60), PATIENCE, None)
        .await;
    let (item, token, _) = fetched.expect("fetch").expect("an item");
    assert_eq!(item.instance, "i");
    let seen = provider.instance("i").await.expect("look").expect("known");
    assert_eq!(
        (seen.summary.status.as_str(), seen.lease_left_ms.is_some()),
        (PENDING, true)
    );
    assert_eq!(pending(&provider).await, ["i"]);
    let back = provider
        .abandon_orchestration_item(&token, Some(Duration::from_secs(60)), false)
        .await;
    back.expect("put back");
    assert_eq!(pending(&provider).await, ["i"]);
    client.delete_instance("i", false).await.expect_err("not without force");
    assert_eq!(
        client
            .delete_instance("i", true)
            .await
            .expect("delete")
            .instances_deleted,
        1
    );
    assert!(provider.instance("i").await.expect("look").is_none());
    // The claim that is gone changes nothing.
    provider
        .abandon_orchestration_item(&token, None, false)
        .await
        .expect_err("an old token");
    assert!(pending(&provider).await.is_empty());
    provider.close().await;
}

/// A child that nobody has taken goes on its own once its parent is gone.
async fn a_pending_child_outlives_its_parent_and_can_be_deleted(site: Site) {
    let provider = site.open().await;
    let client = client(&provider);
    client.start_orchestration("p", "quick", "").await.expect("start");
    provider
        .enqueue_for_orchestrator(start("child", Some("p")), None)
        .await
        .expect("start a child");
    client
        .delete_instance("child", true)
        .await
        .expect_err("its parent is there");
    assert_eq!(
        client
            .delete_instance("p", true)
            .await
            .expect("delete")
            .instances_deleted,
        1
    );
    assert_eq!(pending(&provider).await, ["child"]);
    assert_eq!(
        client
            .delete_instance("child", true)
            .await
            .expect("delete")
            .instances_deleted,
        1
    );
    assert!(pending(&provider).await.is_empty());
    provider.close().await;
}

/// A cancellation that comes before the first turn ends it there.
async fn a_pending_start_is_cancelled(site: Site) {
    let provider = site.open().await;
    let client = client(&provider);
    client.start_orchestration("i", "wait", "").await.expect("start");
    client.cancel_instance("i", "never mind").await.expect("cancel");
    assert_eq!(pending(&provider).await, ["i"]);
    let workflows = orchestrations().register("wait", |ctx: OrchestrationContext, _: String| async move {
        Ok(ctx.schedule_wait("go").await)
    });
    let worker = site.work(LIMIT, activities(), workflows).await;
    let error = worker.ended("i").await.expect_err("cancelled");
    assert!(error.display_message().contains("never mind"), "{error:?}");
    assert!(pending(&provider).await.is_empty());
    worker.stop().await;
    provider.close().await;
}

on_both_engines!(
    a_pending_start_is_listed_and_known,
    begun_and_pending_are_one_list,
    a_pending_start_is_deleted_and_the_feed_says_so,
    a_start_in_hand_is_pending_too,
    a_pending_child_outlives_its_parent_and_can_be_deleted,
    a_pending_start_is_cancelled,
);
