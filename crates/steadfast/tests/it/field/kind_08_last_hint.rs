//! Kind 8: A process that writes and closes leaves nobody waiting.
//!
//! Somebody waits in one process and looks by himself only every few minutes; another process puts something there and ends
//! at once, in each of the ways in which processes end. On both engines.

use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::{Provider, TagFilter, WorkItem};
use steadfast::embedded::EmbeddedProvider;
use steadfast::feed::{ChangePoller, Feed, Kind};
use steadfast::postgres::{Health, ListenerState, LongPoll, PostgresProvider};

use super::kind_07_feed_last_word::child::{Ending, Place, Process};
use crate::harness::{database_url, fresh_schema};
use crate::op::scene::{ack_turn, start};

/// Much more than it takes, much less than the interval after which it would be found without any hint.
const DEADLINE: Duration = Duration::from_secs(30);
const RARE: Duration = Duration::from_secs(300);
const ENDINGS: [Ending; 5] = [
    Ending::Close,
    Ending::DropProvider,
    Ending::DropRuntime,
    Ending::Exit,
    Ending::Killed,
];

fn rarely() -> LongPoll {
    LongPoll {
        fallback_poll_interval: RARE,
        feed_poll_interval: RARE,
        ..LongPoll::default()
    }
}

/// A provider that waits, on an engine, and where others find its store.
enum Waiting {
    Postgres(PostgresProvider, Place),
    Embedded(
        EmbeddedProvider,
        Place,
        #[expect(dead_code, reason = "removed when dropped")] tempfile::TempDir,
    ),
}

impl Waiting {
    async fn both() -> [Self; 2] {
        let (url, schema) = (database_url(), fresh_schema());
        let builder = PostgresProvider::builder(&url).schema(&schema).pool_size(3);
        let opened = builder.long_poll(rarely()).connect().await.expect("open the schema");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.db");
        let file = EmbeddedProvider::open(&path).await.expect("open the file");
        [
            Self::Postgres(opened, Place::Postgres { url, schema }),
            Self::Embedded(file, Place::Embedded(path), folder),
        ]
    }

    fn place(&self) -> &Place {
        match self {
            Self::Postgres(_, place) | Self::Embedded(_, place, _) => place,
        }
    }

    fn provider(&self) -> Arc<dyn Provider> {
        match self {
            Self::Postgres(provider, _) => Arc::new(provider.clone()),
            Self::Embedded(provider, ..) => Arc::new(provider.clone()),
        }
    }

    fn feed(&self) -> Feed {
        match self {
            Self::Postgres(provider, _) => provider.feed(),
            Self::Embedded(provider, ..) => provider.feed().expect("its feed"),
        }
    }

    /// Returns when whoever waits sleeps, and others know.
    async fn sleeps(&self) {
        if let Self::Postgres(provider, _) = self {
            let hears = |health: Health| health.listener == ListenerState::Listening;
            while !hears(provider.health()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        // The look that follows upon listening.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    async fn close(self) {
        match self {
            Self::Postgres(provider, _) => provider.close().await,
            Self::Embedded(provider, ..) => provider.close().await,
        }
    }
}

async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, wait).await;
    done.unwrap_or_else(|_| panic!("{what}: nobody was told"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_wakes_a_waiting_worker_however_its_sender_ends() {
    for waiting in Waiting::both().await {
        for (n, ending) in ENDINGS.into_iter().enumerate() {
            let mut sender = Process::start(waiting.place()).await;
            let provider = waiting.provider();
            let turn = tokio::spawn(async move { provider.fetch_orchestration_item(RARE, RARE, None).await });
            waiting.sleeps().await;
            sender.last(&format!("start s{n}"), ending, "done").await;
            let turn = soon(&format!("a start, {ending:?}"), turn).await.expect("no panic");
            let (item, ..) = turn.expect("fetch").expect("a turn");
            assert_eq!(item.instance, format!("s{n}"));
        }
        waiting.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activity_wakes_a_waiting_worker_however_its_sender_ends() {
    for waiting in Waiting::both().await {
        for (n, ending) in ENDINGS.into_iter().enumerate() {
            let mut sender = Process::start(waiting.place()).await;
            let provider = waiting.provider();
            let work = tokio::spawn(async move {
                let tags = TagFilter::default();
                provider.fetch_work_item(RARE, RARE, None, &tags).await
            });
            waiting.sleeps().await;
            sender.last(&format!("work w{n}"), ending, "done").await;
            let work = soon(&format!("an activity, {ending:?}"), work).await.expect("no panic");
            let (item, ..) = work.expect("fetch").expect("an activity");
            let WorkItem::ActivityExecute { instance, .. } = item else {
                panic!("{item:?}")
            };
            assert_eq!(instance, format!("w{n}"));
        }
        waiting.close().await;
    }
}

/// What its position in the feed is given to after the call must be given before the process ends in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_wakes_a_waiting_reader_when_its_process_closes() {
    for waiting in Waiting::both().await {
        let mut poller = ChangePoller::new(&waiting.feed());
        for n in 0..3 {
            let mut writer = Process::start(waiting.place()).await;
            let instance = format!("d{n}");
            make(&*waiting.provider(), &instance).await;
            soon("a start", until(&mut poller, Kind::Started, 1)).await;
            let deleted = tokio::spawn(async move {
                until(&mut poller, Kind::Deleted, 1).await;
                poller
            });
            waiting.sleeps().await;
            writer.last(&format!("delete {instance}"), Ending::Close, "done").await;
            poller = soon("a deletion", deleted).await.expect("no panic");
        }
        waiting.close().await;
    }
}

/// An instance whose first turn is done.
async fn make(provider: &dyn Provider, instance: &str) {
    provider
        .enqueue_for_orchestrator(start(instance), None)
        .await
        .expect("start");
    let fetched = provider.fetch_orchestration_item(RARE, RARE, None).await;
    let (_, token, _) = fetched.expect("fetch").expect("a turn");
    let done = ack_turn(provider, &token, instance, Vec::new(), Vec::new()).await;
    done.expect("acknowledge a turn");
}

async fn until(poller: &mut ChangePoller, kind: Kind, mut count: usize) {
    while count > 0 {
        let batch = poller.poll().await.expect("read");
        let found = batch.events.iter().filter(|event| event.kind == kind).count();
        count = count.saturating_sub(found);
        if count > 0 {
            poller.wait(RARE).await;
        }
    }
}
