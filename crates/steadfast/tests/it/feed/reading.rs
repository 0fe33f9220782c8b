//! What a reader is handed, on both engines from the same code.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use duroxide::providers::Provider;
use futures_util::StreamExt;
use steadfast::embedded::EmbeddedProvider;
use steadfast::feed::{ChangePoller, Feed, FeedError, Filter, Kind, Level, NamedCursor, Retention, Token};
use steadfast::postgres::PostgresProvider;

use super::{append, drain};

/// A store whose feed records histories, and that feed.
struct Stage {
    provider: Arc<dyn Provider>,
    feed: Feed,
    _directory: tempfile::TempDir,
}

impl Stage {
    async fn postgres(level: Level) -> Self {
        let builder = PostgresProvider::builder(&crate::harness::database_url());
        let builder = builder.schema(crate::harness::fresh_schema()).pool_size(3).feed(level);
        let provider = builder.connect().await.expect("open a provider");
        Self {
            feed: provider.feed(),
            provider: Arc::new(provider),
            _directory: tempfile::tempdir().expect("a folder"),
        }
    }

    async fn embedded(level: Level) -> Self {
        let directory = tempfile::tempdir().expect("a folder");
        let builder = EmbeddedProvider::builder(directory.path().join("store.db")).feed(level);
        let provider = builder.open().await.expect("open a provider");
        Self {
            feed: provider.feed().expect("open the feed"),
            provider: Arc::new(provider),
            _directory: directory,
        }
    }

    async fn append(&self, instance: &str, ids: std::ops::RangeInclusive<u64>) {
        append(self.provider.as_ref(), instance, ids).await;
    }

    /// All sequences from the beginning, through a filter.
    async fn sequences(&self, filter: Filter) -> Vec<u64> {
        let mut poller = ChangePoller::new(&self.feed);
        poller.with_filter(filter).with_batch_limit(limit(2));
        let events = drain(&mut poller).await.expect("read");
        events.iter().map(|e| e.sequence).collect()
    }
}

fn limit(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("not zero")
}

fn keep(events: u64) -> Retention {
    Retention {
        max_age: None,
        max_events: Some(events),
        ..Retention::default()
    }
}

macro_rules! on_both {
    ($($name:ident at $level:ident;)*) => {
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Stage::postgres(steadfast::feed::Level::$level).await).await; })*
        }
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Stage::embedded(steadfast::feed::Level::$level).await).await; })*
        }
    };
}

on_both! {
    sequences_are_dense_and_a_limit_splits_operations at History;
    filters_apply_and_the_token_moves_on at History;
    places_before_and_behind_the_feed_are_defined at History;
    a_trim_is_told_and_cursors_hold_it_back_up_to_a_cap at History;
    tokens_of_another_epoch_are_refused at History;
    a_named_cursor_goes_on_where_it_was_committed at History;
    a_waiter_is_woken_by_a_commit at History;
    a_stream_goes_on_with_what_comes_later at History;
    the_level_decides_what_is_recorded at Lifecycle;
    a_feed_that_is_off_records_nothing at Off;
    payloads_come_on_request at History;
}

async fn sequences_are_dense_and_a_limit_splits_operations(stage: Stage) {
    stage.append("a", 1..=3).await;
    stage.append("b", 1..=2).await;
    let mut poller = ChangePoller::new(&stage.feed);
    drain(&mut poller).await.expect("all have positions");
    let mut poller = ChangePoller::new(&stage.feed);
    let batch = poller.with_batch_limit(limit(2)).poll().await.expect("read");
    assert_eq!(
        batch
            .events
            .iter()
            .map(|e| (e.sequence, e.ends_operation))
            .collect::<Vec<_>>(),
        [(1, false), (2, false)]
    );
    assert!(!batch.caught_up);
    assert_eq!((batch.head, batch.next.sequence()), (5, 2));
    // Resumed within the operation.
    let mut resumed = ChangePoller::from_token(&stage.feed, batch.next);
    let rest = drain(&mut resumed).await.expect("read");
    let rest: Vec<_> = rest
        .iter()
        .map(|e| (e.sequence, e.instance.as_str(), e.event_id, e.ends_operation))
        .collect();
    assert_eq!(
        rest,
        [
            (3, "a", Some(3), true),
            (4, "b", Some(1), false),
            (5, "b", Some(2), true)
        ]
    );
    assert_eq!(resumed.last_sequence(), 5);
}

async fn filters_apply_and_the_token_moves_on(stage: Stage) {
    for instance in ["order-1", "order-2", "other"] {
        stage.append(instance, 1..=2).await;
    }
    let order = stage.sequences(Filter::new()).await;
    assert_eq!(order, [1, 2, 3, 4, 5, 6]);
    assert_eq!(stage.sequences(Filter::new().prefix("order-")).await, [1, 2, 3, 4]);
    assert_eq!(stage.sequences(Filter::new().instance("other")).await, [5, 6]);
    assert_eq!(
        stage.sequences(Filter::new().kind(Kind::Started).prefix("o")).await,
        [1, 3, 5]
    );
    assert_eq!(
        stage.sequences(Filter::new().orchestration("nobody")).await,
        Vec::<u64>::new()
    );
    let mut poller = ChangePoller::new(&stage.feed);
    poller.with_filter(Filter::new().instance("nobody\0 % _"));
    let batch = poller.poll().await.expect("read");
    assert_eq!((batch.events.len(), batch.next.sequence()), (0, 6));
}

async fn places_before_and_behind_the_feed_are_defined(stage: Stage) {
    assert_eq!(ChangePoller::new(&stage.feed).poll().await.expect("empty").head, 0);
    stage.append("a", 1..=2).await;
    assert_eq!(stage.sequences(Filter::new()).await, [1, 2]);
    for ahead in [3, u64::MAX - 1, u64::MAX] {
        let error = ChangePoller::from_sequence(&stage.feed, ahead)
            .poll()
            .await
            .expect_err("ahead");
        assert_eq!(error, FeedError::CursorAhead { cursor: ahead, last: 2 });
    }
    let mut now = ChangePoller::from_now(&stage.feed).await.expect("the end");
    assert_eq!(
        (now.last_sequence(), drain(&mut now).await.expect("nothing").len()),
        (2, 0)
    );
}

async fn a_trim_is_told_and_cursors_hold_it_back_up_to_a_cap(stage: Stage) {
    for id in 1..=6 {
        stage.append("a", id..=id).await;
    }
    let mut cursor = NamedCursor::open(&stage.feed, "slow", ChangePoller::new(&stage.feed))
        .await
        .expect("a cursor");
    drain(cursor.poller()).await.expect("all have positions");
    let mut cursor = NamedCursor::open(&stage.feed, "slow", ChangePoller::new(&stage.feed))
        .await
        .expect("a cursor");
    cursor.poller().with_batch_limit(limit(2));
    cursor.poll().await.expect("two");
    cursor.commit().await.expect("commit");
    assert_eq!(
        stage.feed.trim(keep(1)).await.expect("trim"),
        2,
        "what the cursor has not read stays"
    );
    assert_eq!(
        cursor.status().await.expect("status").map(|s| (s.lag, s.lost)),
        Some((4, false))
    );
    let capped = Retention {
        max_held_events: 3,
        ..keep(1)
    };
    assert_eq!(stage.feed.trim(capped).await.expect("trim"), 1);
    let status = stage.feed.status().await.expect("status");
    assert_eq!((status.first, status.last, status.cursors[0].lost), (4, 6, true));
    let told = FeedError::Trimmed {
        cursor: 2,
        first: 4,
        last: 6,
    };
    assert_eq!(cursor.poll().await.expect_err("a loss"), told);
    // All of it gone: the end stays the end.
    assert_eq!(stage.feed.trim(keep(0)).await.expect("trim"), 3);
    let status = stage.feed.status().await.expect("status");
    assert_eq!((status.first, status.last), (7, 6));
    assert!(matches!(cursor.poll().await, Err(FeedError::Trimmed { first: 7, .. })));
    let mut end = ChangePoller::from_sequence(&stage.feed, 6);
    assert_eq!(drain(&mut end).await.expect("nothing").len(), 0);
    stage.append("a", 7..=7).await;
    let next = loop {
        let events = drain(&mut end).await.expect("one");
        if let Some(event) = events.first() {
            break event.sequence;
        }
    };
    assert_eq!(next, 7);
}

async fn tokens_of_another_epoch_are_refused(stage: Stage) {
    stage.append("a", 1..=2).await;
    let mut poller = ChangePoller::new(&stage.feed);
    drain(&mut poller).await.expect("read");
    let token = poller.token().expect("a token");
    // The right epoch, and another mark: a restored store that went another way.
    let text = token.to_string();
    let (head, _) = text.rsplit_once('-').expect("a mark");
    let other: Token = format!("{head}-1").parse().expect("a token");
    let refused = ChangePoller::from_token(&stage.feed, other).poll().await;
    assert_eq!(
        refused.expect_err("another mark"),
        FeedError::EpochMismatch { token: other }
    );
    stage.feed.rotate_epoch().await.expect("rotate");
    assert_eq!(
        poller.poll().await.expect_err("another epoch"),
        FeedError::EpochMismatch { token }
    );
    poller.seek(2);
    assert_eq!(drain(&mut poller).await.expect("a number knows no epoch").len(), 0);
}

async fn a_named_cursor_goes_on_where_it_was_committed(stage: Stage) {
    for name in ["", "a\0b"] {
        let refused = NamedCursor::open(&stage.feed, name, ChangePoller::new(&stage.feed)).await;
        assert!(matches!(refused, Err(FeedError::CursorName(_))));
    }
    stage.append("a", 1..=4).await;
    stage.sequences(Filter::new()).await;
    let open = async || {
        NamedCursor::open(&stage.feed, "Grüße", ChangePoller::new(&stage.feed))
            .await
            .expect("open")
    };
    let mut cursor = open().await;
    cursor.poller().with_batch_limit(limit(3));
    assert_eq!(cursor.poll().await.expect("read").events.len(), 3);
    // Not committed: it comes again.
    let mut cursor = open().await;
    cursor.poller().with_batch_limit(limit(1));
    assert_eq!(cursor.poll().await.expect("read").events[0].sequence, 1);
    cursor.commit().await.expect("commit");
    let mut cursor = open().await;
    assert_eq!(cursor.poll().await.expect("read").events[0].sequence, 2);
    assert_eq!(cursor.status().await.expect("status").expect("committed").lag, 3);
}

async fn a_waiter_is_woken_by_a_commit(stage: Stage) {
    let mut poller = ChangePoller::from_now(&stage.feed).await.expect("the end");
    // Its listener connects meanwhile, which is a reason to look.
    for _ in 0..4 {
        drain(&mut poller).await.expect("read");
        poller.wait(Duration::from_millis(300)).await;
    }
    drain(&mut poller).await.expect("read");
    let started = Instant::now();
    let waiting = async {
        loop {
            poller.wait(Duration::from_secs(60)).await;
            let batch = poller.poll().await.expect("read");
            if !batch.events.is_empty() {
                return batch.events.len();
            }
        }
    };
    let writing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stage.append("a", 1..=1).await;
    };
    let (events, ()) = tokio::join!(waiting, writing);
    assert_eq!(events, 1);
    assert!(
        started.elapsed() < Duration::from_secs(12),
        "woken by the safety poll only"
    );
}

async fn a_stream_goes_on_with_what_comes_later(stage: Stage) {
    stage.append("a", 1..=2).await;
    let mut stream = Box::pin(ChangePoller::new(&stage.feed).into_stream());
    for sequence in 1..=2 {
        assert_eq!(stream.next().await.expect("more").expect("read").sequence, sequence);
    }
    stage.append("a", 3..=3).await;
    let next = tokio::time::timeout(super::SOON, stream.next()).await.expect("soon");
    assert_eq!(next.expect("more").expect("read").sequence, 3);
}

async fn the_level_decides_what_is_recorded(stage: Stage) {
    stage.append("a", 1..=3).await;
    stage.append("b", 2..=4).await;
    let mut poller = ChangePoller::new(&stage.feed);
    let events = drain(&mut poller).await.expect("read");
    assert_eq!(
        events.iter().map(|e| (e.instance.as_str(), e.kind)).collect::<Vec<_>>(),
        [("a", Kind::Started)]
    );
}

async fn a_feed_that_is_off_records_nothing(stage: Stage) {
    stage.append("a", 1..=3).await;
    let status = stage.feed.status().await.expect("status");
    assert_eq!((status.last, status.pending), (0, 0));
}

async fn payloads_come_on_request(stage: Stage) {
    stage.append("a", 1..=2).await;
    let mut poller = ChangePoller::new(&stage.feed);
    assert!(
        drain(&mut poller)
            .await
            .expect("read")
            .iter()
            .all(|e| e.payload.is_none())
    );
    let mut poller = ChangePoller::new(&stage.feed);
    poller.with_payload(true);
    let events = drain(&mut poller).await.expect("read");
    let ids: Vec<_> = events.iter().map(|e| e.payload.as_ref().map(|p| p.event_id)).collect();
    assert_eq!(ids, [Some(1), Some(2)]);
}
