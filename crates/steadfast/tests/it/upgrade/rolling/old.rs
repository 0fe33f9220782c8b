//! A caller as an old binary is one: it knows the stored functions of the fixture by name and signature, and nothing else.
//!
//! Invariant: no code of the engine is used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use duroxide::providers::WorkItem;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use uuid::Uuid;

use super::super::place;
use super::{SCHEMA, workflows};

/// How long the old callers may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct OldCaller {
    sent: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    running: JoinHandle<usize>,
}

impl OldCaller {
    /// Begins to send events and to run activities.
    pub(super) async fn start(url: &str) -> Self {
        let client = place::raw_at(url).await;
        let (sent, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let running = tokio::spawn({
            let (sent, ends) = (Arc::clone(&sent), Arc::clone(&ends));
            async move {
                let mut ran = 0;
                while !ends.load(Ordering::SeqCst) {
                    send(&client, sent.load(Ordering::SeqCst)).await;
                    sent.fetch_add(1, Ordering::SeqCst);
                    // Two of them: the new release finds work as well.
                    if ran < 2 {
                        ran += run(&client).await;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                ran
            }
        });
        Self { sent, ends, running }
    }

    /// Waits until so many events were sent.
    pub(super) async fn sent(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.sent.load(Ordering::SeqCst) < count {
            assert!(!self.running.is_finished(), "the old caller failed");
            assert!(Instant::now() < deadline, "the old caller hangs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it; how many events it sent and activities it ran.
    pub(super) async fn stop(self) -> (usize, usize) {
        self.ends.store(true, Ordering::SeqCst);
        let ran = self.running.await.expect("the old caller does not fail");
        (self.sent.load(Ordering::SeqCst), ran)
    }
}

fn payload(item: &WorkItem) -> Vec<u8> {
    serde_json::to_vec(item).expect("an item")
}

async fn send(client: &Client, number: usize) {
    let item = WorkItem::QueueMessage {
        instance: "waits".to_owned(),
        name: "orders".to_owned(),
        data: format!("old {number}"),
    };
    let sql = format!("SELECT {SCHEMA}.sf_enqueue_for_orchestrator($1, 120000, false, $2, $3, $4, $5, $6)");
    let none: Vec<Option<i64>> = vec![None];
    let sent = client
        .query_one(
            &sql,
            &[
                &Uuid::new_v4(),
                &vec!["waits"],
                &none,
                &none,
                &vec![3_i16],
                &vec![payload(&item)],
            ],
        )
        .await;
    let codes: Vec<i64> = sent.expect("send as an old binary").get(0);
    assert_eq!(codes, [0]);
}

/// Runs an activity if one is due; how many it ran.
async fn run(client: &Client) -> usize {
    let sql = format!(
        "SELECT instance_key, work_id, payload FROM {SCHEMA}.sf_fetch_work_item($1, false, $2, 1, 30000, NULL, NULL, 30000)"
    );
    let claim = i64::from(Uuid::new_v4().as_fields().0) + 1;
    let rows = client
        .query(&sql, &[&Uuid::new_v4(), &claim])
        .await
        .expect("fetch as an old binary");
    let Some((key, work, item)) = rows.iter().find_map(|row| {
        let key: Option<i64> = row.get(0);
        Some((key?, row.get::<_, i64>(1), row.get::<_, Vec<u8>>(2)))
    }) else {
        return 0;
    };
    let item: WorkItem = serde_json::from_slice(&item).expect("an activity");
    let WorkItem::ActivityExecute {
        instance,
        execution_id,
        id,
        input,
        ..
    } = item
    else {
        panic!("not an activity: {item:?}")
    };
    let result = workflows::double(&input).expect("double");
    let completion = payload(&WorkItem::ActivityCompleted {
        instance: instance.clone(),
        execution_id,
        id,
        result,
    });
    let sql = format!("SELECT {SCHEMA}.sf_ack_work_item($1, 120000, false, false, $2, $3, $4, $5, $6, $7)");
    let acked = client
        .query_one(
            &sql,
            &[
                &Uuid::new_v4(),
                &vec![key],
                &vec![work],
                &vec![claim],
                &vec![instance],
                &vec![5_i16],
                &vec![completion],
            ],
        )
        .await;
    let codes: Vec<i64> = acked.expect("acknowledge as an old binary").get(0);
    assert_eq!(codes, [0]);
    1
}
