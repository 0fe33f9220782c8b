//! Work of which every acknowledged step leaves a trace, and the check that a file holds each of these wholly.
//!
//! The life of instance `iN`: a start is enqueued (step 1); its first turn brings three events, a key-value, a custom status
//! and the activities 2 and 3 (step 4); each activity is acknowledged (steps 2 and 3); a later turn turns completions into
//! the events 12 and 13. A mark is `8 N + step`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use duroxide::providers::{ExecutionMetadata, OrchestrationItem, Provider, TagFilter, WorkItem};
use duroxide::{Event, EventKind};

use crate::op::scene::{activity, completed, identity, start, started};

/// Nothing here is taken over from a process that died.
const LEASE: Duration = Duration::from_secs(3600);
const MOMENT: Duration = Duration::from_millis(20);
const TURNED: u64 = 4;

fn mark(instance: &str, step: u64) -> u64 {
    let number: u64 = instance.trim_start_matches('i').parse().expect("a number");
    number * 8 + step
}

/// Starts the instances `numbers`, and works off whatever there is meanwhile. `note` is told every mark once it is acknowledged.
pub(super) async fn toil(provider: &dyn Provider, numbers: impl Iterator<Item = u64>, note: &(dyn Fn(u64) + Sync)) {
    for number in numbers {
        let instance = format!("i{number}");
        let enqueued = provider.enqueue_for_orchestrator(start(&instance), None).await;
        enqueued.expect("enqueue");
        note(mark(&instance, 1));
        let fetched = provider.fetch_orchestration_item(LEASE, MOMENT, None).await;
        if let Some((item, token, _)) = fetched.expect("fetch a turn") {
            take_turn(provider, &item, &token, note).await;
        }
        for _ in 0..2 {
            let fetched = provider
                .fetch_work_item(LEASE, MOMENT, None, &TagFilter::default())
                .await;
            let Some((WorkItem::ActivityExecute { instance, id, .. }, token, _)) = fetched.expect("fetch work") else {
                break;
            };
            let acked = provider.ack_work_item(&token, Some(completed(&instance, id))).await;
            acked.expect("acknowledge an activity");
            note(mark(&instance, id));
        }
    }
}

async fn take_turn(provider: &dyn Provider, item: &OrchestrationItem, token: &str, note: &(dyn Fn(u64) + Sync)) {
    let instance = &item.instance;
    let event = |id, kind| Event::with_event_id(id, instance, 1, None, kind);
    if !item.history.is_empty() {
        let events = item.messages.iter().filter_map(|message| match message {
            WorkItem::ActivityCompleted { id, .. } => {
                let result = "result".to_owned();
                Some(event(10 + id, EventKind::ActivityCompleted { result }))
            }
            _ => None,
        });
        let acked = provider
            .ack_orchestration_item(
                token,
                1,
                events.collect(),
                Vec::new(),
                Vec::new(),
                ExecutionMetadata::default(),
                Vec::new(),
            )
            .await;
        return acked.expect("acknowledge a later turn");
    }
    let events = vec![
        started(instance, 1),
        event(
            2,
            EventKind::KeyValueSet {
                key: "key".to_owned(),
                value: "value".repeat(200),
                last_updated_at_ms: 1,
            },
        ),
        event(
            3,
            EventKind::CustomStatusUpdated {
                status: Some("status".to_owned()),
            },
        ),
    ];
    let work = vec![activity(instance, 2), activity(instance, 3)];
    let acked = provider
        .ack_orchestration_item(token, 1, events, work, Vec::new(), identity(), Vec::new())
        .await;
    acked.expect("acknowledge the first turn");
    note(mark(instance, TURNED));
}

/// What a file holds of an instance.
#[derive(Debug, Default)]
struct Life {
    start: bool,
    named: bool,
    status: bool,
    execution: bool,
    value: bool,
    events: BTreeSet<i64>,
    queued: BTreeSet<i64>,
    completions: BTreeSet<i64>,
}

impl Life {
    fn assert_whole(&self, instance: &str) {
        let turned = !self.events.is_empty();
        let whole = if turned {
            [1, 2, 3].iter().all(|id| self.events.contains(id))
                && [2, 3].iter().all(|id| self.traces(*id) == 1)
                && self.named
                && self.status
                && self.execution
                && self.value
                && !self.start
        } else {
            self.start && !self.named && !self.execution && !self.value && self.queued.is_empty() && !self.status
        };
        assert!(whole, "{instance} is there by halves: {self:?}");
    }

    /// In how many places an activity is: it is queued, or its completion waits, or is in the history.
    fn traces(&self, id: i64) -> usize {
        usize::from(self.queued.contains(&id))
            + usize::from(self.completions.contains(&id))
            + usize::from(self.events.contains(&(10 + id)))
    }
}

fn lives(file: &rusqlite::Connection) -> BTreeMap<String, Life> {
    let mut lives: BTreeMap<String, Life> = BTreeMap::new();
    let mut each = |sql: &str, add: &mut dyn FnMut(&mut Life, &rusqlite::Row<'_>)| {
        let mut statement = file.prepare(sql).expect("a query");
        let mut rows = statement.query([]).expect("rows");
        while let Some(row) = rows.next().expect("a row") {
            let instance: String = row.get(0).expect("an id");
            add(lives.entry(instance).or_default(), row);
        }
    };
    each(
        "SELECT instance_id, orchestration_name IS NOT NULL, custom_status IS NOT NULL FROM sf_instance",
        &mut |life, row| (life.named, life.status) = (row.get(1).unwrap(), row.get(2).unwrap()),
    );
    each(
        "SELECT instance_id FROM sf_execution JOIN sf_instance USING (instance_key)",
        &mut |life, _| life.execution = true,
    );
    each(
        "SELECT instance_id FROM sf_kv JOIN sf_instance USING (instance_key) WHERE delta_value IS NOT NULL",
        &mut |life, _| life.value = true,
    );
    each(
        "SELECT instance_id, event_id FROM sf_event JOIN sf_instance USING (instance_key)",
        &mut |life, row| {
            life.events.insert(row.get(1).unwrap());
        },
    );
    each(
        "SELECT instance_id, activity_id FROM sf_work JOIN sf_instance USING (instance_key)",
        &mut |life, row| {
            life.queued.insert(row.get(1).unwrap());
        },
    );
    each(
        "SELECT instance_id, payload FROM sf_message JOIN sf_instance USING (instance_key)",
        &mut |life, row| match serde_json::from_slice(&row.get::<_, Vec<u8>>(1).unwrap()).expect("a message") {
            WorkItem::ActivityCompleted { id, .. } => {
                assert!(life.completions.insert(id as i64), "a completion is there twice");
            }
            _ => life.start = true,
        },
    );
    lives
}

/// Every instance is whole or absent. Returns which of the marks the file does not hold.
pub(super) fn missing(file: &rusqlite::Connection, marks: &[u64]) -> Vec<u64> {
    let lives = lives(file);
    for (instance, life) in &lives {
        life.assert_whole(instance);
    }
    let there = |mark: &u64| {
        let Some(life) = lives.get(&format!("i{}", mark / 8)) else {
            return false;
        };
        match mark % 8 {
            1 => true,
            TURNED => !life.events.is_empty(),
            id => !life.queued.contains(&(id as i64)) && life.traces(id as i64) == 1,
        }
    };
    marks.iter().filter(|mark| !there(mark)).copied().collect()
}

/// The file is sound in SQLite's own eyes.
pub(super) fn assert_sound(file: &rusqlite::Connection) {
    let verdict: String = file
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("check the file");
    assert_eq!(verdict, "ok");
}
