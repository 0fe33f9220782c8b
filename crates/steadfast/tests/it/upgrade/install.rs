//! An install is the same whoever makes it, is made once, and may be made by many at the same time.

use std::process::{Command, Stdio};

use steadfast::postgres::{Migrations, schema_sql};

use super::{catalog, place};
use crate::harness::{database_url, fresh_schema, raw};

/// Tells a child process which schema to open.
const CHILD: &str = "STEADFAST_IT_OPENS";

#[tokio::test]
async fn the_printed_sql_makes_the_same_schema_as_opening_does() {
    let (printed, opened) = (fresh_schema(), fresh_schema());
    let client = raw().await;
    client
        .batch_execute(&schema_sql(&printed).expect("print the SQL"))
        .await
        .expect("run the printed SQL");
    place::builder(&database_url(), &opened)
        .connect()
        .await
        .expect("install by opening")
        .close()
        .await;

    let (by_hand, by_us) = (
        catalog::definitions(&client, &printed).await,
        catalog::definitions(&client, &opened).await,
    );
    assert!(by_us.len() > 100, "the catalog was read: {} lines", by_us.len());
    let differences: Vec<_> = by_hand.symmetric_difference(&by_us).collect();
    assert!(differences.is_empty(), "the two differ: {differences:#?}");
    let mut ledger = catalog::ledger(&client, &opened).await;
    assert!(
        ledger.remove("gate made_schema  1"),
        "an install notes that it made the schema"
    );
    assert_eq!(catalog::ledger(&client, &printed).await, ledger);

    let before = catalog::rows(&client, &printed).await;
    let provider = place::builder(&database_url(), &printed)
        .migrations(Migrations::Verify)
        .connect()
        .await
        .expect("verify what was made by hand");
    place::round(&provider, "after the printed SQL").await;
    provider.close().await;
    place::builder(&database_url(), &printed)
        .connect()
        .await
        .expect("apply finds nothing to do")
        .close()
        .await;
    assert_eq!(catalog::rows(&client, &printed).await, before, "nothing was changed");
}

#[tokio::test]
async fn the_printed_sql_works_for_names_that_need_quotes() {
    for name in [
        r#"My "quoted" Schema "#,
        "o'clock; --",
        "$$ dollars $body$",
        r"back\slash",
    ] {
        let name = format!("{name}{}", &fresh_schema()[..20]);
        let client = raw().await;
        client
            .batch_execute(&schema_sql(&name).expect("print the SQL"))
            .await
            .unwrap_or_else(|error| panic!("run the printed SQL for {name:?}: {error:?}"));
        let provider = place::builder(&database_url(), &name)
            .migrations(Migrations::Verify)
            .connect()
            .await
            .unwrap_or_else(|error| panic!("verify {name:?}: {error}"));
        place::round(&provider, "i").await;
        provider.close().await;
    }
}

#[tokio::test]
async fn a_second_install_changes_nothing() {
    let schema = fresh_schema();
    let client = raw().await;
    let open = async || {
        let provider = place::builder(&database_url(), &schema).connect().await.expect("open");
        provider.close().await;
    };
    open().await;
    let (rows, ledger) = (
        catalog::rows(&client, &schema).await,
        catalog::dated_ledger(&client, &schema).await,
    );
    open().await;
    assert_eq!(catalog::rows(&client, &schema).await, rows, "no DDL");
    assert_eq!(
        catalog::dated_ledger(&client, &schema).await,
        ledger,
        "no entry was made anew"
    );
}

#[tokio::test]
async fn ten_providers_install_at_once() {
    for _ in 0..3 {
        let schema = fresh_schema();
        let opening: Vec<_> = (0..10)
            .map(|_| {
                let opens = place::builder(&database_url(), &schema).connect();
                tokio::spawn(opens)
            })
            .collect();
        let mut providers = Vec::new();
        for task in opening {
            providers.push(task.await.unwrap().expect("open beside nine others"));
        }
        for (n, provider) in providers.iter().enumerate() {
            place::round(provider, &format!("instance {n}")).await;
        }
        for provider in providers {
            provider.close().await;
        }
    }
}

/// As above, into a schema that exists and is empty, and half of them by the printed SQL's rules: verify only.
#[tokio::test]
async fn installs_and_verifications_at_once_end_well_or_say_what_is_missing() {
    let schema = fresh_schema();
    raw()
        .await
        .batch_execute(&format!("CREATE SCHEMA {schema}"))
        .await
        .expect("make the schema");
    let opening: Vec<_> = (0..12)
        .map(|n| {
            let policy = if n % 2 == 0 {
                Migrations::Apply
            } else {
                Migrations::Verify
            };
            let opens = place::builder(&database_url(), &schema).migrations(policy).connect();
            tokio::spawn(async move { (policy, opens.await) })
        })
        .collect();
    for task in opening {
        match task.await.unwrap() {
            (_, Ok(provider)) => provider.close().await,
            (Migrations::Verify, Err(error)) => {
                assert_eq!(
                    error.kind(),
                    steadfast::postgres::OpenErrorKind::SchemaMissing,
                    "a verification sees all of an install or nothing of it: {error}"
                );
            }
            (Migrations::Apply, Err(error)) => panic!("an install failed: {error}"),
        }
    }
}

#[test]
fn ten_processes_install_at_once() {
    let schema = fresh_schema();
    let program = std::env::current_exe().expect("this test binary");
    let children: Vec<_> = (0..10)
        .map(|_| {
            Command::new(&program)
                .args(["upgrade::install::a_process_of_its_own_opens", "--exact", "--ignored"])
                .env(CHILD, &schema)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("start a child process")
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().expect("wait for a child process");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "a child failed: {said}"
        );
    }
}

#[tokio::test]
#[ignore = "the part of each child of ten_processes_install_at_once"]
async fn a_process_of_its_own_opens() {
    let Ok(schema) = std::env::var(CHILD) else { return };
    let provider = place::builder(&database_url(), &schema)
        .connect()
        .await
        .expect("open beside nine other processes");
    let instance = format!("of process {}", std::process::id());
    use duroxide::providers::Provider;
    provider
        .enqueue_for_orchestrator(place::start(&instance), None)
        .await
        .expect("start");
    provider.close().await;
}
