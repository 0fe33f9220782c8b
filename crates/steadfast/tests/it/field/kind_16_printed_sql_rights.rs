//! Kind 16: Printed SQL, and the program, need no more rights than the documented administrator has.

use steadfast::postgres::{Migrations, schema_sql};

use super::kind_15_names_in_sql::psql;
use crate::harness::raw;
use crate::upgrade::place::{self, Database, quoted};

/// The documented administrator: owns the schema, and has no right on the database but to connect.
struct Admin {
    database: Database,
    role: String,
    url: String,
}

impl Admin {
    async fn create(schema: Option<&str>) -> Self {
        let database = Database::create().await;
        let role = format!("admin_{}", database.name);
        let client = database.raw().await;
        client
            .batch_execute(&format!(
                "CREATE ROLE {role} LOGIN; REVOKE ALL ON DATABASE {0} FROM PUBLIC; GRANT CONNECT ON DATABASE {0} TO {role}",
                database.name
            ))
            .await
            .expect("make the role");
        let place = match schema {
            Some(schema) => format!("CREATE SCHEMA {} AUTHORIZATION {role}", quoted(schema)),
            None => format!("GRANT CREATE ON DATABASE {} TO {role}", database.name),
        };
        client.batch_execute(&place).await.expect("give it a place");
        let (_, server) = database.url.split_once('@').expect("a URL with a user");
        let url = format!("postgres://{role}@{server}");
        Self { database, role, url }
    }

    async fn remove(self) {
        self.database.remove().await;
        raw()
            .await
            .batch_execute(&format!("DROP ROLE {}", self.role))
            .await
            .expect("drop the role");
    }
}

#[tokio::test]
async fn printed_sql_runs_for_the_owner_of_the_schema() {
    for schema in ["steadfast", "O'Neill \"$steadfast0$\""] {
        let admin = Admin::create(Some(schema)).await;
        psql(&admin.url, &schema_sql(schema).unwrap()).unwrap_or_else(|error| panic!("{schema:?}: {error}"));
        let builder = || place::builder(&admin.url, schema).migrations(Migrations::Verify);
        assert_eq!(builder().verify_schema().await.expect("verify"), []);
        let provider = builder().connect().await.expect("open");
        place::round(&provider, "i").await;
        provider.close().await;
        // A second run fails and changes nothing.
        assert!(psql(&admin.url, &schema_sql(schema).unwrap()).is_err());
        assert_eq!(builder().verify_schema().await.expect("verify"), []);
        admin.remove().await;
    }
}

#[tokio::test]
async fn printed_sql_makes_the_schema_for_whoever_may() {
    let admin = Admin::create(None).await;
    psql(&admin.url, &schema_sql("steadfast").unwrap()).expect("it may make schemas");
    let provider = place::builder(&admin.url, "steadfast").connect().await.expect("open");
    place::round(&provider, "i").await;
    provider.close().await;
    admin.remove().await;
}

#[tokio::test]
async fn the_program_does_all_of_it_as_the_owner_of_the_schema() {
    let admin = Admin::create(Some("steadfast")).await;
    let builder = || place::builder(&admin.url, "steadfast");
    let provider = builder().connect().await.expect("install");
    place::round(&provider, "i").await;
    assert_eq!(builder().verify_schema().await.expect("verify"), []);
    assert_eq!(builder().repair_schema().await.expect("repair").left, []);
    provider.cleanup_schema().await.expect("remove");
    provider.close().await;
    let left: i64 = admin
        .database
        .raw()
        .await
        .query_one(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'steadfast'::regnamespace",
            &[],
        )
        .await
        .expect("the schema is there: it was not ours to drop")
        .get(0);
    assert_eq!(left, 0);
    admin.remove().await;
}
