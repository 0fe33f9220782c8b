//! Every command but those of the feed: what it prints, what it refuses and with which code.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use steadfast::feed::Level;

use crate::place::{PATIENCE, Place, database_url, fill, run, sql, steadfast, work_on};

#[test]
fn printing_the_schema_needs_no_server() {
    let sql = run(&mut steadfast(&["schema", "print", "--schema", "Mixed Case"])).ok();
    assert!(sql.contains("\"Mixed Case\""), "the schema is named, and quoted");
    assert!(sql.contains("CREATE TABLE") && sql.contains("CREATE OR REPLACE FUNCTION"));
}

#[test]
fn what_was_installed_is_verified() {
    let place = Place::new();
    let missing = place.run(&["schema", "verify"]).refused(5);
    assert!(
        missing.contains("steadfast schema install"),
        "the way out is named: {missing}"
    );
    place.run(&["list"]).refused(5);
    place.run(&["schema", "install"]).ok();
    place.run(&["schema", "install"]).ok();
    assert_eq!(place.json(&["schema", "verify"])["state"], "current");
    assert_eq!(place.run(&["list"]).ok(), "no instances\n");
}

#[test]
fn the_printed_sql_is_what_an_installation_runs() {
    let place = Place::new();
    let printed = run(&mut steadfast(&["schema", "print", "--schema", &place.schema])).ok();
    sql(&place.url, &printed);
    place.run(&["schema", "verify"]).ok();
}

#[test]
fn a_server_that_is_not_there_is_code_3() {
    let url = "postgres://postgres@127.0.0.1:1/postgres";
    run(&mut steadfast(&["list", "--database-url", url])).refused(3);
}

#[test]
fn a_user_that_the_server_refuses_is_code_4() {
    let url = database_url().replacen("://postgres@", "://no_such_role@", 1);
    assert!(url.contains("no_such_role"), "{url}");
    run(&mut steadfast(&["list", "--database-url", &url])).refused(4);
}

#[test]
fn wrong_arguments_are_code_2() {
    let wrong: [&[&str]; 9] = [
        &["list"],
        &["nonsense"],
        &["list", "--status", "asleep"],
        &["delete"],
        &["delete", "a", "--completed-before", "1d"],
        &["delete", "a", "--limit", "3"],
        &["prune", "a"],
        &["queues", "--file", "a.db", "--database-url", "postgres://x/y"],
        &["demo", "--dir", "/no/such/folder"],
    ];
    for arguments in wrong {
        run(&mut steadfast(arguments)).refused(2);
    }
    let place = Place::installed();
    place.run(&["delete", "--completed-before", "soon"]).refused(2);
    run(&mut steadfast(&["--help"])).ok();
    run(&mut steadfast(&["--version"])).ok();
}

#[test]
fn an_instance_that_is_not_there_is_code_6() {
    let place = Place::installed();
    let commands: [&[&str]; 6] = [
        &["show", "nobody"],
        &["history", "nobody"],
        &["signal", "nobody", "go"],
        &["cancel", "nobody"],
        &["delete", "nobody"],
        &["prune", "nobody", "--keep-last", "1"],
    ];
    for arguments in commands {
        let line = place.run(arguments).refused(6);
        assert!(line.contains("nobody"), "{line}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut command = steadfast(&["schema", "print"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn an_instance_is_started_seen_signalled_and_deleted() {
    let place = Place::installed();
    place.run(&["start", "Greet", "g-1", "--input", "ann\u{1b}[2J"]).ok();
    let queues = place.json(&["queues"]);
    let orchestrator = queues
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["queue"] == "orchestrator")
        .unwrap();
    assert_eq!(orchestrator["ready"], 1, "{queues}");

    let (runtime, worker) = work_on(&place, Level::default());
    let shown = place.until(&["show", "g-1"], |show| show["custom_status"] == "waiting");
    assert_eq!(shown["status"], "Running");
    assert_eq!(shown["orchestration_name"], "Greet");
    assert_eq!(shown["kv"]["name"], "ANN\u{1b}[2J");
    assert_eq!(shown["executions"][0]["execution_id"], 1);
    assert!(
        shown["statistics"]["history_event_count"].as_u64().unwrap() >= 4,
        "{shown}"
    );
    let text = place.run(&["show", "g-1"]).ok();
    assert!(
        text.contains("waiting") && !text.contains('\u{1b}'),
        "what is stored does not steer a terminal: {text}"
    );
    place.run(&["start", "Greet", "g-1"]).refused(1);

    let listed = place.json(&["list", "--status", "running", "--name", "Greet", "--prefix", "g-"]);
    assert_eq!(listed["instances"][0]["instance_id"], "g-1");
    assert_eq!(listed["next_before"], Value::Null);
    assert_eq!(
        place.json(&["list", "--prefix", "h-"])["instances"],
        Value::Array(Vec::new())
    );
    assert!(place.run(&["list"]).ok().contains("g-1"));

    let history = place.json(&["history", "g-1"]);
    let kinds: Vec<&str> = history["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|e| e["type"].as_str())
        .collect();
    assert_eq!(kinds.first(), Some(&"OrchestrationStarted"), "{kinds:?}");
    assert!(
        kinds.contains(&"ActivityCompleted") && kinds.contains(&"ExternalSubscribed"),
        "{kinds:?}"
    );
    assert!(place.run(&["history", "g-1"]).ok().contains("name=Upper"));
    place.run(&["history", "g-1", "--execution", "2"]).refused(6);

    place.run(&["signal", "g-1", "go", "--data", "hello"]).ok();
    let done = place.until(&["show", "g-1"], |show| show["status"] == "Completed");
    assert_eq!(done["output"], "hello ANN\u{1b}[2J");
    place.run(&["signal", "g-1", "go"]).refused(1);
    place.run(&["cancel", "g-1"]).refused(1);

    assert_eq!(place.json(&["delete", "g-1"])["instances_deleted"], 1);
    place.run(&["show", "g-1"]).refused(6);
    runtime.block_on(worker.shutdown(Some(500)));
}

#[test]
fn a_running_instance_is_cancelled_before_it_is_deleted() {
    let place = Place::installed();
    let (runtime, worker) = work_on(&place, Level::default());
    for id in ["c-1", "c-2", "c-3"] {
        place.run(&["start", "Greet", id, "--input", "bob"]).ok();
        place.until(&["show", id], |show| show["custom_status"] == "waiting");
    }
    let page = place.json(&["list", "--limit", "2"]);
    let before = page["next_before"].as_u64().expect("there is another page").to_string();
    let rest = place.json(&["list", "--before", &before]);
    assert_eq!(rest["instances"][0]["instance_id"], "c-1", "the newest come first");

    let line = place.run(&["delete", "c-1"]).refused(1);
    assert!(line.contains("running"), "{line}");
    place.run(&["cancel", "c-1", "--reason", "no longer needed"]).ok();
    place.until(&["show", "c-1"], |show| show["status"] == "Failed");
    assert!(place.run(&["history", "c-1"]).ok().contains("no longer needed"));
    assert_eq!(
        place.json(&["delete", "--completed-before", "1h", "--yes"])["instances_deleted"],
        0
    );
    assert_eq!(
        place.json(&["delete", "--completed-before", "0s", "--yes"])["instances_deleted"],
        1
    );
    place.run(&["delete", "c-2", "nobody"]).refused(6);
    assert_eq!(place.json(&["delete", "c-2", "c-3", "--force"])["instances_deleted"], 2);
    assert_eq!(
        place.json(&["prune", "--all", "--keep-last", "1", "--yes"])["executions_deleted"],
        0
    );
    runtime.block_on(worker.shutdown(Some(500)));
}

#[test]
fn the_demo_survives_its_kill() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let place = Place::new();
    let ran = run(place
        .command(&[
            "demo",
            "--pace-ms",
            "20",
            "--json",
            "--database-url",
            &place.url,
            "--dir",
        ])
        .arg(dir.path()));
    assert_eq!(ran.code, Some(0), "{}\n{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("(SIGKILL)"), "{}", ran.stderr);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["files"], 60);
    assert_eq!(report["faults"], Value::Array(Vec::new()));
    let number = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"));
    let twice = number("run_twice_in_flight") + number("run_twice_unacknowledged");
    assert_eq!(number("activities_run"), number("activities") + twice);
    assert_eq!(
        number("activities"),
        60 + 6 + 2,
        "one per file, one per folder, the list and the seal"
    );
    assert!(number("instances_unfinished_at_kill") >= 1);
    // Its schema is gone.
    let store = report["store"].as_str().unwrap();
    let schema = store
        .split('"')
        .nth(1)
        .unwrap_or_else(|| panic!("no schema in {store}"));
    run(place.command(&["schema", "verify", "--schema"]).arg(schema)).refused(5);
}

#[test]
fn a_worker_does_not_outlive_the_demo() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let place = Place::new();
    // A killed demo leaves its folder; let that be here.
    let desk = tempfile::tempdir().unwrap();
    let mut command = place.command(&["demo", "--pace-ms", "2000", "--database-url", &place.url, "--dir"]);
    command.env("TMPDIR", desk.path());
    let mut demo = command
        .arg(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stderr.take().unwrap()).lines();
    let started = lines.find_map(|line| line.unwrap().strip_prefix("worker 1 is process ").map(str::to_owned));
    let worker = started.expect("the demo names its worker");
    demo.kill().unwrap();
    demo.wait().unwrap();
    let process = Path::new("/proc").join(worker);
    let deadline = Instant::now() + PATIENCE;
    // A process that has ended may stay as a zombie where nobody reaps orphans.
    let runs = || std::fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while runs() {
        assert!(Instant::now() < deadline, "the worker is still there");
        thread::sleep(Duration::from_millis(50));
    }
}
