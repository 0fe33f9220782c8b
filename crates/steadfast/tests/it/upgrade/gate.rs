//! The version gate: older schemas are upgraded, newer ones left alone, foreign ones refused, by kind and by name.

use std::sync::Arc;

use steadfast::postgres::{Migrations, OpenError, OpenErrorKind, PostgresProvider};
use tokio_postgres::Client;

use super::{catalog, place};
use crate::harness::{database_url, fresh_schema, raw};

/// A schema that was installed and is then changed by raw SQL.
struct Changed {
    schema: String,
    client: Client,
}

impl Changed {
    async fn after(sql: &str) -> Self {
        let schema = fresh_schema();
        let client = raw().await;
        place::builder(&database_url(), &schema)
            .connect()
            .await
            .expect("install")
            .close()
            .await;
        client
            .batch_execute(&format!("SET search_path TO {schema}"))
            .await
            .expect("set the search path");
        client.batch_execute(sql).await.expect("change the schema");
        Self { schema, client }
    }

    async fn open(&self, migrations: Migrations) -> Result<PostgresProvider, OpenError> {
        place::builder(&database_url(), &self.schema)
            .migrations(migrations)
            .connect()
            .await
    }

    async fn refused(&self, migrations: Migrations) -> OpenError {
        let before = catalog::rows(&self.client, &self.schema).await;
        let error = self.open(migrations).await.expect_err("it must be refused");
        assert_eq!(
            catalog::rows(&self.client, &self.schema).await,
            before,
            "a refusal changes nothing"
        );
        error
    }
}

#[tokio::test]
async fn verify_says_that_a_schema_is_missing_and_makes_nothing() {
    let schema = fresh_schema();
    let verify = || {
        place::builder(&database_url(), &schema)
            .migrations(Migrations::Verify)
            .connect()
    };
    let error = verify().await.expect_err("there is no schema");
    assert_eq!(error.kind(), OpenErrorKind::SchemaMissing);
    assert!(error.to_string().contains(&schema), "{error}");
    let client = raw().await;
    let found = client
        .query("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[&schema])
        .await
        .unwrap();
    assert!(found.is_empty());

    client.batch_execute(&format!("CREATE SCHEMA {schema}")).await.unwrap();
    let error = verify().await.expect_err("the schema is empty");
    assert_eq!(error.kind(), OpenErrorKind::SchemaMissing);
    assert!(catalog::definitions(&client, &schema).await.is_empty());
}

/// Each is a way in which a schema can be older than the program.
const OLDER: &[(&str, &str)] = &[
    (
        "a lower version",
        "UPDATE sf_ledger SET version = version - 1 WHERE kind = 'gate' AND name = 'functions'",
    ),
    (
        "a function unknown",
        "DELETE FROM sf_ledger WHERE kind = 'function' AND name = 'read_history'",
    ),
    (
        "a view unknown",
        "DELETE FROM sf_ledger WHERE kind = 'function' AND name = 'instances'",
    ),
    (
        "another function text",
        "UPDATE sf_ledger SET checksum = 'older' WHERE kind = 'function' AND name = 'poll_due'",
    ),
    ("no gate", "DELETE FROM sf_ledger WHERE kind = 'gate'"),
    (
        "an older release",
        "DROP FUNCTION sf_poll_due();
         DELETE FROM sf_ledger WHERE kind = 'function' AND name = 'poll_due';
         UPDATE sf_ledger SET checksum = 'older', version = 0 WHERE kind = 'function';
         UPDATE sf_ledger SET version = 0 WHERE kind = 'gate' AND name = 'functions';
         CREATE OR REPLACE FUNCTION sf_text_of(p_bytes bytea) RETURNS text LANGUAGE sql AS $$ SELECT 'older' $$",
    ),
];

#[tokio::test]
async fn an_older_schema_is_refused_by_verify_and_repaired_by_apply() {
    let like_new = Changed::after("").await;
    for (what, sql) in OLDER {
        let older = Changed::after(sql).await;
        let error = older.refused(Migrations::Verify).await;
        assert_eq!(error.kind(), OpenErrorKind::SchemaOutdated, "{what}: {error}");
        assert!(error.to_string().contains(&older.schema), "{what}: {error}");

        let provider = older
            .open(Migrations::Apply)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"));
        place::round(&provider, "repaired").await;
        provider.close().await;
        assert_eq!(
            catalog::definitions(&older.client, &older.schema).await,
            catalog::definitions(&like_new.client, &like_new.schema).await,
            "{what}"
        );
        older
            .open(Migrations::Verify)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"))
            .close()
            .await;
    }
}

#[tokio::test]
async fn ten_programs_upgrade_an_older_schema_at_once_while_one_works() {
    let older = Arc::new(Changed::after("").await);
    let working = older.open(Migrations::Verify).await.expect("open");
    place::round(&working, "before").await;
    older.client.batch_execute(OLDER[0].1).await.unwrap();
    older
        .client
        .batch_execute("UPDATE sf_ledger SET checksum = 'older' WHERE kind = 'function'")
        .await
        .unwrap();
    let opening: Vec<_> = (0..10)
        .map(|_| {
            let older = Arc::clone(&older);
            tokio::spawn(async move { older.open(Migrations::Apply).await })
        })
        .collect();
    for n in 0..20 {
        place::round(&working, &format!("during {n}")).await;
    }
    for task in opening {
        task.await.unwrap().expect("upgrade").close().await;
    }
    place::round(&working, "after").await;
    working.close().await;
}

#[tokio::test]
async fn a_newer_schema_is_left_alone_and_works() {
    let newer = Changed::after(
        "UPDATE sf_ledger SET version = version + 5 WHERE kind = 'gate' AND name = 'functions';
         UPDATE sf_ledger SET checksum = 'newer', version = version + 5 WHERE kind = 'function';
         INSERT INTO sf_ledger (kind, name, checksum, version) VALUES ('table', '9999_later', 'newer', 9999);
         CREATE TABLE sf_later (id bigint)",
    )
    .await;
    let (rows, ledger) = (
        catalog::rows(&newer.client, &newer.schema).await,
        catalog::dated_ledger(&newer.client, &newer.schema).await,
    );
    for migrations in [Migrations::Verify, Migrations::Apply] {
        let provider = newer
            .open(migrations)
            .await
            .expect("a newer schema serves older programs");
        place::round(&provider, &format!("{migrations:?}")).await;
        provider.close().await;
    }
    assert_eq!(catalog::rows(&newer.client, &newer.schema).await, rows);
    assert_eq!(catalog::dated_ledger(&newer.client, &newer.schema).await, ledger);
}

#[tokio::test]
async fn a_schema_that_no_longer_serves_this_program_is_refused() {
    let newer = Changed::after(
        "UPDATE sf_ledger SET version = version + 5 WHERE kind = 'gate' AND name IN ('functions', 'oldest_client')",
    )
    .await;
    for migrations in [Migrations::Verify, Migrations::Apply] {
        let error = newer.refused(migrations).await;
        assert_eq!(error.kind(), OpenErrorKind::SchemaTooNew, "{error}");
        assert!(error.to_string().contains(&newer.schema), "{error}");
    }
}

#[tokio::test]
async fn a_migration_of_another_content_is_refused() {
    let changed = Changed::after("UPDATE sf_ledger SET checksum = 'edited' WHERE kind = 'table'").await;
    for migrations in [Migrations::Verify, Migrations::Apply] {
        let error = changed.refused(migrations).await;
        assert_eq!(error.kind(), OpenErrorKind::SchemaForeign, "{error}");
        assert!(
            error.to_string().contains("0001_store"),
            "it names the migration: {error}"
        );
    }
}

#[tokio::test]
async fn a_peers_schema_is_refused_by_name_and_not_touched() {
    for table in [
        "orchestrator_queue",
        "worker_queue",
        "instance_locks",
        "_duroxide_migrations",
    ] {
        let schema = fresh_schema();
        let client = raw().await;
        client
            .batch_execute(&format!(
                "CREATE SCHEMA {schema}; CREATE TABLE {schema}.{table} (id bigint)"
            ))
            .await
            .unwrap();
        let before = catalog::rows(&client, &schema).await;
        for migrations in [Migrations::Verify, Migrations::Apply] {
            let error = place::builder(&database_url(), &schema)
                .migrations(migrations)
                .connect()
                .await
                .expect_err("it belongs to a peer");
            assert_eq!(error.kind(), OpenErrorKind::SchemaForeign, "{table}: {error}");
            let message = error.to_string();
            assert!(message.contains(table) && message.contains(&schema), "{message}");
        }
        assert_eq!(catalog::rows(&client, &schema).await, before, "{table}");
    }
}

#[tokio::test]
async fn a_failed_install_leaves_nothing_behind() {
    // A table of somebody else is where one of ours must go: the install fails in its middle.
    let schema = fresh_schema();
    let client = raw().await;
    client
        .batch_execute(&format!(
            "CREATE SCHEMA {schema}; CREATE TABLE {schema}.sf_quarantine (id bigint)"
        ))
        .await
        .unwrap();
    let before = catalog::rows(&client, &schema).await;
    place::builder(&database_url(), &schema)
        .connect()
        .await
        .expect_err("a name is taken");
    assert_eq!(catalog::rows(&client, &schema).await, before);
}
