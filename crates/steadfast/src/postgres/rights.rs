//! What a role needs to do what a provider does, and what of it is missing: objects and grants, by the catalogue.
//!
//! Invariants: asked of the catalogue only, which everybody may read and which is there whatever else is not; what is
//! wanted is what the schema's own files make.

use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use super::connection::quote_identifier;
use super::error::StoreError;
use super::schema::{functions, sequences, tables};

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

/// Kinds, names and privileges, line by line.
#[derive(Default)]
struct Wanted {
    kinds: Vec<String>,
    names: Vec<String>,
    privileges: Vec<String>,
}

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

    fn add(&mut self, kind: &str, name: &str, privileges: &[&str]) {
        for privilege in privileges {
            self.kinds.push(kind.to_owned());
            self.names.push(name.to_owned());
            self.privileges.push((*privilege).to_owned());
        }
    }
}

/// Who is asked about: the caller; beside it, in a report for people, every role that holds a right to write.
/// `has_*_privilege` answers for memberships, owners and superusers too.
const ASK: &str = "
    WITH roles AS (
        SELECT r.oid, r.rolname::text AS name FROM pg_catalog.pg_roles r WHERE $5 AND r.rolname = current_user
        UNION
        SELECT r.oid, r.rolname::text FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
        JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
        WHERE $6 AND n.nspname = $1 AND c.relkind = 'r' AND a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE')
        AND c.relname = ANY ($7)),
    wanted AS (
        SELECT w.kind, w.name, w.privilege, w.place, CASE w.kind
            WHEN 'function' THEN (SELECT p.oid FROM pg_catalog.pg_proc p
                WHERE p.pronamespace = n.oid AND p.proname = w.name LIMIT 1)
            ELSE (SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid AND c.relname = w.name) END AS oid
        FROM unnest($2, $3, $4) WITH ORDINALITY AS w(kind, name, privilege, place)
        LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = $1)
    SELECT 'schema', $1, NULL::text, '' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = $1)
    UNION ALL
    SELECT 'schema', $1, 'USAGE', r.name FROM roles r JOIN pg_catalog.pg_namespace n ON n.nspname = $1
    WHERE NOT pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')
    UNION ALL
    (SELECT w.kind, w.name, NULL, '' FROM wanted w WHERE w.oid IS NULL GROUP BY w.kind, w.name ORDER BY min(w.place))
    UNION ALL
    (SELECT w.kind, w.name, w.privilege, r.name FROM roles r CROSS JOIN wanted w WHERE w.oid IS NOT NULL AND NOT CASE w.kind
        WHEN 'function' THEN pg_catalog.has_function_privilege(r.oid, w.oid, w.privilege)
        WHEN 'sequence' THEN pg_catalog.has_sequence_privilege(r.oid, w.oid, w.privilege)
        ELSE pg_catalog.has_table_privilege(r.oid, w.oid, w.privilege) END
     ORDER BY r.name, w.place)";

/// What is missing, for the caller (`own`) and for all who have rights to write (`others`).
pub(crate) async fn missing(
    client: &impl GenericClient,
    schema: &str,
    records: bool,
    own: bool,
    others: bool,
) -> Result<Vec<Missing>, StoreError> {
    let wanted = Wanted::of(records);
    let written: Vec<&str> = tables().collect();
    let rows = client
        .query_typed(
            ASK,
            &[
                (&schema, Type::TEXT),
                (&wanted.kinds, Type::TEXT_ARRAY),
                (&wanted.names, Type::TEXT_ARRAY),
                (&wanted.privileges, Type::TEXT_ARRAY),
                (&own, Type::BOOL),
                (&others, Type::BOOL),
                (&written, Type::TEXT_ARRAY),
            ],
        )
        .await?;
    let decode = |row: &tokio_postgres::Row| -> Result<Missing, tokio_postgres::Error> {
        Ok(Missing {
            kind: row.try_get(0)?,
            name: row.try_get(1)?,
            privilege: row.try_get(2)?,
            role: row.try_get(3)?,
        })
    };
    Ok(rows.iter().map(decode).collect::<Result<_, _>>()?)
}
