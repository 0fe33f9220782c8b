//! What a role needs to do what a provider does, and what of it is missing: objects and grants, by the catalogue.
//!
//! Invariants: asked of the catalogue only, which everybody may read and which is there whatever else is not; what is
//! wanted is what the schema's own files make.

use tokio_postgres::{GenericClient, SimpleQueryRow};

use super::connection::quote_identifier;
use super::error::StoreError;
use super::schema::{ask_catalogue, functions, sequences, tables};

/// What belongs to the change feed is named so; what is pending there is emptied table by table.
const FEED: &str = "sf_feed";
const FEED_PENDING: &str = "sf_feed_pending";

/// What a provider is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// To work, or to write as a client does: rights for all of it are checked when opening, and trouble with them later
    /// is waited out.
    #[default]
    Work,
    /// To look. Nothing is checked, and what is refused is refused at once.
    Read,
}

/// Something that is not there, or may not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    /// `table`, `function`, `sequence`, `schema`.
    kind: String,
    name: String,
    /// `None`: the object itself is not there.
    privilege: Option<String>,
    role: String,
}

impl Missing {
    /// For a log, a report, an error.
    pub(crate) fn describe(&self) -> String {
        match &self.privilege {
            Some(privilege) => format!(
                "missing: {privilege} on {} {} for role {}",
                self.kind, self.name, self.role
            ),
            None => format!("missing: {} {}", self.kind, self.name),
        }
    }

    /// The statement that mends it, where a statement can.
    pub(crate) fn grant(&self, schema: &str) -> Option<String> {
        let (schema, role) = (quote_identifier(schema), quote_identifier(&self.role));
        let privilege = self.privilege.as_ref()?;
        Some(match self.kind.as_str() {
            "schema" => format!("GRANT {privilege} ON SCHEMA {schema} TO {role};"),
            "table" => format!(
                "GRANT {privilege} ON {schema}.{} TO {role};",
                quote_identifier(&self.name)
            ),
            kind => format!(
                "GRANT {privilege} ON {} {schema}.{} TO {role};",
                kind.to_uppercase(),
                quote_identifier(&self.name)
            ),
        })
    }
}

/// Rows of SQL: place, kind, name, privilege.
#[derive(Default)]
struct Wanted(Vec<String>);

impl Wanted {
    fn of(records: bool) -> Self {
        let mut wanted = Self::default();
        wanted.add("table", "sf_ledger", &["SELECT"]);
        for table in tables().filter(|table| records || !table.starts_with(FEED)) {
            wanted.add("table", table, &["SELECT", "INSERT", "UPDATE", "DELETE"]);
            if table.starts_with(FEED_PENDING) {
                wanted.add("table", table, &["TRUNCATE"]);
            }
        }
        for sequence in sequences().filter(|sequence| records || !sequence.starts_with(FEED)) {
            wanted.add("sequence", sequence, &["USAGE"]);
        }
        for function in functions() {
            wanted.add("function", &function, &["EXECUTE"]);
        }
        wanted
    }

    /// The names are those of our own files.
    fn add(&mut self, kind: &str, name: &str, privileges: &[&str]) {
        for privilege in privileges {
            self.0
                .push(format!("({}, '{kind}', '{name}', '{privilege}')", self.0.len()));
        }
    }
}

const RIGHTS: &str = include_str!("../../sql/catalogue/rights.sql");

/// What is missing, for the caller (`own`) and for all who have rights to write (`others`).
pub(crate) async fn missing(
    client: &impl GenericClient,
    schema: &str,
    records: bool,
    own: bool,
    others: bool,
) -> Result<Vec<Missing>, StoreError> {
    let question = RIGHTS
        .replace("$WANTED$", &Wanted::of(records).0.join(", "))
        .replace("$OWN$", &own.to_string())
        .replace("$OTHERS$", &others.to_string());
    let rows = ask_catalogue(client, schema, &[&question]).await?;
    // The first row is the settings'.
    let decode = |row: &SimpleQueryRow| -> Result<Missing, tokio_postgres::Error> {
        let text = |n: usize| Ok(row.try_get(n)?.unwrap_or_default().to_owned());
        Ok(Missing {
            kind: text(0)?,
            name: text(1)?,
            privilege: row.try_get(2)?.map(str::to_owned),
            role: text(3)?,
        })
    };
    Ok(rows.iter().skip(1).map(decode).collect::<Result<_, _>>()?)
}
