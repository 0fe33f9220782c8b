//! Kind 2: The command says which grant is missing, to whoever it keeps from working and to whoever looks.

use crate::place::{Place, Ran, asked, run, sql, steadfast};

/// A store, and a role that may work on it but for one right, which is returned.
struct Lacking {
    place: Place,
    role: String,
    right: String,
}

impl Lacking {
    fn new() -> Self {
        let place = Place::installed();
        let (role, schema) = (format!("worker_{}", uuid::Uuid::new_v4().simple()), &place.schema);
        sql(
            &place.url,
            &format!(
                "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role};
                 GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA {schema} TO {role};
                 GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role};
                 GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO {role}"
            ),
        );
        let query = format!(
            "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = '{schema}'::regnamespace AND c.relkind = 'r'
             AND c.relname ~ 'message' ORDER BY 1 LIMIT 1"
        );
        let table = asked(&place.url, &query);
        sql(&place.url, &format!("REVOKE INSERT ON {schema}.{table} FROM {role}"));
        Self {
            right: format!("INSERT on table {table}"),
            place,
            role,
        }
    }

    fn run_as_role(&self, arguments: &[&str]) -> Ran {
        let url = self
            .place
            .url
            .replacen("://postgres@", &format!("://{}@", self.role), 1);
        assert!(url.contains(&self.role), "{url}");
        let mut command = steadfast(arguments);
        run(command
            .env("DATABASE_URL", url)
            .env("STEADFAST_SCHEMA", &self.place.schema))
    }

    fn missing(&self) -> String {
        format!("missing: {} for role {}", self.right, self.role)
    }
}

impl Drop for Lacking {
    fn drop(&mut self) {
        let role = &self.role;
        sql(&self.place.url, &format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    }
}

#[test]
fn who_may_not_work_is_told_the_grant_that_mends_it() {
    let lacking = Lacking::new();
    let said = lacking.run_as_role(&["start", "i", "Greet"]).refused(4);
    assert!(said.contains(&lacking.missing()), "{said}");
    let (_, mends) = said.trim_end().split_once(". Run: ").expect("the statement");
    sql(&lacking.place.url, mends);
    lacking.run_as_role(&["start", "i", "Greet"]).ok();
}

#[test]
fn queues_says_what_workers_lack() {
    let lacking = Lacking::new();
    let said = lacking.place.run(&["queues"]).ok();
    assert!(said.starts_with(&lacking.missing()), "{said}");
    assert!(said.contains("QUEUE"), "the report follows: {said}");
    // As a document, the report stays what it is, and the rest is said beside.
    let ran = run(lacking.place.command(&["queues"]).arg("--json"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect("a document");
    assert!(report.is_array(), "{report}");
    assert!(ran.stderr.contains(&lacking.missing()), "{ran:?}");
}
