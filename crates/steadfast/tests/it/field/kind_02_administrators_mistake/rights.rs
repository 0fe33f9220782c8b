//! What is missing is said by name: in an error when opening, in `health()`, and by the document's own SQL.

use std::time::Duration;

use duroxide::providers::{Provider, WorkItem};
use steadfast::postgres::{Access, OpenErrorKind};

use crate::field::errors::documented::{Documented, printed};
use crate::upgrade::place::raw_at;

fn start(instance: &str) -> WorkItem {
    WorkItem::StartOrchestration {
        instance: instance.to_owned(),
        orchestration: "whole".to_owned(),
        input: String::new(),
        version: None,
        parent_instance: None,
        parent_id: None,
        parent_execution_id: None,
        execution_id: 1,
    }
}

/// Every right that the document gives to the worker: without it the worker does not open, and the error's own SQL mends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_names_each_missing_grant() {
    let place = Documented::create().await;
    let worker = place.role("steadfast_worker");
    let query = format!(
        "SELECT format('%s ON %I', v, c.relname) FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) v
         WHERE c.relnamespace = 'steadfast'::regnamespace AND c.relkind = 'r' AND has_table_privilege('{worker}', c.oid, v)
         UNION ALL
         SELECT format('USAGE ON SEQUENCE %I', c.relname) FROM pg_class c WHERE c.relnamespace = 'steadfast'::regnamespace
         AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege('{worker}', c.oid, 'USAGE') END
         UNION ALL
         (SELECT format('EXECUTE ON FUNCTION %s', p.oid::regprocedure) FROM pg_proc p
         WHERE p.pronamespace = 'steadfast'::regnamespace ORDER BY p.proname LIMIT 5)
         UNION ALL SELECT 'USAGE ON SCHEMA steadfast'"
    );
    let rights = place.names(&query).await;
    assert!(rights.len() > 60, "{rights:?}");
    let admin = place.superuser().await;
    for right in rights {
        admin
            .batch_execute(&format!("REVOKE {right} FROM {worker}"))
            .await
            .expect("revoke");
        let error = place.builder("steadfast_worker").connect().await;
        let error = error.map(drop).expect_err(&right).to_string();
        if right.contains("sf_ledger") || right.contains("ON SCHEMA") {
            // It cannot even be seen whether it is installed.
            admin
                .batch_execute(&format!("GRANT {right} TO {worker}"))
                .await
                .expect("grant");
            continue;
        }
        let (said, mends) = error
            .split_once(". Run: ")
            .unwrap_or_else(|| panic!("{right}: {error}"));
        assert!(said.starts_with("missing: ") && said.contains(&worker), "{error}");
        admin
            .batch_execute(mends)
            .await
            .unwrap_or_else(|e| panic!("{mends}: {e:?}"));
    }
    let opened = place
        .builder("steadfast_worker")
        .connect()
        .await
        .expect("all is mended");
    opened.close().await;
    place.remove().await;
}

/// Who only looks needs only to look, and is refused at once what it may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_opens_to_read() {
    let place = Documented::create().await;
    let error = place
        .builder("steadfast_reader")
        .connect()
        .await
        .map(drop)
        .expect_err("it may not work");
    assert_eq!(error.kind(), OpenErrorKind::MissingRights, "{error}");
    let reader = place.builder("steadfast_reader").access(Access::Read).connect().await;
    let reader = reader.expect("open to read");
    assert!(reader.read("nobody").await.expect("read").is_empty());
    assert_eq!(reader.missing().await.expect("ask"), Vec::<String>::new());
    let refused = tokio::time::timeout(
        Duration::from_secs(20),
        reader.enqueue_for_orchestrator(start("i"), None),
    );
    let refused = refused.await.expect("at once").expect_err("it may not");
    assert!(refused.message.contains("42501"), "{refused:?}");
    reader.close().await;
    place.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_what_is_missing_while_it_is() {
    let place = Documented::create().await;
    let provider = place
        .builder("steadfast_worker")
        .connect()
        .await
        .expect("open as the worker");
    assert_eq!(provider.health().trouble, None);
    place
        .sql("REVOKE INSERT ON ALL TABLES IN SCHEMA steadfast FROM steadfast_worker")
        .await;
    let sent = {
        let provider = provider.clone();
        tokio::spawn(async move { provider.enqueue_for_orchestrator(start("i"), None).await })
    };
    let worker = place.role("steadfast_worker");
    let missing = format!("for role {worker}");
    let said = loop {
        match provider.health().trouble {
            Some(text) if text.contains(&missing) => break text,
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        assert!(!sent.is_finished(), "it was not kept");
    };
    assert!(said.contains("missing: INSERT on table "), "{said}");
    // Anybody who may look sees the same.
    let reader = place.builder("steadfast_reader").access(Access::Read).connect().await;
    let reader = reader.expect("open to read");
    let seen = reader.missing().await.expect("ask");
    assert!(seen.iter().any(|line| said.contains(line)), "{seen:?}");
    reader.close().await;
    place
        .sql("GRANT INSERT ON ALL TABLES IN SCHEMA steadfast TO steadfast_worker")
        .await;
    sent.await.expect("no panic").expect("it was kept");
    assert_eq!(provider.health().trouble, None);
    provider.close().await;
    place.remove().await;
}

/// The document's default rights cover what a later upgrade may add: tables that are emptied and sequences too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_upgrade_adds_is_granted_by_the_printed_sql() {
    assert_eq!(
        printed("Roles and grants").len(),
        2,
        "who makes the roles, and who grants"
    );
    let place = Documented::create().await;
    let admin = raw_at(&place.url("steadfast_admin")).await;
    let added = "SET search_path TO steadfast; CREATE TABLE added (n int); CREATE SEQUENCE added_id;
                 CREATE FUNCTION add() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    admin.batch_execute(added).await.expect("an upgrade");
    let worker = raw_at(&place.url("steadfast_worker")).await;
    let uses = "SET search_path TO steadfast; INSERT INTO added VALUES (1); UPDATE added SET n = 2; DELETE FROM added;
                TRUNCATE added; SELECT nextval('added_id'); SELECT add()";
    worker.batch_execute(uses).await.expect("the worker may");
    let reader = raw_at(&place.url("steadfast_reader")).await;
    let looks = "SET search_path TO steadfast; SELECT * FROM added; SELECT add()";
    reader.batch_execute(looks).await.expect("the reader may look");
    let writes = reader.batch_execute("INSERT INTO added VALUES (1)").await;
    assert!(writes.is_err(), "and no more");
    place.remove().await;
}
