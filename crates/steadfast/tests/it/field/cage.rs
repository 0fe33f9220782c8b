//! A memory cage: a worker whose process may have 512 MiB works on what others have put into its store: payloads, batches
//! and histories, ever larger. It lives, its peak stays below, what is small is done beside, and what is too large fails by name.
//!
//! Short form: up to 128 MiB in a part; with `STEADFAST_FIELD_FORM=long` up to 2 GiB altogether, and a report is written to
//! `STEADFAST_FIELD_REPORT`.

mod child;

use std::fmt::Write as _;
use std::sync::Arc;

use duroxide::providers::Provider;
use duroxide::{Client, Event, EventKind};
use steadfast::MAX_PAYLOAD_LIMIT;
use steadfast::inspect::Inspect;

use self::child::Caged;
use super::site::{PATIENCE, Site, eventually, on_both_engines};

const MIB: usize = 1 << 20;
/// What the cage allows, and what the process may therefore peak at.
const CAGE: usize = 512 * MIB;

fn long() -> bool {
    std::env::var("STEADFAST_FIELD_FORM").is_ok_and(|form| form == "long")
}

/// What was tried, and what the worker's peak was afterwards.
#[derive(Default)]
struct Cells(Vec<(String, usize)>);

impl Cells {
    fn ran(&mut self, cell: String, caged: &mut Caged) {
        let peak = caged.peak();
        assert!(peak <= CAGE, "{cell}: the worker's peak is {} MiB", peak / MIB);
        self.0.push((cell, peak));
    }

    fn report(&self, engine: &str) {
        let mut text = format!("\n## Memory cage, {engine}\n\n| cell | peak so far, MiB |\n|---|---|\n");
        for (cell, peak) in &self.0 {
            let _ = writeln!(text, "| {cell} | {} |", peak / MIB);
        }
        eprintln!("memory cage, {engine}: {} cells ran{text}", self.0.len());
        if let Ok(path) = std::env::var("STEADFAST_FIELD_REPORT") {
            use std::io::Write as _;
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            file.and_then(|mut file| file.write_all(text.as_bytes()))
                .expect("write the report");
        }
    }
}

async fn ended(client: &Client, instance: &str) -> String {
    let status = client.wait_for_orchestration(instance, PATIENCE * 4).await;
    match status.expect("it ends") {
        duroxide::OrchestrationStatus::Completed { output, .. } => output,
        duroxide::OrchestrationStatus::Failed { details, .. } => format!("failed: {}", details.display_message()),
        other => panic!("{instance}: {other:?}"),
    }
}

/// What is small is done, whatever else lies there.
async fn small(client: &Client, name: &str) {
    let started = client.start_orchestration(name, "length", "small").await;
    started.expect("start");
    assert_eq!(ended(client, name).await, "5");
}

async fn payloads(client: &Client, caged: &mut Caged, cells: &mut Cells) {
    let fitting = [1, 4, 15];
    let beyond: &[usize] = if long() {
        &[
            17, 24, 32, 48, 64, 96, 120, 120, 120, 120, 120, 120, 120, 120, 120, 120, 120,
        ]
    } else {
        &[17, 40, 120]
    };
    for size in fitting {
        let id = format!("fits {size}");
        client
            .start_orchestration(&id, "length", "x".repeat(size * MIB))
            .await
            .expect("start");
        assert_eq!(ended(client, &id).await, (size * MIB).to_string());
        cells.ran(format!("an input of {size} MiB"), caged);
    }
    for (n, size) in beyond.iter().enumerate() {
        let id = format!("beyond {n}");
        client
            .start_orchestration(&id, "length", "x".repeat(size * MIB))
            .await
            .expect("plant");
    }
    small(client, "beside payloads").await;
    for (n, size) in beyond.iter().enumerate() {
        let end = ended(client, &format!("beyond {n}")).await;
        assert!(
            end.starts_with("failed: ") && end.contains("payload_limit"),
            "{size} MiB: {end}"
        );
        cells.ran(format!("a planted input of {size} MiB"), caged);
    }
}

/// Many messages for one instance, which takes them all.
async fn batches(client: &Client, caged: &mut Caged, cells: &mut Cells) {
    let rounds: &[usize] = if long() { &[256, 1024, 4096] } else { &[256] };
    for count in rounds {
        let id = format!("batch {count}");
        client.start_orchestration(&id, "wait", "").await.expect("start");
        for _ in 0..*count {
            client
                .raise_event(&id, "noise", "x".repeat(256 << 10))
                .await
                .expect("an event");
        }
        client.raise_event(&id, "go", "").await.expect("an event");
        small(client, &format!("beside batch {count}")).await;
        assert_eq!(ended(client, &id).await, "went");
        cells.ran(format!("{count} messages of 256 KiB for one instance"), caged);
    }
}

/// A history that others have written.
async fn histories(planter: &Arc<dyn Inspect>, client: &Client, caged: &mut Caged, cells: &mut Cells) {
    for size in [8, 24] {
        let id = format!("history {size}");
        client.start_orchestration(&id, "wait", "").await.expect("start");
        eventually("it waits", async || {
            let history = planter.read(&id).await.expect("read");
            (history.len() >= 2).then_some(())
        })
        .await;
        let mut next = planter.read(&id).await.expect("read").len() as u64 + 1;
        for _ in 0..size {
            let kind = EventKind::ExternalEvent {
                name: "noise".to_owned(),
                data: "x".repeat(MIB),
            };
            let event = Event::with_event_id(next, &id, 1, None, kind);
            planter
                .append_with_execution(&id, 1, vec![event])
                .await
                .expect("append");
            next += 1;
        }
        client.raise_event(&id, "go", "").await.expect("an event");
        small(client, &format!("beside history {size}")).await;
        assert_eq!(ended(client, &id).await, "went");
        cells.ran(format!("a history of {size} MiB"), caged);
    }
}

async fn a_caged_worker_lives(site: Site) {
    let planter = site.open_with(MAX_PAYLOAD_LIMIT).await;
    let client = Client::new(Arc::clone(&planter) as Arc<dyn Provider>);
    let mut caged = Caged::start(&site, CAGE);
    let mut cells = Cells::default();
    small(&client, "first").await;
    cells.ran("at rest".to_owned(), &mut caged);
    payloads(&client, &mut caged, &mut cells).await;
    batches(&client, &mut caged, &mut cells).await;
    histories(&planter, &client, &mut caged, &mut cells).await;
    cells.report(match site {
        Site::Schema(_) => "PostgreSQL",
        Site::File(_) => "embedded",
    });
    drop(caged);
    planter.close().await;
}

on_both_engines!(
    #[ignore = "a worker of today runs out of its 512 MiB; `cargo xtask field cage` runs it"]
    a_caged_worker_lives
);
