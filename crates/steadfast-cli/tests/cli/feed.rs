//! `steadfast watch` and `steadfast feed`: the log as programs and people read it, on both engines, through kills and a
//! restart of the server.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use private_postgres::{Cluster, Options};
use serde_json::Value;
use steadfast::feed::Level;

use crate::place::{PATIENCE, Place, Ran, fill, run, steadfast, work_on};

/// A running `watch --json`; it is killed with SIGKILL when it is dropped.
struct Watch {
    child: Child,
    lines: Receiver<Value>,
}

impl Watch {
    fn begin(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("run the command");
        let stdout = BufReader::new(child.stdout.take().expect("its output"));
        let (told, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
                if told.send(event).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Everything up to the event that is as wanted.
    #[track_caller]
    fn until(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            let Ok(event) = self.lines.recv_timeout(PATIENCE) else {
                panic!("the wanted event did not come; these did: {seen:?}")
            };
            seen.push(event);
            if seen.last().is_some_and(&wanted) {
                return seen;
            }
        }
    }

    /// What it complained about, when it has been killed.
    fn killed(mut self) -> String {
        self.child.kill().expect("kill it");
        let mut complaints = String::new();
        let mut stderr = self.child.stderr.take().expect("its complaints");
        stderr.read_to_string(&mut complaints).expect("UTF-8");
        complaints
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn is(instance: &str, kind: &str) -> impl Fn(&Value) -> bool {
    move |event| event["instance"] == instance && event["kind"] == kind
}

fn sequences(events: &[Value]) -> Vec<u64> {
    let of = |event: &Value| {
        event["sequence"]
            .as_u64()
            .unwrap_or_else(|| panic!("no sequence in {event}"))
    };
    events.iter().map(of).collect()
}

/// The lines of a watch that has ended by itself.
fn lines(ran: Ran) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    ran.ok().lines().map(parse).collect()
}

/// One on each engine, made already.
fn places() -> [Place; 2] {
    [Place::new(), Place::in_file()].map(|place| {
        place.run(&["schema", "install"]).ok();
        place
    })
}

#[test]
fn a_killed_watch_goes_on_behind_its_last_token() {
    for place in places() {
        let (runtime, worker) = work_on(&place, Level::History);
        let follow = ["watch", "--json"];
        let watch = Watch::begin(&mut place.command(&follow));
        place.run(&["start", "Greet", "w-1", "--input", "ann"]).ok();
        let mut seen = watch.until(is("w-1", "custom-status"));
        watch.killed();

        place.run(&["signal", "w-1", "go", "--data", "hi"]).ok();
        place.until(&["show", "w-1"], |show| show["status"] == "Completed");
        let token = seen.last().unwrap()["token"].as_str().unwrap().to_owned();
        let again = Watch::begin(place.command(&follow).args(["--token", &token]));
        seen.extend(again.until(is("w-1", "completed")));
        again.killed();

        assert_eq!(sequences(&seen), (1..=seen.len() as u64).collect::<Vec<_>>());
        let whole = lines(run(place.command(&follow).arg("--until-caught-up")));
        assert_eq!(whole, seen, "nothing was left out, doubled, or told otherwise");
        let kinds: Vec<&str> = seen.iter().map(|event| event["kind"].as_str().unwrap()).collect();
        for kind in ["started", "activity-completed", "kv-set"] {
            assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
        }
        runtime.block_on(worker.shutdown(Some(500)));
    }
}

#[test]
fn filters_choose_and_lifecycle_is_what_is_recorded_by_default() {
    for place in places() {
        let (runtime, worker) = work_on(&place, Level::default());
        for id in ["f-1", "f-2", "g-1"] {
            place.run(&["start", "Greet", id, "--input", "bob"]).ok();
            place.until(&["show", id], |show| show["custom_status"] == "waiting");
        }
        place.run(&["delete", "f-2", "--force"]).ok();
        let of = |filter: &[&str]| {
            let mut command = place.command(&["watch", "--json", "--until-caught-up"]);
            let events = lines(run(command.args(filter)));
            let short = |event: &Value| format!("{} {}", event["instance"], event["kind"]).replace('"', "");
            events.iter().map(short).collect::<Vec<_>>()
        };
        let mut one = vec!["f-1 started", "f-1 kv-set", "f-1 custom-status"];
        let mut seen = of(&["--instance", "f-1"]);
        one.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, one);
        assert_eq!(
            of(&["--kind", "deleted"]),
            ["f-2 deleted"],
            "what the command did is recorded as well"
        );
        assert_eq!(
            of(&["--prefix", "f-", "--kind", "started"]),
            ["f-1 started", "f-2 started"]
        );
        assert_eq!(of(&["--name", "Greet", "--kind", "started"]).len(), 3);
        assert_eq!(of(&["--name", "greet"]), Vec::<String>::new());
        assert_eq!(of(&["--from-now"]), Vec::<String>::new());
        let text = place.run(&["watch", "--until-caught-up", "--kind", "deleted"]).ok();
        assert!(text.contains("f-2") && text.contains("deleted"), "{text}");
        place.run(&["watch", "--kind", "no_such_kind"]).refused(2);
        place.run(&["watch", "--token", "sf1-nonsense"]).refused(2);
        runtime.block_on(worker.shutdown(Some(500)));
    }
}

#[test]
fn a_cursor_is_kept_and_what_was_trimmed_is_said() {
    for place in places() {
        let (runtime, worker) = work_on(&place, Level::History);
        place.run(&["start", "Greet", "t-1", "--input", "eve"]).ok();
        place.until(&["show", "t-1"], |show| show["custom_status"] == "waiting");

        let named = ["watch", "--json", "--until-caught-up", "--cursor", "audit"];
        let first = lines(run(&mut place.command(&named)));
        assert!(first.len() > 4, "{first:?}");
        assert_eq!(
            lines(run(&mut place.command(&named))),
            Vec::<Value>::new(),
            "it was all read"
        );
        place.run(&["signal", "t-1", "go"]).ok();
        place.until(&["show", "t-1"], |show| show["status"] == "Completed");
        // A filter lets nothing through; all has been read even so.
        let mut filtered = place.command(&named);
        assert_eq!(lines(run(filtered.args(["--instance", "nobody"]))), Vec::<Value>::new());

        let status = place.json(&["feed", "status"]);
        assert_eq!(status["cursors"][0]["name"], "audit", "{status}");
        assert_eq!(status["cursors"][0]["lag"], 0, "{status}");
        assert_eq!(status["cursors"][0]["sequence"], status["last"], "{status}");
        assert_eq!(status["first"], 1, "{status}");
        let text = place.run(&["feed", "status"]).ok();
        assert!(text.contains("audit") && text.contains("events   1 to "), "{text}");

        place.run(&["feed", "trim"]).refused(2);
        let trimmed = place.json(&["feed", "trim", "--keep", "0"]);
        assert!(trimmed["trimmed"].as_u64().unwrap() > 0, "{trimmed}");
        let after = place.json(&["feed", "status"]);
        assert_eq!(after["last"], status["last"], "a position is never given out twice");
        let told = lines(run(&mut place.command(&["watch", "--json", "--until-caught-up"])));
        assert_eq!(told[0]["trimmed_after"], 0, "{told:?}");
        assert_eq!(told[0]["first"], after["first"], "{told:?}");
        let text = place.run(&["watch", "--until-caught-up"]).ok();
        assert!(text.contains("have been trimmed"), "{text}");
        runtime.block_on(worker.shutdown(Some(500)));
    }
}

/// The demo on either engine, followed from a second process by the options that it names.
#[test]
fn the_demo_is_followed_through_its_kill() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    for place in [Place::new(), Place::in_file()] {
        let mut command = place.command(&["demo", "--keep", "--pace-ms", "20", "--json"]);
        let mut demo = command
            .args(
                place
                    .file()
                    .is_none()
                    .then_some(["--database-url", &place.url])
                    .into_iter()
                    .flatten(),
            )
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(demo.stderr.take().unwrap()).lines().map(Result::unwrap);
        let hint = told
            .find_map(|line| line.strip_prefix("to watch: steadfast ").map(str::to_owned))
            .expect("the demo says how to watch it");
        let options: Vec<&str> = hint.split(' ').collect();
        let mut follow = steadfast(&options);
        let watch = Watch::begin(follow.arg("--json").env("DATABASE_URL", &place.url));
        let seen = watch.until(is("manifest", "completed"));
        let told: Vec<String> = told.collect();
        assert!(told.iter().any(|line| line.contains("(SIGKILL)")), "{told:?}");
        let ran = demo.wait_with_output().unwrap();
        let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert!(ran.status.success(), "{report}");
        assert_eq!(sequences(&seen), (1..=seen.len() as u64).collect::<Vec<_>>());
        // One for the whole, one for each folder.
        let completed = seen.iter().filter(|event| event["kind"] == "completed").count();
        assert_eq!(Value::from(completed), report["instances"], "{report}");
    }
}

#[test]
fn a_watch_survives_a_crash_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(Options::under(folder.path())).unwrap();
    let place = Place::on(cluster.url());
    place.run(&["schema", "install"]).ok();
    let (runtime, worker) = work_on(&place, Level::History);
    let watch = Watch::begin(&mut place.command(&["watch", "--json"]));
    place.run(&["start", "Greet", "r-1", "--input", "kim"]).ok();
    let mut seen = watch.until(is("r-1", "custom-status"));
    cluster.stop_immediate().unwrap();
    thread::sleep(std::time::Duration::from_secs(1));
    cluster.start_again().unwrap();
    place.until(&["show", "r-1"], |show| show["custom_status"] == "waiting");
    place.run(&["signal", "r-1", "go"]).ok();
    seen.extend(watch.until(is("r-1", "completed")));
    assert_eq!(sequences(&seen), (1..=seen.len() as u64).collect::<Vec<_>>());
    watch.killed();
    runtime.block_on(worker.shutdown(Some(500)));
}
