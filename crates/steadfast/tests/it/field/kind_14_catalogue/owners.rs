//! Nobody runs what belongs to somebody who would gain by it.

use steadfast::catalogue::FindingKind;
use steadfast::postgres::{Migrations, OpenErrorKind};
use tokio_postgres::Client;

use crate::harness::{database_url, fresh_schema, raw};
use crate::upgrade::place::{self, Database};

/// Roles of a test's own, which are cluster-wide, and a database of its own.
struct Roles {
    database: Database,
    admin: String,
    worker: String,
}

impl Roles {
    /// One that may make schemas here, and one that may only connect.
    async fn create() -> Self {
        let database = Database::create().await;
        let (admin, worker) = (format!("admin_{}", database.name), format!("worker_{}", database.name));
        raw()
            .await
            .batch_execute(&format!(
                "CREATE ROLE {admin} LOGIN; CREATE ROLE {worker} LOGIN; GRANT CREATE ON DATABASE {} TO {admin}",
                database.name
            ))
            .await
            .expect("make roles");
        Self {
            database,
            admin,
            worker,
        }
    }

    fn url(&self, role: &str) -> String {
        let (_, server) = self.database.url.split_once('@').expect("a URL with a user");
        format!("postgres://{role}@{server}")
    }

    async fn remove(self) {
        self.database.remove().await;
        raw()
            .await
            .batch_execute(&format!("DROP ROLE {}, {}", self.admin, self.worker))
            .await
            .expect("drop the roles");
    }

    async fn is_superuser(&self, role: &str) -> bool {
        let row = raw()
            .await
            .query_one("SELECT rolsuper FROM pg_roles WHERE rolname = $1", &[&role])
            .await;
        row.expect("the role").get(0)
    }
}

/// Puts `statement` at the beginning of every function of ours that is PL/pgSQL.
async fn poison(client: &Client, schema: &str, statement: &str) {
    let rows = client
        .query(
            "SELECT regexp_replace(pg_get_functiondef(p.oid), '\\mBEGIN\\M', 'BEGIN ' || $2)
             FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
             WHERE l.lanname = 'plpgsql' AND p.prorettype <> 'trigger'::regtype
               AND p.pronamespace = quote_ident($1::text)::regnamespace",
            &[&schema, &statement],
        )
        .await
        .expect("read the functions");
    assert!(!rows.is_empty());
    for row in rows {
        client.batch_execute(row.get(0)).await.expect("replace a function");
    }
}

#[tokio::test]
async fn a_superuser_runs_nothing_of_an_owner_that_it_does_not_name() {
    let roles = Roles::create().await;
    let (schema, theirs) = ("steadfast", roles.url(&roles.admin));
    let provider = place::builder(&theirs, schema)
        .connect()
        .await
        .expect("they install ours first");
    provider.close().await;
    let client = place::raw_at(&theirs).await;
    poison(
        &client,
        schema,
        &format!(
            "IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
                 EXECUTE 'ALTER ROLE {} SUPERUSER'; END IF;",
            roles.admin
        ),
    )
    .await;
    let ours = &roles.database.url;
    for migrations in [Migrations::Verify, Migrations::Apply] {
        match place::builder(ours, schema).migrations(migrations).connect().await {
            Ok(provider) => {
                let _ = provider.health();
                let _ = steadfast::inspect::Inspect::queues(&provider).await;
                provider.close().await;
                panic!(
                    "it opened; they are superuser now: {}",
                    roles.is_superuser(&roles.admin).await
                );
            }
            Err(error) => {
                assert_eq!(error.kind(), OpenErrorKind::SchemaForeign, "{error}");
                assert!(error.to_string().contains(&roles.admin), "whose? {error}");
            }
        }
    }
    let error = place::builder(ours, schema).repair_schema().await.expect_err("foreign");
    assert_eq!(error.kind(), OpenErrorKind::SchemaForeign, "{error}");
    let findings = place::builder(ours, schema).verify_schema().await.expect("verify");
    let owner = FindingKind::ForeignOwner {
        owner: roles.admin.clone(),
    };
    assert!(
        findings.iter().any(|f| f.kind == owner && f.object == "the schema"),
        "{findings:#?}"
    );
    assert!(
        findings
            .iter()
            .any(|f| matches!(&f.kind, FindingKind::Differs { what } if what == "body"))
    );

    // Named: then what it is, is looked at.
    let named = || place::builder(ours, schema).trusted_owner(&roles.admin);
    let error = named().connect().await.expect_err("the bodies are not ours");
    assert_eq!(error.kind(), OpenErrorKind::SchemaDamaged, "{error}");
    assert_eq!(named().repair_schema().await.expect("repair").left, []);
    let provider = named().connect().await.expect("now it is ours");
    place::round(&provider, "i").await;
    provider.close().await;
    assert!(!roles.is_superuser(&roles.admin).await);
    roles.remove().await;
}

#[tokio::test]
async fn a_schema_that_somebody_made_first_is_not_installed_into() {
    let roles = Roles::create().await;
    let client = place::raw_at(&roles.url(&roles.admin)).await;
    client.batch_execute("CREATE SCHEMA steadfast").await.unwrap();
    let builder = || place::builder(&roles.database.url, "steadfast");
    let error = builder().connect().await.expect_err("it installed");
    assert_eq!(error.kind(), OpenErrorKind::SchemaForeign, "{error}");
    let provider = builder().trusted_owner(&roles.admin).connect().await.expect("named");
    provider.close().await;
    // What it holds decides, too: a function could be found in the place of the server's own.
    client
        .batch_execute("CREATE FUNCTION steadfast.floor(text) RETURNS int LANGUAGE sql AS 'SELECT 1'")
        .await
        .unwrap();
    let error = builder().connect().await.expect_err("it opened");
    assert!(error.to_string().contains(&roles.admin), "{error}");
    // And the printed SQL says so as well, before it does anything.
    let error = roles
        .database
        .raw()
        .await
        .batch_execute(&steadfast::postgres::schema_sql("steadfast").unwrap())
        .await
        .expect_err("it was run");
    let message = error.as_db_error().expect("an answer").message().to_owned();
    assert!(message.contains(&roles.admin), "{message}");
    roles.remove().await;
}

#[tokio::test]
async fn the_documented_roles_need_name_nobody_and_see_what_was_changed() {
    let roles = Roles::create().await;
    let admin = roles.url(&roles.admin);
    let provider = place::builder(&admin, "steadfast").connect().await.expect("install");
    provider.close().await;
    let client = place::raw_at(&admin).await;
    client
        .batch_execute(&format!(
            "GRANT USAGE ON SCHEMA steadfast TO {0};
             GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA steadfast TO {0};
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA steadfast TO {0};
             GRANT USAGE ON ALL SEQUENCES IN SCHEMA steadfast TO {0};",
            roles.worker
        ))
        .await
        .expect("grant");
    let open = async || place::builder(&roles.url(&roles.worker), "steadfast").connect().await;
    let provider = open().await.expect("the worker opens what the admin owns");
    place::round(&provider, "i").await;
    provider.close().await;
    let owned_by_itself = place::builder(&admin, "steadfast").connect().await.expect("the owner");
    owned_by_itself.close().await;

    // A third party that owns something of ours is refused, whoever asks.
    let superuser = roles.database.raw().await;
    let other = format!("other_{}", roles.database.name);
    let function: String = superuser
        .query_one(
            "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace = 'steadfast'::regnamespace ORDER BY 1 LIMIT 1",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    superuser
        .batch_execute(&format!(
            "CREATE ROLE {other}; ALTER FUNCTION {function} OWNER TO {other}"
        ))
        .await
        .unwrap();
    let error = open().await.expect_err("a third owner");
    assert_eq!(error.kind(), OpenErrorKind::SchemaForeign, "{error}");
    assert!(error.to_string().contains(&other), "{error}");
    superuser
        .batch_execute(&format!(
            "ALTER FUNCTION {function} OWNER TO {}; DROP ROLE {other}",
            roles.admin
        ))
        .await
        .unwrap();

    poison(&client, "steadfast", "RAISE EXCEPTION 'it ran';").await;
    let error = open().await.expect_err("bodies that are not ours");
    assert_eq!(error.kind(), OpenErrorKind::SchemaDamaged, "{error}");
    roles.remove().await;
}

/// A hostile search path finds nothing in the place of what is meant.
#[tokio::test]
async fn looking_and_installing_run_nothing_that_a_search_path_finds() {
    let schema = fresh_schema();
    let trap = format!("trap_{schema}");
    let client = raw().await;
    client
        .batch_execute(&format!(
            "CREATE SCHEMA {trap};
             CREATE FUNCTION {trap}.hashtextextended(text, integer) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RAISE ''trapped''; END';
             CREATE FUNCTION {trap}.set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''trapped''; END';
             CREATE FUNCTION {trap}.current_setting(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''trapped''; END';
             CREATE FUNCTION {trap}.format(text, text, text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''trapped''; END';
             CREATE FUNCTION {trap}.trap(name, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE ''trapped''; END';
             CREATE OPERATOR {trap}.= (LEFTARG = name, RIGHTARG = text, FUNCTION = {trap}.trap);
             CREATE TABLE {trap}.pg_proc (x int); CREATE TABLE {trap}.pg_namespace (x int)"
        ))
        .await
        .unwrap();
    let url = format!("{}?options=-csearch_path%3D{trap}%2Cpg_catalog", database_url());
    let builder = || place::builder(&url, &schema);
    let provider = builder().connect().await.expect("install");
    assert_eq!(builder().verify_schema().await.expect("verify"), []);
    assert_eq!(builder().repair_schema().await.expect("repair").left, []);
    provider.cleanup_schema().await.expect("remove");
    provider.close().await;
    client
        .batch_execute(&format!("DROP SCHEMA {trap} CASCADE"))
        .await
        .unwrap();
}
