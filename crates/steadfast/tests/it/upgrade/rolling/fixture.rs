//! Makes the fixtures: a store of each engine with instances in the middle of their lives, as plain SQL.
//!
//! Run by hand on the state that is to be kept; it writes into `fixtures/`, under a new number.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use duroxide::Client;
use duroxide::providers::Provider;
use duroxide::runtime::{Runtime, RuntimeOptions};
use steadfast::embedded::EmbeddedProvider;

use super::super::place;
use super::{SCHEMA, workflows};

/// Number of the fixtures that are made next.
const NUMBER: &str = "0002";

fn path(engine: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/upgrade/fixtures");
    folder.join(format!("{engine}-{NUMBER}.sql"))
}

/// Brings the instances into the middle of their lives: orchestrations run, and no activity does.
async fn half_way(provider: Arc<dyn Provider>) {
    let options = RuntimeOptions {
        worker_concurrency: 0,
        ..RuntimeOptions::default()
    };
    let runtime = Runtime::start_with_options(
        Arc::clone(&provider),
        workflows::activities(),
        workflows::orchestrations(),
        options,
    )
    .await;
    let client = Client::new(Arc::clone(&provider));
    for (instance, _) in workflows::RESULTS {
        client.start_orchestration(instance, instance, "").await.expect("start");
    }
    client.enqueue_event("waits", "orders", "first").await.expect("send");
    let admin = provider.as_management_capability().expect("both engines have one");
    let deadline = Instant::now() + Duration::from_secs(20);
    while admin.list_instances().await.expect("list").len() <= workflows::RESULTS.len()
        || admin.latest_execution_id("counts").await.expect("read") < 2
        || admin.get_queue_depths().await.expect("count").worker_queue < 5
    {
        assert!(Instant::now() < deadline, "it does not get so far");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    runtime.shutdown(Some(1_000)).await;
    // One more that nobody has routed yet.
    client.enqueue_event("waits", "orders", "second").await.expect("send");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes fixtures: by hand, on the state that is to be kept"]
async fn make_postgres() {
    let database = place::Database::create().await;
    let provider = Arc::new(place::builder(&database.url, SCHEMA).connect().await.expect("install"));
    half_way(Arc::clone(&provider) as Arc<dyn Provider>).await;
    provider.close().await;
    let dump = Command::new("pg_dump")
        .args([
            "--inserts",
            "--no-owner",
            "--no-privileges",
            "--schema",
            SCHEMA,
            "--dbname",
            &database.url,
        ])
        .output()
        .expect("run pg_dump");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let text = String::from_utf8(dump.stdout).expect("text");
    // Commands of psql, and what only some servers know, are no SQL.
    let plain = |line: &&str| !line.starts_with('\\') && !line.contains("transaction_timeout");
    let text: Vec<&str> = text.lines().filter(plain).collect();
    std::fs::write(path("postgres"), text.join("\n") + "\n").expect("write the fixture");
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes fixtures: by hand, on the state that is to be kept"]
async fn make_embedded() {
    let directory = tempfile::tempdir().expect("a folder");
    let file = directory.path().join("store.db");
    let provider = Arc::new(EmbeddedProvider::open(&file).await.expect("make a file"));
    half_way(Arc::clone(&provider) as Arc<dyn Provider>).await;
    provider.close().await;
    let file = rusqlite::Connection::open(&file).expect("open the file");
    std::fs::write(path("embedded"), dump(&file).expect("dump the file")).expect("write the fixture");
}

/// A file as SQL text.
fn dump(file: &rusqlite::Connection) -> rusqlite::Result<String> {
    let mut sql = String::new();
    for pragma in ["application_id", "user_version"] {
        let value: i64 = file.pragma_query_value(None, pragma, |row| row.get(0))?;
        sql.push_str(&format!("PRAGMA {pragma} = {value};\n"));
    }
    let mut objects = file.prepare("SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid")?;
    let objects = objects.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let objects: Vec<(String, String, String)> = objects.collect::<rusqlite::Result<_>>()?;
    for (_, _, text) in objects.iter().filter(|(_, name, _)| !name.starts_with("sqlite_")) {
        sql.push_str(&format!("{text};\n"));
    }
    for (_, table, _) in objects
        .iter()
        .filter(|(kind, name, _)| kind == "table" && !name.starts_with("sqlite_"))
    {
        let mut columns = file.prepare("SELECT name FROM pragma_table_info(?1)")?;
        let columns = columns.query_map([table], |row| row.get::<_, String>(0))?;
        let columns: Vec<String> = columns
            .map(|name| name.map(|name| format!("quote({name})")))
            .collect::<rusqlite::Result<_>>()?;
        let mut rows = file.prepare(&format!("SELECT {} FROM {table}", columns.join(" || ', ' || ")))?;
        for row in rows.query_map([], |row| row.get::<_, String>(0))? {
            sql.push_str(&format!("INSERT INTO {table} VALUES ({});\n", row?));
        }
    }
    Ok(sql)
}
