//! Feeds that are wrong on purpose: each must fail the checker that the real one passes, in the same situation.

use std::collections::HashSet;
use std::time::Duration;

use steadfast::fault::Faults;
use steadfast::feed::{ChangePoller, Level, Retention};
use steadfast::postgres::LongPoll;
use tokio_postgres::Client;

use super::checker::{Records, Seen, Write, violations};
use super::{append, drain};
use crate::op::scene::Scene;

fn writes(list: &[(&str, u64)]) -> HashSet<Write> {
    list.iter()
        .map(|(instance, id)| Write {
            instance: (*instance).to_owned(),
            from: *id,
            upto: *id,
        })
        .collect()
}

fn judge(reader: Vec<Seen>, done: &[(&str, u64)]) -> Vec<String> {
    violations(&Records {
        readers: vec![reader],
        tried: writes(done),
        acknowledged: writes(done),
    })
}

fn seen(events: Vec<steadfast::feed::Event>) -> Vec<Seen> {
    let event = |e: steadfast::feed::Event| Seen::Event {
        sequence: e.sequence,
        instance: e.instance,
        event_id: e.event_id.unwrap_or(0),
        ends: e.ends_operation,
    };
    events.into_iter().map(event).collect()
}

/// Rows behind a cursor, without any look at where the feed begins and ends.
async fn rows_behind(sql: &Client, cursor: &mut i64) -> Vec<Seen> {
    let rows = "SELECT last_sequence, instance_id, event_ids[1] FROM sf_feed WHERE last_sequence > $1 ORDER BY 1";
    let rows = sql.query(rows, &[cursor]).await.expect("read the feed");
    let event = |row: &tokio_postgres::Row| {
        *cursor = row.get(0);
        Seen::Event {
            sequence: row.get::<_, i64>(0).unsigned_abs(),
            instance: row.get(1),
            event_id: row.get::<_, i64>(2).unsigned_abs(),
            ends: true,
        }
    };
    rows.iter().map(event).collect()
}

const APPEND: &str = "SELECT sf_append_with_execution(gen_random_uuid(), 60000, $1, 1, '{1}', '{1}', \
                      ARRAY['{}'::bytea], '{1}')";

async fn scene() -> Scene {
    let url = crate::harness::database_url();
    Scene::with(&url, |b| b.feed(Level::History)).await
}

/// One transaction writes and stays open, another writes and commits, a reader looks, the first commits.
async fn overtake(scene: &Scene, look: impl AsyncFn(&mut Vec<Seen>)) -> Vec<String> {
    let (mut slow, quick) = (scene.sql().await, scene.sql().await);
    let held = slow.transaction().await.expect("begin");
    held.query(APPEND, &[&"slow"]).await.expect("write");
    quick.query(APPEND, &[&"quick"]).await.expect("write");
    let mut reader = Vec::new();
    look(&mut reader).await;
    held.commit().await.expect("commit");
    look(&mut reader).await;
    judge(reader, &[("slow", 1), ("quick", 1)])
}

#[tokio::test]
async fn positions_given_by_writers_are_overtaken() {
    let scene = scene().await;
    let wrong = "CREATE OR REPLACE FUNCTION sf_feed_append(p_at timestamptz, p_results bigint[], o_key bigint[],
            o_execution bigint[], e_op integer[], e_event bigint[], e_kind smallint[])
        RETURNS void LANGUAGE sql AS $$
            INSERT INTO sf_feed SELECT nextval('sf_feed_pending_id'), 1, p_at, i.instance_key, i.instance_id,
                i.execution_id, i.orchestration_name, e_event, e_kind
            FROM sf_instance i WHERE i.instance_key = o_key[1] $$";
    let sql = scene.sql().await;
    sql.batch_execute(wrong).await.expect("the wrong function");
    let cursor = tokio::sync::Mutex::new(0);
    let wrong = overtake(&scene, async |reader| {
        reader.extend(rows_behind(&sql, &mut *cursor.lock().await).await);
    });
    let wrong = wrong.await;
    assert!(wrong.iter().any(|w| w.starts_with("complete: ")), "{wrong:?}");
    scene.close().await;
}

#[tokio::test]
async fn positions_given_after_commit_are_not() {
    let scene = scene().await;
    let poller = tokio::sync::Mutex::new(ChangePoller::new(&scene.provider.feed()));
    let wrong = overtake(&scene, async |reader| {
        reader.extend(seen(drain(&mut *poller.lock().await).await.expect("read")));
    });
    assert_eq!(wrong.await, Vec::<String>::new());
    scene.close().await;
}

/// A reader that hears nothing of what another process writes; what it has after a while.
async fn deaf(safety: Duration) -> Vec<String> {
    let scene = scene().await;
    let faults = Faults::new();
    faults.lose_hints(true);
    let name = format!("deaf {}", scene.schema);
    let reader = crate::op::scene::builder(&crate::harness::database_url(), &scene.schema)
        .application_name(&name)
        .faults(faults)
        .long_poll(LongPoll {
            fallback_poll_interval: safety,
            feed_poll_interval: safety,
            ..LongPoll::default()
        });
    let feed = reader.open_feed().await.expect("open the feed");
    let mut poller = ChangePoller::new(&feed);
    let mut events = Vec::new();
    // Until it is known to listen, it has reasons of its own to look.
    let listening = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.locktype = 'advisory' AND l.mode = 'ShareLock' AND l.granted AND a.application_name = $1";
    while scene.number(listening, &[&name]).await == 0 {
        events.extend(drain(&mut poller).await.expect("read"));
        poller.wait(Duration::from_millis(100)).await;
    }
    for _ in 0..2 {
        events.extend(drain(&mut poller).await.expect("read"));
        poller.wait(Duration::from_millis(500)).await;
    }
    events.extend(drain(&mut poller).await.expect("read"));
    // It waits already when the event is written: whoever begins to wait looks first.
    let patience = tokio::time::timeout(Duration::from_secs(4), async {
        loop {
            poller.wait(Duration::from_secs(3600)).await;
            let heard = drain(&mut poller).await.expect("read");
            if !heard.is_empty() {
                return heard;
            }
        }
    });
    let write = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        append(scene.provider.as_ref(), "unheard", 1..=1).await;
    };
    let (heard, ()) = tokio::join!(patience, write);
    events.extend(heard.unwrap_or_default());
    feed.close().await;
    scene.close().await;
    judge(seen(events), &[("unheard", 1)])
}

#[tokio::test]
async fn delivery_by_notification_alone_loses_what_was_not_heard() {
    let wrong = deaf(Duration::from_secs(3600)).await;
    assert!(wrong.iter().any(|w| w.starts_with("complete: ")), "{wrong:?}");
}

#[tokio::test]
async fn a_safety_poll_finds_what_was_not_heard() {
    assert_eq!(deaf(Duration::from_millis(700)).await, Vec::<String>::new());
}

/// Five events, of which four are trimmed in the middle of a look.
async fn trim_between(scene: &Scene) {
    let last = Retention {
        max_age: None,
        max_events: Some(1),
        ..Retention::default()
    };
    scene.provider.feed().trim(last).await.expect("trim");
}

const FIVE: &[(&str, u64)] = &[("i", 1), ("i", 2), ("i", 3), ("i", 4), ("i", 5)];

async fn write_five(scene: &Scene) {
    for (instance, id) in FIVE {
        append(scene.provider.as_ref(), instance, *id..=*id).await;
    }
    drain(&mut ChangePoller::new(&scene.provider.feed()))
        .await
        .expect("all have positions");
}

#[tokio::test]
async fn a_head_and_rows_of_two_snapshots_hide_a_loss() {
    let scene = scene().await;
    write_five(&scene).await;
    let sql = scene.sql().await;
    let first: i64 = (sql.query_one("SELECT first_sequence FROM sf_feed_head", &[]).await)
        .expect("the head")
        .get(0);
    trim_between(&scene).await;
    assert_eq!(first, 1, "nothing was lost, as far as the first look can tell");
    let reader = rows_behind(&sql, &mut 0).await;
    let wrong = judge(reader, FIVE);
    assert!(wrong.iter().any(|w| w.starts_with("ordered: ")), "{wrong:?}");
    scene.close().await;
}

#[tokio::test]
async fn a_head_and_rows_of_one_snapshot_tell_it() {
    let scene = scene().await;
    write_five(&scene).await;
    let mut poller = ChangePoller::new(&scene.provider.feed());
    trim_between(&scene).await;
    let error = poller.poll().await.expect_err("a loss");
    let steadfast::feed::FeedError::Trimmed { cursor, first, .. } = error else {
        panic!("{error}")
    };
    poller.seek(first - 1);
    let mut reader = vec![Seen::Trimmed { cursor, first }];
    reader.extend(seen(drain(&mut poller).await.expect("read")));
    assert_eq!(judge(reader, FIVE), Vec::<String>::new());
    scene.close().await;
}
