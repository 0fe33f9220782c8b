//! The proxy against the real server: each fault does what it says, no more and no less.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio_postgres::{Client, NoTls};

use super::{Fault, Proxy};
use crate::harness::{database_url, fresh_schema, raw};

const PATIENCE: Duration = Duration::from_secs(30);

async fn connect(proxy: &Proxy) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(&proxy.url(&database_url()), NoTls).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

/// A table of its own, and a direct connection to look into it.
struct Witness {
    client: Client,
    table: String,
}

impl Witness {
    async fn new() -> Self {
        let client = raw().await;
        let table = fresh_schema();
        client
            .batch_execute(&format!("CREATE TABLE {table} (number bigint)"))
            .await
            .expect("create a table");
        Self { client, table }
    }

    fn insert(&self) -> String {
        format!("INSERT INTO {} VALUES ($1)", self.table)
    }

    async fn rows(&self) -> i64 {
        let count = format!("SELECT count(*) FROM {}", self.table);
        self.client.query_one(&count, &[]).await.expect("count the rows").get(0)
    }

    async fn gone(self) {
        self.client
            .batch_execute(&format!("DROP TABLE {}", self.table))
            .await
            .expect("drop the table");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_connections_are_counted() {
    let proxy = Proxy::start(&database_url()).await;
    let client = connect(&proxy).await.expect("connect");
    assert_eq!(
        (proxy.connections(), proxy.open_connections(), proxy.round_trips()),
        (1, 1, 0)
    );

    let statement = client.prepare("SELECT $1::bigint + 1").await.expect("prepare");
    assert_eq!((proxy.round_trips(), proxy.executed("+ 1")), (1, 0));
    for number in 0..5_i64 {
        let row = client.query_one(&statement, &[&number]).await.expect("query");
        assert_eq!(row.get::<_, i64>(0), number + 1);
    }
    client
        .batch_execute("SELECT 1; SELECT 2")
        .await
        .expect("a simple query");
    assert_eq!(proxy.round_trips(), 7);
    assert_eq!(
        (
            proxy.executed("$1::bigint"),
            proxy.executed("SELECT"),
            proxy.executed("DELETE")
        ),
        (5, 6, 0)
    );
    let (up, down) = proxy.bytes();
    assert!(up > 0 && down > 0);

    drop((statement, client));
    tokio::time::timeout(PATIENCE, async {
        while proxy.open_connections() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the connection ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_is_a_longer_line_and_not_a_narrower_one() {
    const EACH: Duration = Duration::from_millis(300);
    let proxy = Proxy::start(&database_url()).await;
    let client = connect(&proxy).await.expect("connect");
    let clock = client.prepare("SELECT clock_timestamp()").await.expect("prepare");
    proxy.delay(EACH);

    let begun = std::time::Instant::now();
    let rows = join_all((0..10).map(|_| client.query_one(&clock, &[]))).await;
    assert!(begun.elapsed() >= 2 * EACH, "the delay applies to each direction");
    let mut times: Vec<SystemTime> = rows.into_iter().map(|row| row.expect("query").get(0)).collect();
    times.sort();
    let spread = times[9].duration_since(times[0]).expect("sorted");
    // One after the other through a narrow line, they would be spread over nine delays.
    assert!(spread < 4 * EACH, "the server saw them {spread:?} apart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_request_never_reaches_the_server() {
    let (proxy, witness) = (Proxy::start(&database_url()).await, Witness::new().await);
    let client = connect(&proxy).await.expect("connect");
    let insert = client.prepare(&witness.insert()).await.expect("prepare");
    client.execute(&insert, &[&1_i64]).await.expect("insert");

    let mut sprung = proxy.once(&witness.table, Fault::DropRequest);
    client.query_one("SELECT 1", &[]).await.expect("another request passes");
    assert!(!sprung.happened());
    client
        .execute(&insert, &[&2_i64])
        .await
        .expect_err("the connection is lost");
    sprung.wait().await;
    assert_eq!(witness.rows().await, 1);

    // Only one request was meant; preparing it again was not one.
    let client = connect(&proxy).await.expect("connect again");
    client.execute(&witness.insert(), &[&2_i64]).await.expect("insert");
    assert_eq!(witness.rows().await, 2);
    witness.gone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_answer_comes_after_the_commit() {
    let (proxy, witness) = (Proxy::start(&database_url()).await, Witness::new().await);
    let client = connect(&proxy).await.expect("connect");
    let insert = client.prepare(&witness.insert()).await.expect("prepare");
    let select = client.prepare("SELECT 7::bigint").await.expect("prepare");

    let mut sprung = proxy.once(&witness.table, Fault::DropAnswer);
    // Sent in one go: what was asked before is still answered.
    let parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)] = &[&1_i64];
    let (before, lost) = tokio::join!(client.query_one(&select, &[]), client.execute(&insert, parameters));
    assert_eq!(before.expect("the answer before").get::<_, i64>(0), 7);
    lost.expect_err("the answer is lost");
    sprung.wait().await;
    assert_eq!(
        witness.rows().await,
        1,
        "it was done before the client heard nothing of it"
    );
    witness.gone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_midway_leaves_the_server_at_work() {
    let (proxy, witness) = (Proxy::start(&database_url()).await, Witness::new().await);
    let client = connect(&proxy).await.expect("connect");
    let slowly = format!(
        "INSERT INTO {} SELECT $1 FROM (SELECT pg_sleep(0.3)) AS nap",
        witness.table
    );
    let slowly = client
        .prepare_typed(&slowly, &[tokio_postgres::types::Type::INT8])
        .await
        .expect("prepare");

    let mut sprung = proxy.once("pg_sleep", Fault::CutMidway);
    client
        .execute(&slowly, &[&1_i64])
        .await
        .expect_err("the connection is lost");
    sprung.wait().await;
    tokio::time::timeout(PATIENCE, async {
        while witness.rows().await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the server finishes what it has begun");
    witness.gone().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_connection_hangs_until_it_thaws() {
    let proxy = Proxy::start(&database_url()).await;
    let client = connect(&proxy).await.expect("connect");
    proxy.freeze();
    let mut query = std::pin::pin!(client.query_one("SELECT 1", &[]));
    let mut another = std::pin::pin!(connect(&proxy));
    tokio::select! {
        row = &mut query => panic!("an answer through a frozen line: {row:?}"),
        client = &mut another => panic!("a connection through a frozen line: {}", client.is_ok()),
        () = tokio::time::sleep(Duration::from_millis(300)) => {}
    }
    proxy.thaw();
    assert_eq!(query.await.expect("query").get::<_, i32>(0), 1);
    another.await.expect("connect");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_connections_are_cut_and_new_ones_refused() {
    let proxy = Proxy::start(&database_url()).await;
    let clients = [
        connect(&proxy).await.expect("connect"),
        connect(&proxy).await.expect("connect"),
    ];
    proxy.refuse();
    proxy.cut();
    for client in &clients {
        client.simple_query("SELECT 1").await.expect_err("it is cut");
    }
    assert!(connect(&proxy).await.is_err(), "refused");
    proxy.accept();
    connect(&proxy)
        .await
        .expect("connect")
        .simple_query("SELECT 1")
        .await
        .expect("welcome again");
    assert_eq!(proxy.connections(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disarmed_fault_does_not_happen() {
    let proxy = Proxy::start(&database_url()).await;
    let client = connect(&proxy).await.expect("connect");
    let sprung = proxy.once("SELECT", Fault::DropRequest);
    proxy.disarm();
    client.simple_query("SELECT 1").await.expect("nothing happens");
    assert!(!sprung.happened());
}
