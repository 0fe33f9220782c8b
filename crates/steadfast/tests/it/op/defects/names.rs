//! Schema names that an existing provider cannot live with.

use std::time::Duration;

use duroxide::providers::{Provider, ProviderAdmin};
use steadfast::postgres::Migrations;

use crate::harness::{database_url, fresh_schema};
use crate::op::scene::{LONG, ack_turn, activity, builder, start, turn, work};

/// Opens, works, restarts, works, is heard by others; then nothing is left.
async fn a_schema_named(name: &str) {
    let url = database_url();
    for round in 1..=2 {
        let first = builder(&url, name).connect().await.expect("open");
        // A second process that may change nothing, and that sleeps when the work is made.
        let second = builder(&url, name)
            .migrations(Migrations::Verify)
            .connect()
            .await
            .expect("open again");
        let instance = format!("i{round}");
        let waiting = {
            let second = second.clone();
            tokio::spawn(async move { turn(&second, LONG).await })
        };
        tokio::time::sleep(Duration::from_millis(500)).await;
        first
            .enqueue_for_orchestrator(start(&instance), None)
            .await
            .expect("start");
        let (found, token, _) = waiting.await.expect("the sleeper wakes");
        assert_eq!(found, instance);
        ack_turn(&second, &token, &instance, vec![activity(&instance, 2)], Vec::new())
            .await
            .expect("acknowledge");
        let (found, token, _) = work(&first, LONG).await;
        assert_eq!(found, instance);
        first.ack_work_item(&token, None).await.expect("acknowledge");
        assert_eq!(first.list_instances().await.expect("list").len(), round);
        if round == 2 {
            first.cleanup_schema().await.expect("drop the schema");
        }
        first.close().await;
        second.close().await;
    }
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname = $1";
    let left: i64 = crate::harness::raw()
        .await
        .query_one(left, &[&name])
        .await
        .expect("look")
        .get(0);
    assert_eq!(left, 0);
}

/// A name of exactly so many bytes that nobody else has.
fn long(bytes: usize) -> String {
    let mut name = fresh_schema();
    assert!(name.len() <= bytes);
    name.push_str(&"x".repeat(bytes - name.len()));
    name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_06_a_mixed_case_schema_outlives_a_restart() {
    a_schema_named(&fresh_schema().replacen("it_", "It_MixedCase_", 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_06_a_schema_of_52_bytes_works() {
    a_schema_named(&long(52)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_06_a_schema_of_63_bytes_works() {
    a_schema_named(&long(63)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_06_a_schema_of_quotes_and_spaces_works() {
    a_schema_named(&format!("Q\"u'o te$;é{}", fresh_schema())).await;
}

#[tokio::test]
async fn defect_06_a_name_that_cannot_be_is_refused() {
    let error = builder(&database_url(), &"x".repeat(64))
        .connect()
        .await
        .expect_err("64 bytes");
    assert_eq!(error.kind(), steadfast::postgres::OpenErrorKind::InvalidName);
}
