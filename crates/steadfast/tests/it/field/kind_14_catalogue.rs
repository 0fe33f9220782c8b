//! Kind 14: What is installed is compared with what this version installs, object by object.
//!
//! Which objects there are is asked of the server's catalogue, so that none can be forgotten.

mod file;
mod owners;

use steadfast::catalogue::{Finding, FindingKind};
use steadfast::postgres::{Migrations, OpenErrorKind, PostgresProvider};
use tokio_postgres::Client;

use crate::harness::{database_url, fresh_schema, raw};
use crate::upgrade::place;

/// A schema as this version installs it.
struct Installed {
    schema: String,
    client: Client,
}

impl Installed {
    async fn new() -> Self {
        let schema = fresh_schema();
        let provider = place::builder(&database_url(), &schema)
            .connect()
            .await
            .expect("install");
        provider.close().await;
        Self {
            schema,
            client: raw().await,
        }
    }

    async fn verify(&self) -> Vec<Finding> {
        let builder = place::builder(&database_url(), &self.schema);
        builder.verify_schema().await.expect("verify")
    }

    async fn open(&self) -> Result<PostgresProvider, steadfast::postgres::OpenError> {
        place::builder(&database_url(), &self.schema)
            .migrations(Migrations::Verify)
            .connect()
            .await
    }

    /// Runs what a query over the catalogue makes for this schema (`$1`): statements, each with the object that it hurts.
    async fn hurt(&self, query: &str) -> Vec<String> {
        let rows = self
            .client
            .query(query, &[&self.schema])
            .await
            .expect("ask the catalogue");
        assert!(!rows.is_empty(), "nothing to hurt: {query}");
        for row in &rows {
            let sql: &str = row.get(0);
            self.client
                .batch_execute(sql)
                .await
                .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
        rows.iter().map(|row| row.get(1)).collect()
    }

    /// Everything is as installed, and works.
    async fn is_whole(&self, after: &str) {
        assert_eq!(self.verify().await, [], "after {after}");
        let provider = self
            .open()
            .await
            .unwrap_or_else(|error| panic!("after {after}: {error}"));
        place::round(&provider, after).await;
        provider.close().await;
    }

    /// Names everything, opens or not, repairs, is whole.
    async fn mends(&self, what: &str, query: &str, opens: bool) {
        let hurt = self.hurt(query).await;
        let findings = self.verify().await;
        for object in &hurt {
            assert!(
                findings.iter().any(|finding| finding.object.contains(object.as_str())),
                "{what}: {object} is not among {findings:#?}"
            );
        }
        match self.open().await {
            Ok(provider) => {
                assert!(opens, "{what}: it opened");
                provider.close().await;
            }
            Err(error) => {
                assert!(!opens, "{what}: {error}");
                assert_eq!(error.kind(), OpenErrorKind::SchemaDamaged, "{what}: {error}");
                assert!(
                    findings.iter().any(|f| error.to_string().contains(&f.to_string())),
                    "{error}"
                );
            }
        }
        let repair = place::builder(&database_url(), &self.schema).repair_schema().await;
        let repair = repair.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(repair.left, [], "{what}");
        // Row security of the ledger is taken away before the rest is looked at.
        assert!(
            findings.len() - repair.mended.len() <= 1,
            "{what}: {:#?}",
            repair.mended
        );
        self.is_whole(what).await;
    }
}

/// Statement and object for each function.
fn each_function(change: &str) -> String {
    format!(
        "SELECT format('{change}', p.oid::regprocedure), p.proname || '('
         FROM pg_proc p WHERE p.pronamespace = quote_ident($1::text)::regnamespace"
    )
}

/// Statement and object for each table.
fn each_table(change: &str) -> String {
    format!(
        "SELECT format('{change}', c.oid::regclass), c.relname::text
         FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = quote_ident($1::text)::regnamespace"
    )
}

#[tokio::test]
async fn whatever_is_dropped_is_named_and_put_back() {
    let it = Installed::new().await;
    it.is_whole("installing").await;
    let indexes = "SELECT format('DROP INDEX %s', i.indexrelid::regclass), c.relname::text
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE c.relnamespace = quote_ident($1::text)::regnamespace
           AND NOT EXISTS (SELECT FROM pg_constraint x WHERE x.conindid = i.indexrelid)";
    it.mends("dropped indexes", indexes, true).await;
    let views = "SELECT format('DROP VIEW %s', c.oid::regclass), c.relname::text
         FROM pg_class c WHERE c.relkind = 'v' AND c.relnamespace = quote_ident($1::text)::regnamespace";
    it.mends("dropped views", views, true).await;
    let triggers = "SELECT format('DROP TRIGGER %I ON %s', g.tgname, c.oid::regclass), g.tgname::text
         FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
         WHERE NOT g.tgisinternal AND c.relnamespace = quote_ident($1::text)::regnamespace";
    it.mends("dropped triggers", triggers, false).await;
    it.mends("dropped functions", &each_function("DROP FUNCTION %s CASCADE"), false)
        .await;
    let constraints =
        "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', x.conrelid::regclass, x.conname), x.conname::text
         FROM pg_constraint x WHERE x.contype <> 'n' AND x.connamespace = quote_ident($1::text)::regnamespace";
    it.mends("dropped constraints", constraints, false).await;
    let defaults =
        "SELECT format('ALTER TABLE %s ALTER COLUMN %I DROP DEFAULT', d.adrelid::regclass, a.attname), a.attname::text
         FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.adnum
         WHERE c.relnamespace = quote_ident($1::text)::regnamespace";
    it.mends("dropped defaults", defaults, false).await;
}

#[tokio::test]
async fn whatever_is_changed_is_named_and_put_back() {
    let it = Installed::new().await;
    let bodies =
        "SELECT replace(pg_get_functiondef(p.oid), 'AS $function$', E'AS $function$ -- another\\n'), p.proname || '('
         FROM pg_proc p WHERE p.pronamespace = quote_ident($1::text)::regnamespace";
    it.mends("other bodies", bodies, false).await;
    for change in [
        "ALTER FUNCTION %s SECURITY DEFINER",
        "ALTER FUNCTION %s SET search_path TO public",
        "ALTER FUNCTION %s STRICT",
    ] {
        it.mends(change, &each_function(change), false).await;
    }
    let results = "SELECT format('DROP FUNCTION %s CASCADE; CREATE FUNCTION %s RETURNS text LANGUAGE sql AS $$SELECT NULL::text$$',
                                 p.oid::regprocedure, p.oid::regprocedure), p.proname || '('
         FROM pg_proc p WHERE p.pronamespace = quote_ident($1::text)::regnamespace";
    it.mends("other results", results, false).await;
    let indexes = "SELECT format('DROP INDEX %s; CREATE INDEX %I ON %s (%I)', i.indexrelid::regclass, ic.relname,
                                 c.oid::regclass, a.attname), ic.relname::text
         FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_class ic ON ic.oid = i.indexrelid
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           AND a.attnum = (SELECT max(m.attnum) FROM pg_attribute m WHERE m.attrelid = c.oid AND NOT m.attisdropped)
         WHERE c.relnamespace = quote_ident($1::text)::regnamespace
           AND NOT EXISTS (SELECT FROM pg_constraint x WHERE x.conindid = i.indexrelid)";
    it.mends("other indexes", indexes, true).await;
    let disabled = "SELECT format('ALTER TABLE %s DISABLE TRIGGER %I', c.oid::regclass, g.tgname), g.tgname::text
         FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
         WHERE NOT g.tgisinternal AND c.relnamespace = quote_ident($1::text)::regnamespace";
    it.mends("disabled triggers", disabled, false).await;
    let views = "SELECT format('CREATE OR REPLACE VIEW %s AS SELECT * FROM (%s) AS v WHERE false', c.oid::regclass,
                               rtrim(pg_get_viewdef(c.oid), ';')), c.relname::text
         FROM pg_class c WHERE c.relkind = 'v' AND c.relnamespace = quote_ident($1::text)::regnamespace";
    it.mends("views without rows", views, true).await;
    it.mends(
        "row security",
        &each_table("ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"),
        false,
    )
    .await;
    it.mends("grants to everybody", &each_table("GRANT SELECT ON %s TO PUBLIC"), true)
        .await;
    let create = "SELECT format('GRANT CREATE ON SCHEMA %I TO PUBLIC', $1::text), 'the schema'";
    it.mends("everybody may create", create, true).await;
}

#[tokio::test]
async fn a_renamed_schema_is_not_as_installed_and_is_mended() {
    let it = Installed::new().await;
    let renamed = fresh_schema();
    let sql = format!("ALTER SCHEMA {} RENAME TO {renamed}", it.schema);
    it.client.batch_execute(&sql).await.unwrap();
    let it = Installed { schema: renamed, ..it };
    let findings = it.verify().await;
    assert!(
        findings.iter().any(|f| f.kind
            == FindingKind::Differs {
                what: "settings".to_owned()
            }),
        "{findings:#?}"
    );
    let repair = place::builder(&database_url(), &it.schema)
        .repair_schema()
        .await
        .expect("repair");
    assert_eq!(repair.left, []);
    it.is_whole("renaming").await;
}

/// The name of some table with this property.
async fn some_table(it: &Installed, property: &str) -> String {
    let sql = format!(
        "SELECT c.relname::text FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = quote_ident($1::text)::regnamespace
         AND {property} ORDER BY 1 LIMIT 1"
    );
    it.client
        .query_one(&sql, &[&it.schema])
        .await
        .expect("some table")
        .get(0)
}

#[tokio::test]
async fn what_is_lost_is_named_and_nothing_is_changed() {
    for lost in ["table", "column", "sequence"] {
        let it = Installed::new().await;
        let (schema, client) = (&it.schema, &it.client);
        let table = some_table(&it, "EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid)").await;
        match lost {
            "table" => client
                .batch_execute(&format!("DROP TABLE {schema}.{table} CASCADE"))
                .await
                .unwrap(),
            "column" => {
                it.hurt(
                    "SELECT format('ALTER TABLE %s DROP COLUMN %I CASCADE', c.oid::regclass, a.attname), a.attname::text
                     FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = 3
                     WHERE c.relkind = 'r' AND c.relnamespace = quote_ident($1::text)::regnamespace",
                )
                .await;
            }
            _ => {
                it.hurt(
                    "SELECT format('DROP SEQUENCE %s CASCADE', c.oid::regclass), c.relname::text FROM pg_class c
                     WHERE c.relkind = 'S' AND c.relnamespace = quote_ident($1::text)::regnamespace
                       AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'i')",
                )
                .await;
            }
        }
        let findings = it.verify().await;
        let wanted = format!("{lost} ");
        assert!(
            findings
                .iter()
                .any(|f| f.kind == FindingKind::Missing && f.object.starts_with(&wanted)),
            "{findings:#?}"
        );
        if lost == "table" {
            let parts = findings
                .iter()
                .filter(|f| f.object.contains(&format!("{table}.")))
                .count();
            assert_eq!(parts, 0, "of a missing table its parts are not named: {findings:#?}");
        }
        assert_eq!(
            it.open().await.expect_err("it opened").kind(),
            OpenErrorKind::SchemaDamaged
        );
        let error = place::builder(&database_url(), schema)
            .repair_schema()
            .await
            .expect_err("rows are lost");
        assert_eq!(error.kind(), OpenErrorKind::SchemaDamaged, "{error}");
        assert!(error.to_string().contains(lost), "{error}");
        assert_eq!(it.verify().await, findings, "nothing was changed");
    }
}

#[tokio::test]
async fn what_is_attached_to_ours_is_named_and_left() {
    let it = Installed::new().await;
    let schema = it.schema.clone();
    let table = some_table(&it, "true").await;
    let function: String = it
        .client
        .query_one(
            "SELECT p.proname::text FROM pg_proc p WHERE p.pronamespace = quote_ident($1::text)::regnamespace ORDER BY 1 LIMIT 1",
            &[&schema],
        )
        .await
        .unwrap()
        .get(0);
    let evil = format!("evil_{schema}");
    let attached = [
        (
            "trigger",
            format!(
                "CREATE SCHEMA {evil}; CREATE FUNCTION {evil}.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                 CREATE TRIGGER evil BEFORE INSERT ON {schema}.{table} FOR EACH ROW EXECUTE FUNCTION {evil}.f()"
            ),
            format!("DROP SCHEMA {evil} CASCADE"),
        ),
        (
            "rule",
            format!("CREATE RULE evil AS ON DELETE TO {schema}.{table} DO INSTEAD NOTHING"),
            format!("DROP RULE evil ON {schema}.{table}"),
        ),
        (
            "policy",
            format!("CREATE POLICY evil ON {schema}.{table} USING (false)"),
            format!("DROP POLICY evil ON {schema}.{table}"),
        ),
        (
            "child",
            format!("CREATE TABLE {schema}.evil () INHERITS ({schema}.{table})"),
            format!("DROP TABLE {schema}.evil"),
        ),
        (
            "column",
            format!("ALTER TABLE {schema}.{table} ADD COLUMN \"evil; col\" int"),
            format!("ALTER TABLE {schema}.{table} DROP COLUMN \"evil; col\""),
        ),
        (
            "constraint",
            format!("ALTER TABLE {schema}.{table} ADD CONSTRAINT evil CHECK (false) NOT VALID"),
            format!("ALTER TABLE {schema}.{table} DROP CONSTRAINT evil"),
        ),
        (
            "function",
            format!("CREATE FUNCTION {schema}.{function}(evil point) RETURNS int LANGUAGE sql AS 'SELECT 1'"),
            format!("DROP FUNCTION {schema}.{function}(point)"),
        ),
    ];
    for (kind, attach, detach) in attached {
        it.client
            .batch_execute(&attach)
            .await
            .unwrap_or_else(|error| panic!("{attach}: {error:?}"));
        let findings = it.verify().await;
        assert_eq!(findings.len(), 1, "{kind}: {findings:#?}");
        assert!(
            findings[0].object.starts_with(kind) && findings[0].kind == FindingKind::Foreign,
            "{findings:#?}"
        );
        match it.open().await {
            // An older version's function may stay for programs of that version.
            Ok(provider) if kind == "function" => provider.close().await,
            Ok(_) => panic!("{kind}: it opened"),
            Err(error) => assert_eq!(error.kind(), OpenErrorKind::SchemaDamaged, "{kind}"),
        }
        let repair = place::builder(&database_url(), &schema)
            .repair_schema()
            .await
            .expect(kind);
        assert_eq!((repair.mended.len(), &repair.left), (0, &findings), "{kind}");
        it.client
            .batch_execute(&detach)
            .await
            .unwrap_or_else(|error| panic!("{detach}: {error:?}"));
    }
    // Things of others beside ours are nobody's business, and an index more harms nobody.
    it.client
        .batch_execute(&format!(
            "CREATE VIEW {schema}.report AS SELECT * FROM {schema}.{table}; CREATE TABLE {schema}.orders (id int);
             CREATE FUNCTION {schema}.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'"
        ))
        .await
        .unwrap();
    it.is_whole("things of others").await;
}
