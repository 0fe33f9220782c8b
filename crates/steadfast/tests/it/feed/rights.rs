//! Readers that may only read, by their role or by their sessions' default: they follow and wait; they neither assign nor
//! commit, and are told so by a typed error.

use std::time::{Duration, Instant};

use steadfast::feed::{ChangePoller, Feed, FeedError, Level, NamedCursor, Retention};
use steadfast::postgres::PostgresProvider;

use super::{append, drain};

/// A store that somebody writes to, and the URL of a role without rights.
struct Stage {
    writer: PostgresProvider,
    schema: String,
    role: String,
}

impl Stage {
    async fn new() -> Self {
        let (url, schema) = (crate::harness::database_url(), crate::harness::fresh_schema());
        let writer = PostgresProvider::builder(&url).schema(&schema).feed(Level::History);
        let writer = writer.connect().await.expect("open a provider");
        let role = format!("reader_{}", schema.rsplit('_').next().expect("a name"));
        let sql = format!("CREATE ROLE {role} LOGIN");
        crate::harness::raw().await.batch_execute(&sql).await.expect("a role");
        Self { writer, schema, role }
    }

    async fn sql(&self, sql: &str) {
        let sql = sql.replace("{schema}", &format!("\"{}\"", self.schema));
        let sql = sql.replace("{role}", &self.role);
        crate::harness::raw().await.batch_execute(&sql).await.expect(&sql);
    }

    /// As docs/operations.md has it.
    async fn grant_reading(&self) {
        let grants = "GRANT USAGE ON SCHEMA {schema} TO {role};
             GRANT SELECT ON {schema}.sf_ledger, {schema}.sf_feed, {schema}.sf_feed_head,
                 {schema}.sf_feed_pending_0, {schema}.sf_feed_pending_1, {schema}.sf_feed_cursor TO {role};
             GRANT EXECUTE ON FUNCTION {schema}.sf_feed_read, {schema}.sf_feed_report TO {role}";
        self.sql(grants).await;
    }

    /// The feed under that role.
    async fn feed(&self) -> Feed {
        let url = as_role(&crate::harness::database_url(), &self.role);
        let reader = PostgresProvider::builder(&url).schema(&self.schema);
        reader.open_feed().await.expect("open the feed")
    }

    /// A commit by somebody who dies before assigning.
    async fn leave_pending(&self, instance: &str) {
        let append = format!(
            "SET search_path TO {{schema}}; SELECT sf_append_with_execution(gen_random_uuid(), 60000, '{instance}', 1, \
             '{{1}}', '{{1}}', ARRAY['{{}}'::bytea], '{{1}}')"
        );
        self.sql(&append).await;
    }

    async fn close(self, feed: Feed) {
        feed.close().await;
        self.writer.close().await;
        self.sql("DROP OWNED BY {role}; DROP ROLE {role}").await;
    }
}

/// What everybody who may only read goes through.
async fn follows(stage: &Stage, feed: &Feed) {
    append(&stage.writer, "a", 1..=2).await;
    let mut poller = ChangePoller::new(feed);
    assert_eq!(drain(&mut poller).await.expect("read").len(), 2);
    let mut cursor = NamedCursor::open(feed, "mine", ChangePoller::new(feed))
        .await
        .expect("open");
    cursor.poll().await.expect("read");
    // Told at once, not after the time that trouble is waited out for.
    let asked = Instant::now();
    assert_eq!(cursor.commit().await.expect_err("no right"), FeedError::ReadOnly);
    assert_eq!(
        feed.trim(Retention::default()).await.expect_err("no right"),
        FeedError::ReadOnly
    );
    assert_eq!(feed.rotate_epoch().await.expect_err("no right"), FeedError::ReadOnly);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    // Somebody else's transaction is pending, and nobody who may assign is there: it says so, and hands nothing out.
    stage.leave_pending("b").await;
    let batch = poller.poll().await.expect("read");
    assert_eq!((batch.events.len(), batch.caught_up), (0, false));
    let mut other = ChangePoller::from_sequence(&stage.writer.feed(), 2);
    assert_eq!(drain(&mut other).await.expect("assigned").len(), 1);
    assert_eq!(drain(&mut poller).await.expect("read").len(), 1);
    // It is woken by what happens while it waits. Its listener's connecting is a reason to look, too: that first.
    for _ in 0..4 {
        poller.wait(Duration::from_millis(300)).await;
        drain(&mut poller).await.expect("read");
    }
    let waiting = async {
        let started = Instant::now();
        loop {
            poller.wait(Duration::from_secs(60)).await;
            let events = drain(&mut poller).await.expect("read");
            if !events.is_empty() {
                return (events.len(), started.elapsed());
            }
        }
    };
    let writing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        append(&stage.writer, "c", 1..=1).await;
    };
    let ((events, took), ()) = tokio::join!(waiting, writing);
    assert_eq!(events, 1);
    assert!(
        took < Duration::from_secs(12),
        "woken by the safety poll only: {took:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_only_read_follows_the_feed() {
    let stage = Stage::new().await;
    stage.grant_reading().await;
    let feed = stage.feed().await;
    follows(&stage, &feed).await;
    // Payloads need the right to read histories: what is missing is named, and it is not taken for a read-only feed.
    let mut poller = ChangePoller::new(&feed);
    poller.with_payload(true);
    let refused = poller.poll().await.expect_err("no right");
    assert!(
        matches!(&refused, FeedError::Store { retryable: false, message } if message.contains("sf_event")),
        "{refused:?}"
    );
    stage.sql("GRANT SELECT ON {schema}.sf_event TO {role}").await;
    let batch = poller.poll().await.expect("read");
    assert!(batch.events.iter().any(|event| event.payload.is_some()));
    // A named cursor of its own needs a grant of its own, and no more.
    stage
        .sql("GRANT INSERT, UPDATE ON {schema}.sf_feed_cursor TO {role}")
        .await;
    let mut cursor = NamedCursor::open(&feed, "mine", ChangePoller::new(&feed))
        .await
        .expect("open");
    cursor.poll().await.expect("read");
    cursor.commit().await.expect("commit");
    assert!(cursor.status().await.expect("status").is_some());
    stage.close(feed).await;
}

/// What a hot standby answers to every write, without one: 25006, although the role has every right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_only_read_follow_the_feed() {
    let stage = Stage::new().await;
    let grants = "GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role};
         GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {role};
         ALTER ROLE {role} SET default_transaction_read_only = on";
    stage.sql(grants).await;
    let feed = stage.feed().await;
    follows(&stage, &feed).await;
    stage.close(feed).await;
}

/// The same server under another role.
fn as_role(url: &str, role: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{role}@{host}")
}
