//! Opening a provider where something cannot be read: an error, not an empty schema.

use duroxide::providers::ProviderAdmin;
use steadfast::postgres::{Migrations, OpenErrorKind};

use crate::harness::{ONE_AT_A_TIME, database_url, raw};
use crate::op::scene::{Scene, builder};

/// The database URL for another user.
fn url_of(user: &str) -> String {
    let url = database_url();
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{user}@{host}")
}

/// What the ledger holds, and when it was written.
async fn ledger(scene: &Scene) -> Vec<String> {
    let sql = "SELECT l::text FROM sf_ledger l ORDER BY 1";
    let rows = scene.sql().await.query(sql, &[]).await.expect("read the ledger");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_10_a_ledger_that_cannot_be_read_is_an_error() {
    let scene = Scene::open().await;
    scene.make("kept").await;
    let before = ledger(&scene).await;
    let user = scene.schema.clone();
    let admin = raw().await;
    // May create schemas, and may create within this one: nothing but the error keeps it from installing.
    let grants = format!(
        "{ONE_AT_A_TIME} CREATE ROLE {user} LOGIN; GRANT CREATE ON DATABASE postgres TO {user};
         GRANT USAGE, CREATE ON SCHEMA {user} TO {user};"
    );
    admin.batch_execute(&grants).await.expect("make a role");
    for migrations in [Migrations::Apply, Migrations::Verify] {
        let opened = builder(&url_of(&user), &scene.schema)
            .migrations(migrations)
            .connect()
            .await;
        let error = opened.expect_err("it may not read the ledger");
        assert_eq!(error.kind(), OpenErrorKind::Database, "{error}");
        assert!(error.to_string().contains("42501"), "{error}");
    }
    assert_eq!(ledger(&scene).await, before);
    assert_eq!(scene.provider.list_instances().await.expect("list"), ["kept"]);
    let drop = format!("{ONE_AT_A_TIME} DROP OWNED BY {user}; DROP ROLE {user};");
    admin.batch_execute(&drop).await.expect("drop the role");
    scene.close().await;
}

/// The ledger is locked by somebody, and the server ends the wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_10_a_ledger_that_is_slow_is_an_error() {
    let scene = Scene::open().await;
    let before = ledger(&scene).await;
    let mut holder = scene.sql().await;
    let held = holder.transaction().await.expect("begin");
    held.batch_execute("LOCK TABLE sf_ledger")
        .await
        .expect("lock the ledger");
    let url = format!("{}?options=-c%20statement_timeout%3D3000", database_url());
    let error = builder(&url, &scene.schema)
        .connect()
        .await
        .expect_err("the ledger is locked");
    assert_eq!(error.kind(), OpenErrorKind::Database, "{error}");
    held.rollback().await.expect("let go");
    assert_eq!(ledger(&scene).await, before);
    builder(&url, &scene.schema)
        .connect()
        .await
        .expect("open")
        .close()
        .await;
    scene.close().await;
}
