//! A store as docs/operations.md says it is to be made: its roles, its grants, by its own SQL.
//!
//! Invariant: the SQL is the document's, word for word; only the names of the roles, which a server has once, are made
//! unique.

use steadfast::postgres::{Builder, Migrations, PostgresProvider};
use tokio_postgres::Client;

use crate::upgrade::place::{Database, raw_at};

const DOCUMENT: &str = include_str!("../../../../../../docs/operations.md");
/// The document's schema.
pub(crate) const SCHEMA: &str = "steadfast";
const ROLES: [&str; 3] = ["steadfast_admin", "steadfast_worker", "steadfast_reader"];

/// The SQL that a section of the document prints, block by block.
pub(crate) fn printed(section: &str) -> Vec<String> {
    let heading = format!("\n## {section}\n");
    let (_, text) = DOCUMENT.split_once(&heading).expect("the section is there");
    let text = text.split("\n## ").next().unwrap_or(text);
    text.split("```sql\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap_or(block).to_owned())
        .collect()
}

/// A database of its own with the documented roles, installed and granted as documented.
pub(crate) struct Documented {
    pub(crate) database: Database,
}

impl Documented {
    pub(crate) async fn create() -> Self {
        let documented = Self {
            database: Database::create().await,
        };
        let blocks = printed("Roles and grants");
        let [roles, grants] = blocks.as_slice() else {
            panic!("two blocks of SQL: who makes the roles, who grants");
        };
        documented.sql(roles).await;
        let admin = documented.builder("steadfast_admin").connect().await;
        admin.expect("install as the admin").close().await;
        let client = raw_at(&documented.url("steadfast_admin")).await;
        client
            .batch_execute(&documented.named(grants))
            .await
            .expect("grant as the admin");
        documented
    }

    /// The role that plays this part of the document here.
    pub(crate) fn role(&self, documented: &str) -> String {
        format!("{documented}_{}", self.database.name)
    }

    /// SQL of the document, with the roles of this place.
    pub(crate) fn named(&self, sql: &str) -> String {
        ROLES
            .iter()
            .fold(sql.to_owned(), |sql, role| sql.replace(role, &self.role(role)))
    }

    /// Where to connect as this role.
    pub(crate) fn url(&self, documented: &str) -> String {
        let (scheme, rest) = self.database.url.split_once("://").expect("a URL");
        let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        format!("{scheme}://{}@{host}", self.role(documented))
    }

    /// A provider as this role, with production's settings.
    pub(crate) fn builder(&self, documented: &str) -> Builder {
        let migrations = if documented == "steadfast_admin" {
            Migrations::Apply
        } else {
            Migrations::Verify
        };
        PostgresProvider::builder(&self.url(documented))
            .schema(SCHEMA)
            .migrations(migrations)
    }

    /// A superuser's connection, whose unqualified names are the schema's.
    pub(crate) async fn superuser(&self) -> Client {
        let client = self.database.raw().await;
        let path = format!("SET search_path TO {SCHEMA}");
        client.batch_execute(&path).await.expect("set the search path");
        client
    }

    /// Runs SQL of the document, or such as it could hold, as a superuser.
    pub(crate) async fn sql(&self, sql: &str) {
        let sql = self.named(sql);
        let done = self.superuser().await.batch_execute(&sql).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// What the catalogue lists: names by a query of one column of text.
    pub(crate) async fn names(&self, query: &str) -> Vec<String> {
        let rows = self
            .superuser()
            .await
            .query(query, &[])
            .await
            .expect("ask the catalogue");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Removes the database and the roles.
    pub(crate) async fn remove(self) {
        self.database.remove().await;
        let client = crate::harness::raw().await;
        for role in ROLES {
            let drop = format!("DROP ROLE IF EXISTS {}", self.role(role));
            client.batch_execute(&drop).await.expect("drop a role");
        }
    }
}
