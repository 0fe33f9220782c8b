//! A start that no worker has taken is an instance like any other: listed, shown, signalled, cancelled, deleted, and not
//! started twice.

use steadfast::feed::Level;

use crate::place::{Place, work_on};

fn places() -> Vec<Place> {
    let file = Place::in_file();
    file.run(&["schema", "install"]).ok();
    vec![Place::installed(), file]
}

fn ids(place: &Place, arguments: &[&str]) -> Vec<String> {
    let answer = place.json(arguments);
    let instances = answer["instances"].as_array().expect("instances").iter();
    instances
        .map(|row| row["instance_id"].as_str().expect("an id").to_owned())
        .collect()
}

#[test]
fn a_pending_start_is_an_instance_for_every_verb() {
    for place in places() {
        place.run(&["start", "Greet", "a", "--input", "ada"]).ok();
        place
            .run(&["start", "Greet", "b", "--input", "bob", "--version", "1.0.0"])
            .ok();

        assert_eq!(ids(&place, &["list"]), ["b", "a"], "the newest first");
        assert_eq!(ids(&place, &["list", "--status", "pending"]), ["b", "a"]);
        assert_eq!(ids(&place, &["list", "--name", "Greet", "--prefix", "a"]), ["a"]);
        assert!(ids(&place, &["list", "--status", "running"]).is_empty());
        let first = place.json(&["list", "--limit", "1"]);
        let next = first["next_before"].as_u64().expect("another page").to_string();
        assert_eq!(ids(&place, &["list", "--before", &next]), ["a"]);

        let shown = place.json(&["show", "b"]);
        assert_eq!(shown["status"], "Pending");
        assert_eq!(shown["orchestration_name"], "Greet");
        assert_eq!(shown["orchestration_version"], "1.0.0");
        assert_eq!(shown["pending_messages"], 1);
        let text = place.run(&["show", "b"]).ok();
        assert!(text.contains("no worker has taken it yet"), "{text}");
        assert_eq!(place.run(&["history", "b"]).ok(), "no events\n");

        let line = place.run(&["start", "Greet", "a", "--input", "eve"]).refused(1);
        assert!(line.contains("\"a\"") && line.contains("Pending"), "{line}");

        place.run(&["signal", "a", "go", "--data", "hi"]).ok();
        place.run(&["signal", "a", "letters", "--queue", "--data", "hi"]).ok();
        let text = place.run(&["cancel", "a", "--reason", "never mind"]).ok();
        assert!(text.contains("first turn"), "{text}");
        assert_eq!(place.json(&["show", "a"])["pending_messages"], 4);

        let line = place.run(&["delete", "b"]).refused(1);
        assert!(line.contains("pending"), "{line}");
        let gone = place.json(&["delete", "b", "--force"]);
        assert_eq!(gone["instances_deleted"], 1);
        assert_eq!(gone["queue_messages_deleted"], 1);
        place.run(&["show", "b"]).refused(6);
        assert_eq!(ids(&place, &["list"]), ["a"]);

        // What is deleted can be started again, and what was cancelled ends with its first turn.
        place.run(&["start", "Greet", "b"]).ok();
        let (runtime, worker) = work_on(&place, Level::default());
        let ended = place.until(&["show", "a"], |shown| shown["status"] == "Failed");
        let output = ended["output"].as_str().expect("an error");
        assert!(output.contains("never mind"), "{output}");
        place.until(&["show", "b"], |shown| shown["status"] == "Running");
        let line = place.run(&["start", "Greet", "b"]).refused(1);
        assert!(line.contains("Running"), "{line}");
        runtime.block_on(worker.shutdown(None));
    }
}

#[test]
fn created_is_when_the_start_was_sent() {
    for place in places() {
        place.run(&["start", "Greet", "a", "--input", "ada"]).ok();
        let sent = place.json(&["show", "a"])["created_at_ms"].as_u64().expect("a time");
        // However long it waits: a second tells the two times apart.
        std::thread::sleep(std::time::Duration::from_millis(1200));
        let (runtime, worker) = work_on(&place, Level::default());
        let taken = place.until(&["show", "a"], |shown| shown["status"] == "Running");
        assert_eq!(taken["created_at_ms"].as_u64(), Some(sent));
        runtime.block_on(worker.shutdown(None));
    }
}

#[test]
fn a_start_of_a_version_that_nobody_serves_can_be_removed() {
    for place in places() {
        place.run(&["start", "Greet", "a", "--version", "9.9.9"]).ok();
        place.run(&["start", "Nobody", "b"]).ok();
        let (runtime, worker) = work_on(&place, Level::default());
        // A worker has looked at it and put it back.
        place.run(&["start", "Greet", "c", "--input", "x"]).ok();
        place.until(&["show", "c"], |shown| shown["status"] == "Running");
        for instance in ["a", "b"] {
            assert_eq!(place.json(&["show", instance])["status"], "Pending");
            assert_eq!(place.json(&["delete", instance, "--force"])["instances_deleted"], 1);
            place.run(&["show", instance]).refused(6);
        }
        runtime.block_on(worker.shutdown(None));
    }
}
