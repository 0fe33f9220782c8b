//! The catalogue of a schema: who owns it, what is in it, and what of that is not as this version installs it.
//!
//! Invariants: nothing of the schema is run or read before its owners are known; every statement here runs with
//! `search_path = pg_catalog, pg_temp`, so that no name in it can mean an object of somebody else; one look is one round
//! trip and one message, which every pooler passes on.

use sha2::{Digest, Sha256};
use tokio_postgres::{GenericClient, SimpleQueryMessage, SimpleQueryRow};

use crate::catalogue::{Finding, FindingKind, Listing, compare, in_short};
use crate::postgres::builder::{OpenError, OpenErrorKind};
use crate::postgres::error::StoreError;

/// What a fresh installation holds; `cargo xtask schema` makes it. A fourth column is the SQL that makes the object.
const GOLDEN: &str = include_str!("../../../sql/catalogue/listing.golden.txt");
const LISTING: &str = include_str!("../../../sql/catalogue/listing.sql");
const OWNERS: &str = include_str!("../../../sql/catalogue/owners.sql");
const PLACE: &str = include_str!("../../../sql/catalogue/place.sql");

/// For this message only: names, printed expressions and the planner do not depend on the session's settings.
const SETTINGS: &str = "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), \
     pg_catalog.set_config('quote_all_identifiers', 'off', true), pg_catalog.set_config('jit', 'off', true);\n";
const DIGEST: &str = "SELECT 'digest', pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.string_agg(\
     l.line, pg_catalog.chr(10) ORDER BY l.line COLLATE \"C\"), 'UTF8')), 'hex') \
     FROM (SELECT kind || chr(9) || object || chr(9) || fact AS line FROM listing) AS l;\n";
const ROWS: &str = "SELECT 'object', kind, object, fact FROM listing;\n";

/// A line of the golden listing.
struct Golden {
    kind: &'static str,
    object: &'static str,
    fact: &'static str,
    remedy: &'static str,
}

fn golden() -> impl Iterator<Item = Golden> {
    GOLDEN.lines().filter_map(|line| {
        let mut columns = line.split('\t');
        Some(Golden {
            kind: columns.next()?,
            object: columns.next()?,
            fact: columns.next()?,
            remedy: columns.next().unwrap_or_default(),
        })
    })
}

/// The SQL that makes an object of a table anew: an index, a constraint, a trigger, a default, a NOT NULL.
pub(super) fn remedy(kind: &str, object: &str) -> Option<&'static str> {
    golden()
        .find(|line| line.kind == kind && line.object == object && !line.remedy.is_empty())
        .map(|line| line.remedy)
}

fn expected() -> Listing {
    let mut listing = Listing::default();
    for line in golden() {
        listing.insert(line.kind, line.object, line.fact);
    }
    listing
}

/// The digest that a schema has that is as this version installs it.
fn expected_digest() -> String {
    let mut lines: Vec<String> = golden()
        .map(|line| [line.kind, line.object, line.fact].join("\t"))
        .collect();
    lines.sort_unstable();
    hex(&Sha256::digest(lines.join("\n").as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A name as an expression that no setting of the server and no character of the name can change.
fn name_expression(schema: &str) -> String {
    format!(
        "pg_catalog.convert_from(pg_catalog.decode('{}', 'hex'), 'UTF8')",
        hex(schema.as_bytes())
    )
}

/// What one look found.
#[derive(Debug)]
pub(super) struct Seen {
    server_version: u32,
    encoding: String,
    isolation: String,
    caller: String,
    /// The caller can do more in the cluster than the owner of a schema can.
    caller_is_powerful: bool,
    schema_exists: bool,
    ledger_owner: Option<String>,
    /// Reading the ledger runs nothing.
    ledger_is_plain: bool,
    /// Owners that could gain by what the caller runs, and what they own.
    owners: Vec<(String, String)>,
    digest: String,
}

impl Seen {
    pub(super) fn schema_exists(&self) -> bool {
        self.schema_exists
    }

    pub(super) fn has_ledger(&self) -> bool {
        self.ledger_owner.is_some()
    }

    /// Whether everything is as this version installs it.
    pub(super) fn is_as_installed(&self) -> bool {
        self.digest == expected_digest()
    }

    /// What the server says of itself.
    pub(super) fn check_server(&self) -> Result<(), OpenError> {
        let fault = if self.server_version < 150_000 {
            format!(
                "PostgreSQL {} is too old: 15 is the oldest that works",
                self.server_version / 10_000
            )
        } else if self.encoding != "UTF8" {
            format!("the database's encoding is {}; UTF8 is needed", self.encoding)
        } else if self.isolation != "read committed" {
            format!(
                "transactions here are {}; READ COMMITTED is needed (behind a pooler, set \
                 default_transaction_isolation for the role or database)",
                self.isolation
            )
        } else {
            return Ok(());
        };
        Err(OpenError::new(OpenErrorKind::Configuration, fault))
    }

    /// What belongs to roles that the caller does not trust. Whoever can do more than the owner of a schema trusts itself,
    /// superusers, members of its own role, and whom it has named: any other owner could make it run something. All
    /// others trust one owner, that of the ledger, because they were told to use its schema and what it installed is
    /// compared; then nothing that Steadfast installs may belong to a third.
    pub(super) fn foreign_owners(&self, trusted: &[String]) -> Vec<Finding> {
        let expected = expected();
        let ours = |object: &str| {
            object.starts_with("function of trigger ")
                || golden().any(|line| {
                    let name = line.object.split('(').next().unwrap_or_default();
                    object.strip_prefix(line.kind).and_then(|o| o.strip_prefix(' ')) == Some(name)
                })
                || object
                    .split_once(' ')
                    .is_some_and(|(kind, name)| expected.has(kind, name))
        };
        self.owners
            .iter()
            .filter(|(owner, _)| !trusted.contains(owner))
            .filter(|(owner, object)| {
                self.caller_is_powerful || (self.ledger_owner.as_ref() != Some(owner) && ours(object))
            })
            .map(|(owner, object)| Finding {
                kind: FindingKind::ForeignOwner { owner: owner.clone() },
                object: object.clone(),
                stops_opening: true,
                key: Default::default(),
            })
            .collect()
    }

    /// Whether reading the ledger runs nothing and shows all of it.
    pub(super) fn ledger_is_plain(&self) -> bool {
        self.ledger_is_plain || !self.has_ledger()
    }

    /// Refuses owners that are not trusted.
    pub(super) fn check_owners(&self, schema: &str, trusted: &[String]) -> Result<(), OpenError> {
        let foreign = self.foreign_owners(trusted);
        if foreign.is_empty() {
            return Ok(());
        }
        Err(OpenError::new(
            OpenErrorKind::SchemaForeign,
            format!(
                "schema {schema:?}: {}: what is in it would run with the rights of {:?}; name the owner if you trust it",
                in_short(&foreign),
                self.caller
            ),
        ))
    }
}

/// Looks at the server and at the catalogue of `schema`. Works behind every pooler, and runs nothing of the schema.
pub(super) async fn look(client: &impl GenericClient, schema: &str) -> Result<Seen, OpenError> {
    let rows = ask(client, schema, &[PLACE, OWNERS, LISTING, DIGEST]).await?;
    let text = |row: &SimpleQueryRow, column: usize| row.try_get(column).ok().flatten().map(str::to_owned);
    let mut seen = None;
    let mut owners = Vec::new();
    let mut digest = String::new();
    for row in &rows {
        match row.try_get(0).ok().flatten() {
            Some("place") => {
                let ledger_owner = text(row, 7);
                seen = Some(Seen {
                    server_version: text(row, 1).and_then(|v| v.parse().ok()).unwrap_or_default(),
                    encoding: text(row, 2).unwrap_or_default(),
                    isolation: text(row, 3).unwrap_or_default(),
                    caller: text(row, 4).unwrap_or_default(),
                    caller_is_powerful: text(row, 5).as_deref() != Some("false"),
                    schema_exists: text(row, 6).is_some(),
                    ledger_owner,
                    ledger_is_plain: text(row, 8).as_deref() == Some("true"),
                    owners: Vec::new(),
                    digest: String::new(),
                });
            }
            Some("owner") => owners.extend(text(row, 1).zip(text(row, 2))),
            Some("digest") => digest = text(row, 1).unwrap_or_default(),
            _ => {}
        }
    }
    let seen =
        seen.ok_or_else(|| OpenError::new(OpenErrorKind::Database, "the server did not describe itself".to_owned()))?;
    Ok(Seen { owners, digest, ..seen })
}

/// What is not as this version installs it.
pub(super) async fn findings(client: &impl GenericClient, schema: &str) -> Result<Vec<Finding>, OpenError> {
    let mut found = Listing::default();
    for row in ask(client, schema, &[LISTING, ROWS]).await? {
        let column = |n| row.try_get(n).ok().flatten().unwrap_or_default();
        if column(0) == "object" {
            found.insert(column(1), column(2), column(3));
        }
    }
    Ok(compare(&expected(), &found))
}

/// Asks questions of the catalogue in one message, in which `$SCHEMA$` stands for the schema's name; the first row is that of
/// the message's settings.
pub(in crate::postgres) async fn ask(
    client: &impl GenericClient,
    schema: &str,
    parts: &[&str],
) -> Result<Vec<SimpleQueryRow>, StoreError> {
    let sql = parts.concat().replace("$SCHEMA$", &name_expression(schema));
    let answer = client.simple_query(&format!("{SETTINGS}{sql}")).await?;
    Ok(answer
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_listing_is_whole() {
        let listing = expected();
        assert_eq!(listing.0.len(), GOLDEN.lines().count(), "each object once");
        for (stem, _) in super::super::files::FUNCTIONS {
            let name = format!("sf_{stem}");
            let found = golden().any(|l| l.kind == "function" && l.object.split('(').next() == Some(&name));
            assert!(found, "{name} is not in the listing: run `cargo xtask schema`");
        }
        for name in super::super::files::relations() {
            assert!(
                listing.has("table", &name) || listing.has("view", &name),
                "{name} is not in the listing: run `cargo xtask schema`"
            );
        }
        for line in golden() {
            let made_anew = ["index", "constraint", "trigger", "default", "not null"].contains(&line.kind);
            assert_eq!(made_anew, !line.remedy.is_empty(), "{} {}", line.kind, line.object);
        }
    }

    #[test]
    fn a_name_is_only_digits_in_sql() {
        assert_eq!(
            name_expression("a'\"$$\\"),
            "pg_catalog.convert_from(pg_catalog.decode('61272224245c', 'hex'), 'UTF8')"
        );
    }
}
