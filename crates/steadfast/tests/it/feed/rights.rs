//! A role that may only read follows the feed; it neither assigns nor commits.

use steadfast::feed::{ChangePoller, FeedError, Level, NamedCursor};
use steadfast::postgres::PostgresProvider;

use super::{append, drain};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "fails: such a role is refused where it should only see less; issue 5 is open. Run: cargo xtask test -- -p steadfast --test it a_role_that_may_only_read -- --ignored"]
async fn a_role_that_may_only_read_follows_the_feed() {
    let (url, schema) = (crate::harness::database_url(), crate::harness::fresh_schema());
    let writer = PostgresProvider::builder(&url).schema(&schema).feed(Level::History);
    let writer = writer.connect().await.expect("open a provider");
    let role = format!("reader_{}", schema.rsplit('_').next().expect("a name"));
    // As docs/operations.md has it.
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA \"{schema}\" TO {role};
         GRANT SELECT ON \"{schema}\".sf_ledger, \"{schema}\".sf_feed, \"{schema}\".sf_feed_head,
             \"{schema}\".sf_feed_pending_0, \"{schema}\".sf_feed_pending_1, \"{schema}\".sf_feed_cursor TO {role}"
    );
    crate::harness::raw().await.batch_execute(&grants).await.expect("grant");
    let target = steadfast::postgres::PostgresProvider::builder(&as_role(&url, &role)).schema(&schema);
    let feed = target.open_feed().await.expect("open the feed");
    append(&writer, "a", 1..=2).await;
    let mut poller = ChangePoller::new(&feed);
    assert_eq!(drain(&mut poller).await.expect("read").len(), 2);
    let mut cursor = NamedCursor::open(&feed, "mine", ChangePoller::new(&feed))
        .await
        .expect("open");
    cursor.poll().await.expect("read");
    assert_eq!(cursor.commit().await.expect_err("no right"), FeedError::ReadOnly);
    // Somebody else's transaction is pending, and nobody who may assign is there: it says so, and hands nothing out.
    let sql = crate::harness::raw().await;
    let append = format!(
        "SET search_path TO \"{schema}\"; SELECT sf_append_with_execution(gen_random_uuid(), 60000, 'b', 1, '{{1}}', \
         '{{1}}', ARRAY['{{}}'::bytea], '{{1}}')"
    );
    sql.batch_execute(&append).await.expect("write");
    let batch = poller.poll().await.expect("read");
    assert_eq!((batch.events.len(), batch.caught_up), (0, false));
    assert_eq!(
        drain(&mut ChangePoller::from_sequence(&writer.feed(), 2))
            .await
            .expect("assigned")
            .len(),
        1
    );
    assert_eq!(drain(&mut poller).await.expect("read").len(), 1);
    feed.close().await;
    writer.close().await;
}

/// The same server under another role.
fn as_role(url: &str, role: &str) -> String {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{role}@{host}")
}
