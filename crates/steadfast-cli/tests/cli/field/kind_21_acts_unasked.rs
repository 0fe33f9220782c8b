//! Kind 21: Nothing acts on a store that was not named, or on more than was asked for.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use steadfast::{embedded::EmbeddedProvider, feed::Level};

use crate::place::{PATIENCE, Place, fill, run, steadfast, work_on};

#[test]
fn the_demo_does_not_take_what_the_environment_names() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    // Nobody listens there: a demo that went there would fail.
    for (variable, value) in [
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/production"),
        ("PGHOST", "127.0.0.1"),
    ] {
        let ran = run(
            steadfast(&["demo", "--pace-ms", "20", "--lease-ms", "1000", "--json", "--dir"])
                .arg(dir.path())
                .env(variable, value),
        );
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.stderr.contains("--database-url"), "it says how: {}", ran.stderr);
        let report: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert!(report["store"].as_str().unwrap().starts_with("file "), "{report}");
    }
}

/// Interrupted while its worker runs: 130, and nothing is left behind.
#[test]
fn an_interrupted_demo_ends_with_130_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    for signal in ["INT", "TERM"] {
        let desk = tempfile::tempdir().unwrap();
        let mut demo = steadfast(&["demo", "--pace-ms", "2000", "--keep", "--dir"])
            .arg(dir.path())
            .env("TMPDIR", desk.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines();
        let started = lines.find(|line| line.as_ref().unwrap().starts_with("worker 1 is process"));
        started.expect("the worker starts").unwrap();
        let sent = Command::new("kill")
            .args(["-s", signal, &demo.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
        let rest: Vec<String> = lines.map(Result::unwrap).collect();
        assert_eq!(demo.wait().unwrap().code(), Some(130), "{signal}: {rest:?}");
        let left: Vec<_> = std::fs::read_dir(desk.path()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Instances that have ended: `f-1`, `f-2`, …
fn ended(place: &Place, ids: &[&str]) {
    for id in ids {
        place.run(&["start", "Greet", id, "--input", "bob"]).ok();
    }
    for id in ids {
        place.until(&["show", id], |show| show["custom_status"] == "waiting");
        place.run(&["cancel", id]).ok();
    }
    for id in ids {
        place.until(&["show", id], |show| show["status"] == "Failed");
    }
}

fn listed(place: &Place) -> usize {
    place.json(&["list"])["instances"].as_array().unwrap().len()
}

fn places() -> [Place; 2] {
    [Place::new(), Place::in_file()].map(|place| {
        place.run(&["schema", "install"]).ok();
        place
    })
}

#[test]
fn what_was_not_named_is_deleted_only_when_confirmed() {
    for place in places() {
        let (runtime, worker) = work_on(&place, Level::default());
        ended(&place, &["f-1", "f-2", "f-3", "f-4"]);
        let preview = place.json(&["delete", "--completed-before", "0s", "--limit", "3"]);
        assert_eq!(preview["dry_run"], true, "{preview}");
        assert_eq!(preview["instances"], 3, "{preview}");
        assert_eq!(preview["more"], true, "{preview}");
        let text = place.run(&["delete", "--completed-before", "0s"]).ok();
        assert!(text.contains("nothing was deleted") && text.contains("--yes"), "{text}");
        assert!(text.contains("f-1") && text.contains("4 instances"), "{text}");
        assert_eq!(listed(&place), 4, "it only said so");
        let done = place.json(&["delete", "--completed-before", "0s", "--limit", "3", "--yes"]);
        assert_eq!(done["instances_deleted"], 3, "{done}");
        assert_eq!(listed(&place), 1);
        let pruned = place.json(&["prune", "--all", "--keep-last", "1"]);
        assert_eq!(pruned["dry_run"], true, "{pruned}");
        let rotated = place.json(&["feed", "rotate-epoch"]);
        let epoch = place.json(&["feed", "status"])["epoch"].clone();
        assert_eq!((&rotated["dry_run"], &rotated["epoch"]), (&Value::Bool(true), &epoch));
        place.run(&["feed", "rotate-epoch", "--yes"]).ok();
        assert_ne!(place.json(&["feed", "status"])["epoch"], epoch);
        for wrong in [
            ["delete", "f-4", "--yes"].as_slice(),
            &["prune", "f-4", "--keep-last", "1", "--yes"],
        ] {
            place.run(wrong).refused(2);
        }
        runtime.block_on(worker.shutdown(Some(500)));
    }
}

/// Roots with children: `--limit` counts all that goes, and never goes beyond.
#[test]
fn a_limit_counts_the_children() {
    use duroxide::{
        OrchestrationContext, OrchestrationRegistry, runtime::Runtime, runtime::registry::ActivityRegistry,
    };
    for place in places() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let worker = runtime.block_on(async {
            let provider: std::sync::Arc<dyn duroxide::providers::Provider> = match place.file() {
                Some(path) => std::sync::Arc::new(EmbeddedProvider::open(path).await.unwrap()),
                None => {
                    let builder = steadfast::postgres::PostgresProvider::builder(&place.url).schema(&place.schema);
                    std::sync::Arc::new(builder.pool_size(3).connect().await.unwrap())
                }
            };
            let orchestrations = OrchestrationRegistry::builder()
                .register("Parent", |ctx: OrchestrationContext, children: String| async move {
                    for n in 0..children.parse().unwrap_or(0) {
                        ctx.schedule_sub_orchestration("Child", format!("{n}")).await?;
                    }
                    Ok(children)
                })
                .register(
                    "Child",
                    |_: OrchestrationContext, input: String| async move { Ok(input) },
                )
                .build();
            Runtime::start_with_store(provider, ActivityRegistry::builder().build(), orchestrations).await
        });
        // Five, then two, then two instances, in the order in which they end.
        for (id, children) in [("large", "4"), ("small", "1"), ("last", "1")] {
            place.run(&["start", "Parent", id, "--input", children]).ok();
            place.until(&["show", id], |show| show["status"] == "Completed");
        }
        let chosen = |limit: &str| {
            let preview = place.json(&["delete", "--completed-before", "0s", "--limit", limit]);
            let ids = |name: &str| {
                let rows = preview[name].as_array().unwrap().iter();
                rows.map(|row| row["instance_id"].as_str().unwrap().to_owned())
                    .collect::<Vec<_>>()
            };
            (
                ids("would_delete"),
                ids("left_out"),
                preview["instances"].as_u64().unwrap(),
            )
        };
        let none = Vec::<String>::new();
        assert_eq!(
            chosen("9"),
            (["large", "small", "last"].map(str::to_owned).to_vec(), none.clone(), 9)
        );
        assert_eq!(
            chosen("8"),
            (["large", "small"].map(str::to_owned).to_vec(), none.clone(), 7)
        );
        assert_eq!(chosen("3"), (vec!["small".to_owned()], vec!["large".to_owned()], 2));
        let done = place.run(&["delete", "--completed-before", "0s", "--limit", "3", "--yes"]);
        assert_eq!(done.code, Some(0), "{done:?}");
        assert!(done.stdout.contains("deleted 2 instances"), "{done:?}");
        assert!(
            done.stderr.contains("large") && done.stderr.contains("--limit"),
            "{done:?}"
        );
        runtime.block_on(worker.shutdown(Some(500)));
    }
}

fn names(place: &Place) -> String {
    place
        .file()
        .map_or_else(|| place.url.clone(), |path| path.display().to_string())
}

/// `copy` from one place to another.
fn copy(from: &Place, to: &Place) -> Command {
    let mut command = steadfast(&["copy", "--from", &names(from), "--to", &names(to)]);
    command.args(["--schema", &from.schema, "--to-schema", &to.schema]);
    command
}

/// Whether a store is there.
fn is_there(place: &Place) -> bool {
    match place.file() {
        Some(path) => std::fs::read_dir(path.parent().unwrap()).unwrap().next().is_some(),
        None => place.run(&["schema", "verify"]).code == Some(0),
    }
}

/// A worker that waits for work and has none.
struct Idle(std::process::Child);

impl Idle {
    fn on(place: &Place, dir: &Path) -> Self {
        let (mut command, desk) = (place.command(&["demo-worker"]), dir.display().to_string());
        command.args(["--dir", &desk, "--pace-ms", "1", "--slots", "2", "--lease-ms", "5000"]);
        command.args([
            "--ledger",
            &format!("{desk}/ledger"),
            "--manifest",
            &format!("{desk}/manifest"),
        ]);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_copy_sees_an_idle_worker_and_leaves_no_target() {
    let desk = tempfile::tempdir().unwrap();
    for (from, to) in [
        (Place::in_file(), Place::in_file()),
        (Place::new(), Place::in_file()),
        (Place::in_file(), Place::new()),
    ] {
        from.run(&["schema", "install"]).ok();
        from.run(&["start", "Unknown", "c-1"]).ok();
        from.run(&["delete", "c-1"]).code.unwrap();
        let worker = Idle::on(&from, desk.path());
        // It can be seen once it waits; until then a copy may pass, into a place of its own.
        let deadline = std::time::Instant::now() + PATIENCE;
        let refused = loop {
            let scratch = Place::in_file();
            let ran = run(&mut copy(&from, &scratch));
            if ran.code == Some(1) && ran.stderr.contains("in use") {
                assert!(!is_there(&scratch), "a target was left");
                break ran;
            }
            assert!(std::time::Instant::now() < deadline, "it is not seen: {ran:?}");
        };
        assert!(
            refused.stderr.contains("process") && refused.stderr.contains("--force"),
            "{refused:?}"
        );
        run(&mut copy(&from, &to)).refused(1);
        assert!(!is_there(&to), "a target was left");
        drop(worker);
        let deadline = std::time::Instant::now() + PATIENCE;
        while run(&mut copy(&from, &to)).code != Some(0) {
            // The server may take a moment to see that the worker has gone.
            assert!(std::time::Instant::now() < deadline, "it does not come to rest");
        }
        assert!(is_there(&to));
    }
}
