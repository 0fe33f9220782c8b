//! What a role needs: everything to install; to work only USAGE, the four verbs, EXECUTE, and what the feed needs.

use steadfast::postgres::{Migrations, OpenErrorKind, PostgresProvider, schema_sql};

use super::place::{self, Database};

/// The grants that the documentation names.
fn grants(schema: &str, role: &str) -> String {
    format!(
        "GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};
         REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} FROM PUBLIC;
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role};
         GRANT USAGE ON SEQUENCE {schema}.sf_feed_pending_id TO {role};
         GRANT TRUNCATE ON {schema}.sf_feed_pending_0, {schema}.sf_feed_pending_1 TO {role};"
    )
}

struct Role {
    database: Database,
    name: String,
    url: String,
}

impl Role {
    /// A role that may connect, and nothing else.
    async fn create() -> Self {
        let database = Database::create().await;
        let name = format!("role_{}", database.name);
        let client = database.raw().await;
        client
            .batch_execute(&format!(
                "CREATE ROLE {name} LOGIN PASSWORD 'secret';
                 REVOKE ALL ON DATABASE {database} FROM PUBLIC;
                 GRANT CONNECT ON DATABASE {database} TO {name};
                 REVOKE ALL ON SCHEMA public FROM PUBLIC;",
                database = database.name
            ))
            .await
            .expect("make a role");
        let (scheme, rest) = database.url.split_once("://").expect("a URL");
        let (_, server) = rest.split_once('@').expect("a URL with a user");
        let url = format!("{scheme}://{name}:secret@{server}");
        Self { database, name, url }
    }
}

#[tokio::test]
async fn a_role_without_create_works_with_the_documented_grants() {
    let role = Role::create().await;
    let owner = role.database.raw().await;
    owner
        .batch_execute(&schema_sql("store").unwrap())
        .await
        .expect("install as the owner");

    let without = place::builder(&role.url, "store")
        .migrations(Migrations::Verify)
        .connect()
        .await;
    assert!(without.is_err(), "no rights yet");

    owner.batch_execute(&grants("store", &role.name)).await.expect("grant");
    for migrations in [Migrations::Verify, Migrations::Apply] {
        let provider = place::builder(&role.url, "store")
            .migrations(migrations)
            .connect()
            .await
            .unwrap_or_else(|error| panic!("open under {migrations:?}: {error}"));
        let ended = format!("under {migrations:?}");
        place::round(&provider, &ended).await;
        everything_else(&provider, &ended).await;
        provider.close().await;
    }
}

/// The calls that a round does not make, beside an instance that has ended.
async fn everything_else(provider: &PostgresProvider, ended: &str) {
    use duroxide::providers::{Provider, PruneOptions, SessionFetchConfig, TagFilter, WorkItem};
    use std::time::Duration;
    provider
        .append_with_execution(ended, 1, vec![place::event(ended, 1, 100, place::started())])
        .await
        .expect("append");
    let WorkItem::ActivityExecute {
        instance,
        execution_id,
        id,
        name,
        input,
        ..
    } = place::activity(ended, 5)
    else {
        unreachable!("it is an activity")
    };
    let in_session = WorkItem::ActivityExecute {
        instance,
        execution_id,
        id,
        name,
        input,
        session_id: Some("s".to_owned()),
        tag: Some("t".to_owned()),
    };
    provider.enqueue_for_worker(in_session).await.expect("enqueue");
    let session = SessionFetchConfig {
        owner_id: "owner".to_owned(),
        lock_timeout: place::LEASE,
    };
    let (_, token, _) = provider
        .fetch_work_item(place::LEASE, Duration::ZERO, Some(&session), &TagFilter::Any)
        .await
        .expect("fetch")
        .expect("an activity");
    provider
        .renew_work_item_lock(&token, place::LEASE)
        .await
        .expect("renew");
    provider
        .renew_session_lock(&["owner"], place::LEASE, place::LEASE)
        .await
        .expect("renew the session");
    provider.abandon_work_item(&token, None, true).await.expect("abandon");
    provider.cleanup_orphaned_sessions(place::LEASE).await.expect("sweep");
    provider
        .enqueue_for_orchestrator(place::start("held"), None)
        .await
        .expect("start");
    let (_, token, _) = provider
        .fetch_orchestration_item(place::LEASE, Duration::ZERO, None)
        .await
        .expect("fetch")
        .expect("a turn");
    provider
        .renew_orchestration_item_lock(&token, place::LEASE)
        .await
        .expect("renew");
    provider
        .abandon_orchestration_item(&token, Some(Duration::from_secs(3600)), true)
        .await
        .expect("abandon");
    provider.get_custom_status("held", 0).await.expect("status");
    provider.get_kv_all_values("held").await.expect("key-values");
    provider.get_instance_stats("held").await.expect("statistics");
    let admin = provider.as_management_capability().expect("admin");
    admin.list_instances().await.expect("list");
    admin.get_system_metrics().await.expect("metrics");
    admin.get_queue_depths().await.expect("depths");
    admin
        .prune_executions(ended, PruneOptions::default())
        .await
        .expect("prune");
    admin.delete_instance(ended, false).await.expect("delete");
}

#[tokio::test]
async fn a_role_with_create_in_a_given_schema_installs_there() {
    let role = Role::create().await;
    let owner = role.database.raw().await;
    // No right to make schemas, only to fill this one.
    owner
        .batch_execute(&format!(
            "CREATE SCHEMA given; GRANT USAGE, CREATE ON SCHEMA given TO {}",
            role.name
        ))
        .await
        .unwrap();
    let provider = place::builder(&role.url, "given").connect().await.expect("install");
    place::round(&provider, "i").await;
    provider.cleanup_schema().await.expect("clean up");
    provider.close().await;
}

#[tokio::test]
async fn a_role_that_may_not_install_is_told_so() {
    let role = Role::create().await;
    let error = place::builder(&role.url, "elsewhere")
        .connect()
        .await
        .expect_err("it may not");
    assert_eq!(error.kind(), OpenErrorKind::Database, "{error}");
    assert!(error.to_string().contains("42501"), "permission denied: {error}");
}
