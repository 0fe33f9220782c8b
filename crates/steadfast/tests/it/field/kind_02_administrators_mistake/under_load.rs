//! The field's figures under load, and what outlasts both leases.

use std::sync::Arc;
use std::time::Duration;

use duroxide::Client;
use duroxide::runtime::RuntimeOptions;

use crate::field::errors::documented::Documented;
use crate::field::errors::load::Load;
use crate::field::form::{is_long, report};

/// What breaks, and what mends it.
pub(super) type Broken = (String, String);

/// Breaks something for each of these times, one after the other, under load, and judges.
async fn outlasted(place: Documented, broken: Vec<Broken>, lasting: &[Duration], options: RuntimeOptions) {
    let provider = place
        .builder("steadfast_worker")
        .connect()
        .await
        .expect("open as the worker");
    let load = Load::begin(Arc::new(provider.clone()), options, Duration::from_millis(20)).await;
    load.reached(20).await;
    for lasting in lasting {
        for (breaks, mends) in &broken {
            place.sql(breaks).await;
            tokio::time::sleep(*lasting).await;
            place.sql(mends).await;
        }
    }
    let verdict = load.settle().await;
    let what: Vec<&str> = broken
        .iter()
        .map(|(breaks, _)| breaks.split('(').next().unwrap_or(breaks))
        .collect();
    report(&format!(
        "- kind 2, under load, for {lasting:?} each: {}: {} acknowledged starts, {} did not complete",
        what.join("; "),
        verdict.acknowledged,
        verdict.failed.len()
    ));
    assert_eq!(provider.health().trouble, None, "it is over");
    provider.close().await;
    place.remove().await;
    verdict.assert_sound(&format!("{broken:?}"));
}

/// A right on every table.
fn right(verb: &str) -> Broken {
    let of = |what: &str, to: &str| format!("{what} {verb} ON ALL TABLES IN SCHEMA steadfast {to} steadfast_worker");
    (of("REVOKE", "FROM"), of("GRANT", "TO"))
}

/// The stored functions behind this method of the provider.
pub(super) async fn functions(place: &Documented, method: &str) -> Vec<Broken> {
    let query = format!(
        "SELECT p.oid::regprocedure::text FROM pg_proc p
         WHERE p.pronamespace = 'steadfast'::regnamespace AND p.proname LIKE '%\\_{method}' ORDER BY 1"
    );
    let found = place.names(&query).await;
    assert!(!found.is_empty(), "no function is named after {method}");
    let broken = |identity: &String| {
        let (name, parameters) = identity.split_once('(').expect("a function");
        (
            format!("ALTER FUNCTION {identity} RENAME TO {name}_away"),
            format!("ALTER FUNCTION {name}_away({parameters} RENAME TO {name}"),
        )
    };
    found.iter().map(broken).collect()
}

/// The field's lengths; the second is longer than duroxide's own leases of 5 and 30 s.
fn lengths() -> &'static [Duration] {
    const LENGTHS: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(75)];
    &LENGTHS[..if is_long() { 2 } else { 1 }]
}

/// The field's figure: 52 of 213 acknowledged starts ended Failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_grants_fail_nothing() {
    let place = Documented::create().await;
    // Each table by itself: where only one right is missing, work is still claimed that needs it.
    let query =
        "SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = 'steadfast'::regnamespace AND c.relkind = 'r'
                 AND c.relname ~ '_(inbox|work)$' ORDER BY 1";
    let tables = place.names(query).await;
    let (from, to) = ("FROM steadfast_worker", "TO steadfast_worker");
    let broken = tables.iter().zip(["INSERT", "DELETE"]).map(|(table, verb)| {
        (
            format!("REVOKE {verb} ON {table} {from}"),
            format!("GRANT {verb} ON {table} {to}"),
        )
    });
    let mut broken: Vec<Broken> = broken.collect();
    broken.push(right("INSERT"));
    outlasted(place, broken, lengths(), RuntimeOptions::default()).await;
}

/// The field's figure: 47 of 254.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_function_fails_nothing() {
    let place = Documented::create().await;
    let mut broken = functions(&place, "ack_work_item").await;
    broken.extend(functions(&place, "ack_orchestration_item").await);
    outlasted(place, broken, lengths(), RuntimeOptions::default()).await;
}

/// Leases shorter than the trouble, and one attempt: what trouble costs is given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_that_outlasts_both_leases_spends_no_attempt() {
    let place = Documented::create().await;
    let options = RuntimeOptions {
        orchestrator_lock_timeout: Duration::from_secs(4),
        worker_lock_timeout: Duration::from_secs(4),
        max_attempts: 1,
        ..RuntimeOptions::default()
    };
    let mut broken = functions(&place, "ack_work_item").await;
    broken.extend(functions(&place, "ack_orchestration_item").await);
    broken.push(right("DELETE"));
    outlasted(place, broken, &[Duration::from_millis(5500)], options).await;
}

/// The field's figure: 20 of 20.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_that_may_not_be_used_fails_nothing() {
    let place = Documented::create().await;
    let of = |what: &str, to: &str| format!("{what} USAGE ON ALL SEQUENCES IN SCHEMA steadfast {to} steadfast_worker");
    let broken = vec![(of("REVOKE", "FROM"), of("GRANT", "TO"))];
    outlasted(place, broken, lengths(), RuntimeOptions::default()).await;
}

/// Where it outlasts even what callers wait for: they are told, nothing is claimed, and afterwards all completes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_is_told_when_trouble_lasts_too_long() {
    let place = Documented::create().await;
    let patience = Duration::from_secs(1);
    let builder = place.builder("steadfast_worker").trouble_timeout(patience);
    let provider = builder.connect().await.expect("open as the worker");
    let load = Load::begin(
        Arc::new(provider.clone()),
        RuntimeOptions::default(),
        Duration::from_millis(20),
    )
    .await;
    load.reached(20).await;
    let (revoke, grant) = right("INSERT");
    place.sql(&revoke).await;
    let client = Client::new(Arc::new(provider.clone()));
    let told = tokio::time::timeout(
        Duration::from_secs(30),
        client.start_orchestration("late", "whole", "late"),
    );
    let told = told.await.expect("it was not told").expect_err("it may not");
    assert!(told.to_string().contains("42501"), "{told}");
    tokio::time::sleep(5 * patience).await;
    place.sql(&grant).await;
    let verdict = load.settle().await;
    provider.close().await;
    place.remove().await;
    verdict.assert_sound("longer than callers wait");
}
