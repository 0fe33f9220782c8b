//! Locks of every table of the store, one after the other, held by somebody's transaction while the last event is written, or
//! right after; then released, and nobody does anything any more.

use std::time::Duration;

use duroxide::providers::Provider;

use super::child::{Place, now};
use super::patience;
use super::reader::Reader;
use crate::harness::{database_url, fresh_schema};
use crate::op::scene::{client, started};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_held_a_lock_when_it_was_written_it_is_seen_afterwards() {
    let (url, schema) = (database_url(), fresh_schema());
    let place = Place::Postgres {
        url: url.clone(),
        schema: schema.clone(),
    };
    let (writer, reading) = (place.open().await, place.open().await);
    let builder = steadfast::postgres::PostgresProvider::builder(&url).schema(&schema);
    let reader = Reader::follow("may write", builder.open_feed().await.expect("open the feed"));
    let mut sql = client(&url).await;
    let tables = "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = $1 AND c.relkind = 'r' ORDER BY 1";
    let tables: Vec<String> = (sql.query(tables, &[&schema]).await.expect("the tables"))
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(!tables.is_empty(), "a store has tables");
    let (mut cells, mut latest) = (0, 0);
    for table in &tables {
        for (lock, early) in [
            (format!("LOCK TABLE {table} IN EXCLUSIVE MODE"), true),
            (format!("LOCK TABLE {table} IN EXCLUSIVE MODE"), false),
            (format!("SELECT FROM {table} FOR UPDATE"), true),
            (format!("SELECT FROM {table} FOR UPDATE"), false),
        ] {
            let name = format!("cell-{cells}");
            let append = append(&*writer, &name);
            let hold = async {
                if !early {
                    // Somewhere between the commit and the position.
                    tokio::time::sleep(Duration::from_millis(cells % 8)).await;
                }
                let held = sql.transaction().await.expect("begin");
                held.query(&lock, &[]).await.expect(&lock);
                tokio::time::sleep(Duration::from_millis(60)).await;
                held.rollback().await.expect("release");
            };
            // In this order: the lock is there first, or comes while the event is on its way.
            if early {
                let later = async {
                    tokio::time::sleep(Duration::from_millis(15)).await;
                    append.await;
                };
                tokio::join!(hold, later);
            } else {
                tokio::join!(append, hold);
            }
            latest = latest.max(reader.has(&[(name, 1)], now(), patience()).await);
            cells += 1;
        }
    }
    eprintln!(
        "{cells} cells: locks of {} tables; the latest event {latest} ms after the release",
        tables.len()
    );
    drop(reader);
    writer.close().await;
    reading.close().await;
}

async fn append(writer: &dyn Provider, instance: &str) {
    let event = started(instance, 1);
    let done = writer.append_with_execution(instance, 1, vec![event]).await;
    done.expect("append an event");
}
