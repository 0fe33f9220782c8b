//! Kind 15: No name gets out of its quotes, and what could steer a text is refused at every door.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use steadfast::postgres::{Migrations, OpenErrorKind, schema_sql};
use tokio_postgres::Client;

use crate::upgrade::place::{self, Database};

/// Names that would get out of quotes that are not doubled, of comments, of dollar quotes, of a URL, of a format string.
fn hostile() -> Vec<String> {
    let mut names: Vec<String> = [
        "a\"; CREATE SCHEMA evil; --",
        "a'; CREATE SCHEMA evil; --",
        "a\\'; CREATE SCHEMA evil; --",
        "\\",
        "$$; CREATE SCHEMA evil; --",
        "$steadfast0$; CREATE SCHEMA evil; --",
        "$do$ $body$ $_$",
        "*/ CREATE SCHEMA evil; /*",
        "-- a",
        ":name :'name' :\"name\"",
        "\\! touch evil",
        "%s %I %L %1$s",
        "{} {0} $1 ?1 $SCHEMA$",
        "🦀 crab",
        " ",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push(format!("{}\"", "x".repeat(62)));
    names.push("é\"".repeat(21));
    names
}

fn steering() -> Vec<String> {
    [
        "\n", "\r", "\t", "\u{0}", "\u{1b}", "\u{7f}", "\u{9b}", "\u{85}", "\u{2028}", "\u{202e}", "\u{2066}",
        "\u{200f}",
    ]
    .iter()
    .map(|c| format!("a{c}CREATE ROLE evil; --"))
    .collect()
}

/// Everything that a name could have made, beside what it should.
async fn surroundings(client: &Client) -> BTreeSet<String> {
    let rows = client
        .query(
            "SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
             UNION ALL SELECT 'relation ' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = 'public'",
            &[],
        )
        .await
        .expect("look around");
    rows.iter().map(|row| row.get(0)).collect()
}

/// As an administrator runs it.
pub(super) fn psql(url: &str, sql: &str) -> Result<(), String> {
    let bin = std::env::var_os("STEADFAST_POSTGRES_BIN").map(PathBuf::from);
    let program = bin.map(|dir| dir.join("psql")).filter(|path| path.is_file());
    let mut child = Command::new(program.unwrap_or_else(|| "psql".into()))
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", url])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run psql");
    let mut input = child.stdin.take().expect("its input");
    // It stops reading at the first error.
    let _ = input.write_all(sql.as_bytes());
    drop(input);
    let output = child.wait_with_output().expect("wait for psql");
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[tokio::test]
async fn printed_sql_makes_exactly_the_schema() {
    let database = Database::create().await;
    let client = database.raw().await;
    for name in hostile() {
        let before = surroundings(&client).await;
        let sql = schema_sql(&name).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        psql(&database.url, &sql).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        let mut after = surroundings(&client).await;
        assert!(after.remove(&format!("schema {name}")), "{name:?}: {after:?}");
        assert_eq!(after, before, "{name:?}");
        let builder = || place::builder(&database.url, &name).migrations(Migrations::Verify);
        assert_eq!(builder().verify_schema().await.expect("verify"), [], "{name:?}");
        let provider = builder()
            .connect()
            .await
            .unwrap_or_else(|error| panic!("{name:?}: {error}"));
        place::round(&provider, "i").await;
        provider.close().await;
        assert_eq!(builder().repair_schema().await.expect("repair").left, [], "{name:?}");
        // Every setting of the server that changes how text is read.
        client
            .batch_execute(&format!(
                "DROP SCHEMA {} CASCADE; SET standard_conforming_strings = off; SET escape_string_warning = off",
                place::quoted(&name)
            ))
            .await
            .unwrap();
        client
            .batch_execute(&sql)
            .await
            .unwrap_or_else(|error| panic!("{name:?}: {error:?}"));
        client
            .batch_execute(&format!(
                "DROP SCHEMA {} CASCADE; RESET standard_conforming_strings; RESET escape_string_warning; RESET search_path",
                place::quoted(&name)
            ))
            .await
            .unwrap();
        assert_eq!(surroundings(&client).await, before, "{name:?}");
    }
}

#[tokio::test]
async fn installing_and_removing_make_and_remove_exactly_the_schema() {
    let database = Database::create().await;
    let client = database.raw().await;
    for name in hostile() {
        let before = surroundings(&client).await;
        let provider = place::builder(&database.url, &name)
            .connect()
            .await
            .unwrap_or_else(|error| panic!("{name:?}: {error}"));
        let mut after = surroundings(&client).await;
        assert!(after.remove(&format!("schema {name}")), "{name:?}: {after:?}");
        assert_eq!(after, before, "{name:?}");
        provider
            .cleanup_schema()
            .await
            .unwrap_or_else(|error| panic!("{name:?}: {error}"));
        provider.close().await;
        assert_eq!(surroundings(&client).await, before, "{name:?}");
    }
}

#[tokio::test]
async fn what_could_steer_a_text_is_refused_at_every_door() {
    // Nothing listens there: the name is judged first.
    let builder = |name: &str| place::builder("postgres://nobody@127.0.0.1:1/none", name);
    for name in steering() {
        for error in [
            schema_sql(&name).expect_err("printed"),
            builder(&name).connect().await.expect_err("opened"),
            builder(&name).open_feed().await.expect_err("opened to observe"),
            builder(&name).verify_schema().await.expect_err("verified"),
            builder(&name).repair_schema().await.expect_err("repaired"),
        ] {
            assert_eq!(error.kind(), OpenErrorKind::InvalidName, "{name:?}: {error}");
            assert!(
                !error.to_string().chars().any(char::is_control),
                "the message is one line: {error}"
            );
        }
    }
}
