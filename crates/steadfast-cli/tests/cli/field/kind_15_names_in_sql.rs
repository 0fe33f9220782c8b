//! Kind 15: No schema name gets out of its quotes in what the command prints for an administrator.

use crate::place::{Place, asked, run, sql, steadfast};

#[test]
fn a_name_that_could_steer_a_text_is_refused_by_every_verb() {
    for name in [
        "t\nCREATE ROLE evil SUPERUSER;\n--",
        "t\rx",
        "t\u{1b}[2J",
        "t\u{9b}x",
        "t\u{202e}x",
    ] {
        for verb in [
            &["schema", "print"][..],
            &["schema", "install"],
            &["schema", "install", "--repair"],
            &["schema", "verify"],
            &["list"],
            &["queues"],
            &["feed", "report"],
        ] {
            let mut command = steadfast(verb);
            command.args(["--schema", name, "--database-url", "postgres://nobody@127.0.0.1:1/none"]);
            let ran = run(&mut command);
            if verb[0] == "feed" && ran.stderr.contains("unrecognized") {
                continue;
            }
            let said = ran.refused(2);
            assert!(!said.trim_end().chars().any(char::is_control), "{said:?}");
            let ran = run(steadfast(verb)
                .env("STEADFAST_SCHEMA", name)
                .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"));
            assert_eq!(ran.code, Some(2), "{ran:?}");
        }
    }
}

#[test]
fn printed_sql_holds_the_name_in_quotes_only() {
    let name = "a\"; DROP SCHEMA public; --";
    let sql = run(&mut steadfast(&["schema", "print", "--schema", name])).ok();
    for line in sql.lines().filter(|line| line.contains("DROP SCHEMA public")) {
        assert!(line.contains("a\"\"; DROP") || line.contains("'a\"; DROP"), "{line}");
    }
    assert!(
        sql.lines()
            .filter(|line| line.starts_with("--"))
            .all(|line| !line.contains("DROP SCHEMA public"))
    );
}

/// Kind 14, as the command says it.
#[test]
fn verify_names_what_is_missing_and_repair_puts_it_back() {
    for place in [Place::installed(), Place::in_file()] {
        let dropped = hurt(&place);
        let ran = place.run(&["schema", "verify"]);
        assert_eq!(ran.code, Some(5), "{ran:?}");
        assert!(ran.stdout.contains(&format!("index {dropped} is missing")), "{ran:?}");
        assert!(ran.stderr.contains("--repair"), "{ran:?}");
        let ran = place.run(&["schema", "verify", "--json"]);
        assert_eq!(ran.code, Some(5), "{ran:?}");
        let said: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(said["state"], "differs");
        assert_eq!(said["findings"][0]["kind"], "missing");
        assert_eq!(said["findings"][0]["object"], format!("index {dropped}"));
        let said = place.run(&["schema", "install", "--repair"]).ok();
        assert!(said.contains(&format!("mended: index {dropped} is missing")), "{said}");
        assert!(
            place
                .run(&["schema", "verify"])
                .ok()
                .contains("is what this version needs")
        );
    }
}

/// Drops an index of the store behind the command's back.
fn hurt(place: &Place) -> String {
    if let Some(path) = place.file() {
        place.run(&["schema", "install"]).ok();
        let connection = rusqlite::Connection::open(path).unwrap();
        let name: String = connection
            .query_row(
                "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql LIKE 'CREATE INDEX%' LIMIT 1",
                [],
                |row| row.get(0),
            )
            .unwrap();
        connection.execute_batch(&format!("DROP INDEX {name}")).unwrap();
        return name;
    }
    let schema = &place.schema;
    let query = format!(
        "SELECT c.relname::text FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
         WHERE c.relnamespace = '{schema}'::regnamespace AND NOT i.indisunique ORDER BY 1 LIMIT 1"
    );
    let name = asked(&place.url, &query);
    sql(&place.url, &format!("DROP INDEX {schema}.{name}"));
    name
}
