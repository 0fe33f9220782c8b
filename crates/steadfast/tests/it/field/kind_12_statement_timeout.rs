//! Kind 12: What a role's settings are meant to do to others fails no installation, and no work.

use std::sync::Arc;
use std::time::Duration;

use duroxide::runtime::registry::ActivityRegistry;
use duroxide::runtime::{OrchestrationStatus, Runtime};
use duroxide::{ActivityContext, Client, OrchestrationContext, OrchestrationRegistry};
use steadfast::postgres::{Builder, OpenErrorKind, PostgresProvider};

use crate::harness::{ONE_AT_A_TIME, database_url, fresh_schema, raw};

const PATIENCE: Duration = Duration::from_secs(30);

/// A role that may install, with settings of its own.
struct Role {
    name: String,
    schema: String,
    database: String,
}

impl Role {
    async fn with(settings: &[(&str, &str)]) -> Self {
        let (client, schema) = (raw().await, fresh_schema());
        let database: String = client
            .query_one("SELECT current_database()::text", &[])
            .await
            .expect("ask")
            .get(0);
        let name = format!("role_{schema}");
        let mut sql =
            format!("{ONE_AT_A_TIME} CREATE ROLE {name} LOGIN; GRANT CREATE ON DATABASE \"{database}\" TO {name};");
        for (setting, value) in settings {
            sql.push_str(&format!("ALTER ROLE {name} SET {setting} = {value};"));
        }
        client.batch_execute(&sql).await.expect("make a role");
        Self { name, schema, database }
    }

    fn builder(&self) -> Builder {
        let url = database_url();
        let (_, server) = url.split_once('@').expect("a URL with a user");
        PostgresProvider::builder(&format!("postgres://{}@{server}", self.name)).schema(&self.schema)
    }

    async fn drop(self) {
        let sql = format!(
            "{ONE_AT_A_TIME} DROP OWNED BY {name} CASCADE; REVOKE ALL ON DATABASE \"{}\" FROM {name}; DROP ROLE {name}",
            self.database,
            name = self.name
        );
        raw().await.batch_execute(&sql).await.expect("drop the role");
    }
}

/// Timeouts that are shorter than another's install.
const SHORT: &[(&str, &str)] = &[
    ("statement_timeout", "'300ms'"),
    ("lock_timeout", "'200ms'"),
    ("idle_in_transaction_session_timeout", "'200ms'"),
];

#[tokio::test]
async fn an_install_that_waits_for_another_outlasts_the_role_s_timeouts() {
    for pooler in [false, true] {
        let role = Role::with(SHORT).await;
        let holder = raw().await;
        holder
            .execute(
                "SELECT pg_advisory_lock(hashtextextended('steadfast schema ' || $1, 0))",
                &[&role.schema],
            )
            .await
            .expect("take the lock");
        let opening = tokio::spawn(role.builder().transaction_pooler(pooler).connect());
        // Longer than all of them.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert!(!opening.is_finished(), "somebody else installs: it must wait");
        drop(holder);
        let opened = tokio::time::timeout(PATIENCE, opening).await.expect("it hangs");
        let provider = opened.expect("a task").expect("open");
        provider.close().await;
        role.drop().await;
    }
}

/// What makes SQL read or print otherwise than usual, or waits differently.
const ODD: &[(&str, &str)] = &[
    ("search_path", "pg_temp, pg_catalog"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "off"),
    ("client_encoding", "LATIN1"),
    ("bytea_output", "escape"),
    ("\"DateStyle\"", "'SQL, DMY'"),
    ("\"IntervalStyle\"", "sql_standard"),
    ("\"TimeZone\"", "'Pacific/Chatham'"),
    ("extra_float_digits", "-15"),
    ("quote_all_identifiers", "on"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("row_security", "off"),
    ("check_function_bodies", "off"),
    ("synchronous_commit", "off"),
    ("client_min_messages", "debug5"),
    ("plan_cache_mode", "force_custom_plan"),
    ("enable_indexscan", "off"),
    ("enable_nestloop", "off"),
    ("from_collapse_limit", "1"),
    ("default_statistics_target", "1"),
    ("statement_timeout", "'5s'"),
    ("lock_timeout", "'1s'"),
    ("idle_in_transaction_session_timeout", "'1s'"),
    ("idle_session_timeout", "'1s'"),
];

/// Installs under that role, and runs what touches most of the store.
async fn works(role: &Role, pooler: bool) {
    let provider = role.builder().transaction_pooler(pooler).connect().await.expect("open");
    let provider = Arc::new(provider);
    let activities = ActivityRegistry::builder()
        .register("echo", |_: ActivityContext, input: String| async move { Ok(input) })
        .build();
    let orchestrations = OrchestrationRegistry::builder()
        .register("all", |ctx: OrchestrationContext, input: String| async move {
            ctx.set_custom_status("at it: ü \\ '");
            let first = ctx.schedule_activity("echo", format!("{input} \\ ' \u{1F980}")).await?;
            ctx.schedule_timer(Duration::from_millis(50)).await;
            let event = ctx.schedule_wait("go").await;
            let second = ctx.schedule_sub_orchestration("sub", event).await?;
            Ok(format!("{first}|{second}"))
        })
        .register("sub", |ctx: OrchestrationContext, input: String| async move {
            ctx.schedule_activity("echo", input).await
        })
        .build();
    let runtime = Runtime::start_with_store(provider.clone(), activities, orchestrations).await;
    let client = Client::new(provider.clone());
    client.start_orchestration("i", "all", "in").await.expect("start");
    // Idle for longer than a session may be.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    client.raise_event("i", "go", "done").await.expect("raise");
    match client.wait_for_orchestration("i", PATIENCE).await.expect("wait") {
        OrchestrationStatus::Completed { output, .. } => assert_eq!(output, "in \\ ' \u{1F980}|done"),
        other => panic!("{other:?}"),
    }
    runtime.shutdown(None).await;
    provider.cleanup_schema().await.expect("clean up");
    provider.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_settings_of_a_role_change_nothing() {
    let role = Role::with(ODD).await;
    works(&role, false).await;
    role.drop().await;
}

/// Without start-up options, what opening itself refuses must be as usual, and JIT must be off: a planner whose switches
/// are off thinks that everything is dear, and compiles for seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_settings_of_a_role_change_nothing_behind_a_pooler() {
    let mut settings: Vec<_> = ODD
        .iter()
        .copied()
        .filter(|(name, _)| *name != "default_transaction_isolation")
        .collect();
    settings.push(("jit", "off"));
    let role = Role::with(&settings).await;
    works(&role, true).await;
    role.drop().await;
}

#[tokio::test]
async fn a_role_that_may_not_write_is_told_so() {
    let role = Role::with(&[("default_transaction_read_only", "on")]).await;
    let error = role.builder().connect().await.expect_err("it installed");
    assert_eq!(error.kind(), OpenErrorKind::Configuration, "{error}");
    assert!(error.to_string().contains("default_transaction_read_only"), "{error}");
    role.drop().await;
}
