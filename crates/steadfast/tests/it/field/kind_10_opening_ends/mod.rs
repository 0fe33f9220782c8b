//! Kind 10: Every step of opening has a deadline.
//!
//! Each test ends by its own event; the outer limits only keep a broken build from hanging.

pub(crate) mod hostile;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use steadfast::postgres::{Builder, Migrations, OpenErrorKind, PostgresProvider};

use crate::field::form::{is_long, report};
use crate::harness::{database_url, fresh_schema, raw};
use hostile::{Hostile, Manner};

/// `connect_timeout` and `call_timeout`: 2 s each in the short form, the defaults in the long one.
fn patience_secs() -> u32 {
    if is_long() { 10 } else { 2 }
}

/// What no opening may outlast: `connect_timeout` and 10 s.
fn limit() -> Duration {
    Duration::from_secs(u64::from(patience_secs()) + 10)
}

const MANNERS: [Manner; 13] = [
    Manner::Deaf,
    Manner::DeafInTls,
    Manner::Trickles,
    Manner::Announces(b'R'),
    Manner::Announces(b'E'),
    Manner::NeverReady,
    Manner::ParametersWithoutEnd,
    Manner::HoursOfScram,
    Manner::SilentAfterwards,
    Manner::ChattersAfterwards,
    Manner::ReportsAfterwards,
    Manner::TricklesAfterwards,
    Manner::AnnouncesAfterwards,
];

/// Opens against such a server, which must end with an error that says so.
async fn opens(manner: Manner, open: impl AsyncFnOnce(Builder) -> Option<(OpenErrorKind, String)>) -> String {
    let server = Hostile::start(manner).await;
    let patience = patience_secs();
    let builder = PostgresProvider::builder(&server.url(patience)).call_timeout(Duration::from_secs(patience.into()));
    let started = Instant::now();
    let (kind, text) = tokio::time::timeout(limit(), open(builder))
        .await
        .unwrap_or_else(|_| panic!("{manner:?}: still opening after {:?}", limit()))
        .unwrap_or_else(|| panic!("{manner:?}: it opened"));
    assert_eq!(kind, OpenErrorKind::Unreachable, "{manner:?}: {text}");
    assert!(
        !text.contains("hunter2") && text.lines().count() == 1,
        "{manner:?}: {text}"
    );
    format!(
        "{manner:?}: {:.1} s, {} kB taken: {text}",
        started.elapsed().as_secs_f64(),
        server.sent() >> 10
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_ends_whatever_the_server_does() {
    let provider = async |builder: Builder| builder.connect().await.err().map(|e| (e.kind(), e.to_string()));
    for line in join_all(MANNERS.map(|manner| opens(manner, provider))).await {
        report(&format!("- kind 10, opening against a hostile server, {line}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_the_feed_ends_whatever_the_server_does() {
    let feed = async |builder: Builder| builder.open_feed().await.err().map(|e| (e.kind(), e.to_string()));
    let manners = [Manner::Trickles, Manner::SilentAfterwards, Manner::ChattersAfterwards];
    join_all(manners.map(|manner| opens(manner, feed))).await;
}

/// One thread for everything: nothing may keep it busy past its deadline.
#[tokio::test]
async fn one_thread_is_enough() {
    let provider = async |builder: Builder| builder.connect().await.err().map(|e| (e.kind(), e.to_string()));
    let manners = [Manner::HoursOfScram, Manner::ChattersAfterwards];
    join_all(manners.map(|manner| opens(manner, provider))).await;
}

#[tokio::test]
async fn a_password_provider_that_does_not_answer_is_not_waited_for() {
    let server = Hostile::start(Manner::SilentAfterwards).await;
    let builder = PostgresProvider::builder(&server.url(1)).password_provider(std::future::pending);
    let error = tokio::time::timeout(limit(), builder.connect())
        .await
        .expect("it hangs")
        .expect_err("nobody is there");
    assert_eq!(error.kind(), OpenErrorKind::Unreachable, "{error}");
    assert!(error.to_string().contains("password provider"), "{error}");
}

/// Whoever may connect can take the lock of installers.
async fn take_the_installers_lock(schema: &str) -> (tokio_postgres::Client, i32) {
    let holder = raw().await;
    let row = holder
        .query_one(
            "SELECT pg_advisory_lock(hashtextextended('steadfast schema ' || $1, 0))::text, pg_backend_pid()",
            &[&schema],
        )
        .await
        .expect("take the lock");
    (holder, row.get(1))
}

/// Backends of this application that wait for a lock.
async fn waiting_backends(application: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'";
    raw().await.query_one(sql, &[&application]).await.expect("ask").get(0)
}

#[tokio::test]
async fn an_install_does_not_wait_for_ever_for_another() {
    let schema = fresh_schema();
    let (holder, pid) = take_the_installers_lock(&schema).await;
    let application = format!("installer of {schema}");
    let builder = || {
        PostgresProvider::builder(&database_url())
            .schema(&schema)
            .application_name(&application)
    };
    let opening = builder().install_timeout(Duration::from_secs(1)).connect();
    let error = tokio::time::timeout(limit(), opening)
        .await
        .expect("it hangs")
        .expect_err("the lock is taken");
    assert_eq!(error.kind(), OpenErrorKind::Locked, "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&format!("process {pid} ")) && text.contains(&schema),
        "{text}"
    );
    assert_eq!(waiting_backends(&application).await, 0, "left behind in the server");
    let missing = builder()
        .migrations(Migrations::Verify)
        .connect()
        .await
        .expect_err("nothing is there");
    assert_eq!(missing.kind(), OpenErrorKind::SchemaMissing, "{missing}");

    // Several wait, and the first one that gets its turn does the work.
    let others = join_all((0..3).map(|_| tokio::spawn(builder().connect()))).await_with(async {
        while waiters(&application).await < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(holder);
    });
    for other in others.await {
        let provider = other.expect("a task").expect("the lock is free");
        provider.close().await;
    }

    // Once installed, the lock is nobody's business.
    let (_holder, _) = take_the_installers_lock(&schema).await;
    let provider = builder().connect().await.expect("nothing to install");
    provider.close().await;
}

/// Connections of this application.
async fn waiters(application: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
    raw().await.query_one(sql, &[&application]).await.expect("ask").get(0)
}

/// Two things at once, of which the second only makes the first go on.
trait AwaitWith: Future + Sized {
    fn await_with(self, other: impl Future<Output = ()>) -> impl Future<Output = Self::Output> {
        async {
            let (result, ()) = tokio::join!(self, other);
            result
        }
    }
}

impl<F: Future> AwaitWith for F {}

#[tokio::test]
async fn removing_a_schema_does_not_wait_for_ever() {
    let schema = fresh_schema();
    let builder = PostgresProvider::builder(&database_url())
        .schema(&schema)
        .install_timeout(Duration::from_secs(2));
    let provider = builder.connect().await.expect("open");
    let reader = raw().await;
    let tables = "SELECT format('LOCK TABLE %s IN ACCESS SHARE MODE', string_agg(c.oid::regclass::text, ', '))
                  FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = to_regnamespace($1)";
    let sql: String = reader
        .query_one(tables, &[&format!("\"{schema}\"")])
        .await
        .expect("ask")
        .get(0);
    reader.batch_execute(&format!("BEGIN; {sql}")).await.expect("read");
    let refused = tokio::time::timeout(limit(), provider.cleanup_schema())
        .await
        .expect("it hangs")
        .expect_err("somebody reads");
    assert!(refused.is_retryable(), "{refused}");
    reader.batch_execute("COMMIT").await.expect("done reading");
    provider.cleanup_schema().await.expect("nobody reads any more");
    provider.close().await;
}
