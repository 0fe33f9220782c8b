//! Stores with a fault planted in them: the model test must see each of them.
//!
//! Invariant: a planted fault that cannot be planted any more (the text it replaces has changed) fails the test.

use std::sync::Arc;

use duroxide::providers::Provider;
use steadfast::postgres::PostgresProvider;
use tokio::runtime::Runtime;

use super::command::CALLERS;
use super::concurrent::unexplained;
use super::sequences::{Bench, search};
use crate::harness::{Engine, Mode, Store, database_url};

/// Sequences that are tried before a fault counts as not seen.
const CASES: u32 = 400;
/// Name of a client whose clock is wrong.
const SKEWED: &str = "steadfast-skewed";

/// A stored function with a part of it replaced.
fn faulty(function: &str, part: &str, by: &str) -> String {
    assert!(function.contains(part), "the fault cannot be planted any more: {part}");
    function.replace(part, by)
}

/// A PostgreSQL store with a fault; its last caller calls itself [`SKEWED`].
fn planted(sql: String) -> impl Fn(&Runtime) -> Bench {
    move |runtime| {
        runtime.block_on(async {
            let store = Store::on(Engine::Postgres, Mode::LongPoll);
            let mut callers: Vec<Arc<dyn Provider>> = Vec::new();
            for _ in 1..CALLERS {
                callers.push(store.open().await);
            }
            store.raw().await.batch_execute(&sql).await.expect("plant the fault");
            let skewed = PostgresProvider::builder(&database_url())
                .schema(store.schema())
                .pool_size(2)
                .application_name(SKEWED)
                .accept_changed_schema(true)
                .connect()
                .await
                .expect("open the skewed caller");
            let skewed = Arc::new(skewed);
            callers.push(Arc::clone(&skewed) as Arc<dyn Provider>);
            Bench {
                store,
                callers,
                apart: Some(skewed),
            }
        })
    }
}

/// The fault is found, and the difference speaks of it.
fn is_seen(sql: String) {
    let found = search(&planted(sql), CASES, 1);
    let (difference, steps) = found.expect("the planted fault was not seen");
    eprintln!("seen in {} steps: {difference}", steps.len());
}

#[test]
fn an_ack_that_ignores_its_token_is_seen() {
    is_seen(faulty(
        include_str!("../../../sql/functions/ack_orchestration_item.sql"),
        "t.instance_key IS NULL OR t.claim IS DISTINCT FROM o.claim",
        "t.instance_key IS NULL",
    ));
}

#[test]
fn an_ack_that_ignores_its_token_is_seen_among_concurrent_calls() {
    let sql = faulty(
        include_str!("../../../sql/functions/ack_orchestration_item.sql"),
        "t.instance_key IS NULL OR t.claim IS DISTINCT FROM o.claim",
        "t.instance_key IS NULL",
    );
    assert!(
        unexplained(&planted(sql), 200, 1).is_some(),
        "the planted fault was not seen"
    );
}

#[test]
fn an_ack_that_ignores_the_end_of_its_lease_is_seen() {
    let sql = include_str!("../../../sql/functions/ack_work_item.sql");
    let sql = faulty(sql, " AND w.available_at > clock_timestamp() AS holds", " AS holds");
    is_seen(faulty(&sql, "WHEN w.available_at <= v_now THEN 2", ""));
}

#[test]
fn a_lease_by_the_clients_clock_is_seen() {
    let late = format!(
        "clock_timestamp() + CASE WHEN current_setting('application_name') = '{SKEWED}'
                 THEN interval '15 minutes' ELSE interval '0' END;"
    );
    is_seen(faulty(
        include_str!("../../../sql/functions/fetch_work_item.sql"),
        "clock_timestamp();",
        &late,
    ));
}

#[test]
fn an_incarnation_that_is_used_again_is_seen() {
    // The caches hang on the key of an instance's life: with one key for all lives they mix them up.
    is_seen(
        "CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN NEW.instance_key := 1000000000 + hashtext(NEW.instance_id); RETURN NEW; END $$;
         CREATE TRIGGER planted BEFORE INSERT ON sf_instance FOR EACH ROW EXECUTE FUNCTION planted();"
            .to_owned(),
    );
}

#[test]
fn a_message_that_is_lost_is_seen_on_the_embedded_engine() {
    let open = |runtime: &Runtime| {
        let bench = Bench::on(Engine::Embedded)(runtime);
        let planted = bench.store.raw_file().execute_batch(
            "CREATE TRIGGER planted AFTER INSERT ON sf_message WHEN new.message_id % 5 = 0
             BEGIN DELETE FROM sf_message WHERE message_id = new.message_id; END",
        );
        planted.expect("plant the fault");
        bench
    };
    let (difference, steps) = search(&open, CASES, 1).expect("the planted fault was not seen");
    eprintln!("seen in {} steps: {difference}", steps.len());
}
