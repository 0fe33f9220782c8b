//! Kind 23: What is printed neither steers a terminal nor hides in it, fits it, and says what to do.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::Value;
use steadfast::feed::Level;

use crate::place::{PATIENCE, Place, Ran, database_url, run, steadfast, work_on};

/// One of each kind that a terminal obeys, hides or turns round.
const HOSTILE: &str = "\u{1b}[2J\u{7f}\u{9b}31m\u{61c}\u{200b}\u{200e}\u{202e}\u{2028}\u{2029}\u{2066}\u{feff}\u{ad}\u{e0041}\u{e000}\u{fe0f}";

/// Nothing but line breaks, and what can be seen.
#[track_caller]
fn assert_tame(ran: &Ran) {
    for text in [&ran.stdout, &ran.stderr] {
        let found = text
            .chars()
            .find(|c| *c != '\n' && (c.is_control() || HOSTILE.chars().skip(4).any(|h| h == *c && !c.is_ascii())));
        assert_eq!(found, None, "{text:?}");
    }
}

#[test]
fn nothing_hostile_is_passed_on() {
    for place in [Place::new(), Place::in_file()] {
        place.run(&["schema", "install"]).ok();
        let (runtime, worker) = work_on(&place, Level::History);
        let id = format!("i{HOSTILE}");
        let verbs: [&[&str]; 12] = [
            &["start", "Greet", &id, "--input", HOSTILE],
            &["start", HOSTILE, "other"],
            &["list"],
            &["show", &id],
            &["history", &id],
            &["history", &id, "--full"],
            &["signal", &id, HOSTILE, "--queue"],
            &["watch", "--until-caught-up"],
            &["feed", "status"],
            &["start", "Greet", &id],
            &["cancel", &id, "--reason", HOSTILE],
            &["show", HOSTILE],
        ];
        for arguments in verbs {
            for json in [false, true] {
                let mut command = place.command(arguments);
                if json {
                    command.arg("--json");
                }
                let ran = run(&mut command);
                assert_tame(&ran);
                if json && ran.code == Some(0) && !arguments.contains(&"watch") {
                    let _: Value =
                        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error} in {ran:?}"));
                }
            }
            if arguments == verbs[0] {
                place.until(&["show", &id], |show| show["custom_status"] == "waiting");
            }
        }
        // Programs get it unchanged.
        let shown = place.json(&["show", &id]);
        assert_eq!(shown["instance_id"], id.as_str());
        assert_eq!(shown["kv"]["name"], HOSTILE.to_uppercase().as_str());
        runtime.block_on(worker.shutdown(Some(500)));
    }
    let names: [&[&str]; 4] = [
        &["list", "--file", HOSTILE],
        &["list", HOSTILE],
        &["start", "Greet", "x", "--file", "/nowhere", "--input", "@\u{1b}[2J"],
        &[
            "list",
            "--schema",
            HOSTILE,
            "--database-url",
            "postgres://nobody@127.0.0.1:1/x",
        ],
    ];
    for arguments in names {
        assert_tame(&run(&mut steadfast(arguments)));
        assert_tame(&run(steadfast(arguments).arg("--json")));
    }
}

/// The command on a terminal of so many columns.
fn on_terminal(place: &Place, columns: u16, arguments: &[&str]) -> Vec<String> {
    let command = place.command(arguments);
    let quote = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap());
    let mut words = vec![format!("stty rows 24 cols {columns};"), quote(command.get_program())];
    words.extend(command.get_args().map(quote));
    let mut script = Command::new("script");
    script
        .args(["-qec", &words.join(" "), "/dev/null"])
        .stdin(Stdio::null())
        .env("NO_COLOR", "1");
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    let output = script.output().expect("run script");
    let text = String::from_utf8(output.stdout).unwrap();
    // What is left after the attributes of headings.
    let mut plain = String::new();
    let mut escape = false;
    for character in text.chars() {
        match character {
            '\u{1b}' => escape = true,
            'm' if escape => escape = false,
            _ if escape => {}
            _ => plain.push(character),
        }
    }
    plain
        .lines()
        .map(|line| line.trim_end_matches('\r').to_owned())
        .collect()
}

#[test]
fn what_is_printed_fits_the_terminal() {
    let place = Place::in_file();
    place.run(&["schema", "install"]).ok();
    let (runtime, worker) = work_on(&place, Level::History);
    let long = format!("an-instance-with-a-long-name-{}", "0123456789".repeat(6));
    let wide = "日本語".repeat(15);
    for id in [long.as_str(), &wide] {
        place.run(&["start", "Greet", id, "--input", &"text ".repeat(60)]).ok();
        place.until(&["show", id], |show| show["custom_status"] == "waiting");
    }
    let verbs: [&[&str]; 9] = [
        &["--help"],
        &["delete", "--help"],
        &["list"],
        &["show", &long],
        &["show", &wide],
        &["history", &long],
        &["queues"],
        &["feed", "status"],
        &["watch", "--until-caught-up"],
    ];
    for arguments in verbs {
        for columns in [80, 120] {
            let lines = on_terminal(&place, columns, arguments);
            assert!(
                lines.iter().any(|line| !line.is_empty()),
                "{arguments:?} printed nothing"
            );
            for line in lines {
                let width: usize = line
                    .chars()
                    .map(|c| {
                        if c >= '\u{1100}' && c != '…' && c != '─' {
                            2
                        } else {
                            1
                        }
                    })
                    .sum();
                assert!(
                    width <= usize::from(columns),
                    "{arguments:?}, {columns} columns: {width}: {line}"
                );
            }
        }
    }
    runtime.block_on(worker.shutdown(Some(500)));
}

#[test]
fn errors_are_json_for_programs() {
    let place = Place::in_file();
    place.run(&["schema", "install"]).ok();
    let wrong: [(&[&str], i32); 4] = [
        (&["show", "nobody", "--json"], 6),
        (&["list", "--json", "--status", "asleep"], 2),
        (&["nonsense", "--json"], 2),
        (&["list", "--json", "--file", "/no/such/file"], 5),
    ];
    for (arguments, code) in wrong {
        let ran = if arguments.contains(&"--file") {
            run(&mut steadfast(arguments))
        } else {
            place.run(arguments)
        };
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{ran:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
        let error: Value = serde_json::from_str(&ran.stderr).unwrap_or_else(|error| panic!("{error} in {ran:?}"));
        assert_eq!(error["error"]["exit_code"], code, "{error}");
        assert!(
            error["error"]["message"].as_str().is_some_and(|text| !text.is_empty()),
            "{error}"
        );
    }
}

#[test]
fn errors_say_what_to_do_with_this_command() {
    let place = Place::in_file();
    place.run(&["schema", "install"]).ok();
    let (runtime, worker) = work_on(&place, Level::default());
    place.run(&["start", "Greet", "g-1", "--input", "ann"]).ok();
    place.until(&["show", "g-1"], |show| show["custom_status"] == "waiting");
    let text = place.run(&["delete", "g-1"]).refused(1);
    assert!(text.contains("--force") && !text.contains("force=true"), "{text}");
    runtime.block_on(worker.shutdown(Some(500)));

    let missing = run(&mut steadfast(&["list", "--file", "nosuch.db"])).refused(5);
    assert!(missing.contains("nosuch.db: the file does not exist"), "{missing}");
    for url in ["mysql://root:s3cret@127.0.0.1/x", "http://127.0.0.1/"] {
        let scheme = url.split_once("://").unwrap().0;
        let text = run(&mut steadfast(&["list", "--database-url", url])).refused(2);
        assert!(
            text.contains(&format!("{scheme}://")) && !text.contains("s3cret"),
            "{text}"
        );
        run(&mut steadfast(&["copy", "--from", url, "--to", "x.db"])).refused(2);
    }
    let url = database_url();
    let (server, _) = url.rsplit_once('/').unwrap();
    let text = run(&mut steadfast(&[
        "list",
        "--database-url",
        &format!("{server}/no_such_database"),
    ]))
    .refused(5);
    assert!(text.contains("no_such_database"), "{text}");
    let text = run(&mut steadfast(&["list"])).refused(2);
    assert!(text.contains("PGHOST"), "{text}");
}

/// libpq's variables alone name a database.
#[test]
fn libpqs_variables_are_enough() {
    let place = Place::installed();
    let rest = place.url.split_once("://").unwrap().1;
    let (user, rest) = rest.split_once('@').unwrap();
    let (address, database) = rest.split_once('/').unwrap();
    let (host, port) = address.rsplit_once(':').unwrap();
    let ran = run(steadfast(&["list", "--schema", &place.schema]).envs([
        ("PGUSER", user),
        ("PGHOST", host),
        ("PGPORT", port),
        ("PGDATABASE", database.split('?').next().unwrap()),
    ]));
    assert_eq!(ran.ok(), "no instances\n");
}

/// `watch | head -1`: it ends when its reader does, while nothing happens.
#[test]
fn a_watch_ends_with_its_reader() {
    for place in [Place::new(), Place::in_file()] {
        place.run(&["schema", "install"]).ok();
        let (runtime, worker) = work_on(&place, Level::default());
        place.run(&["start", "Greet", "w-1", "--input", "ann"]).ok();
        place.until(&["show", "w-1"], |show| show["custom_status"] == "waiting");
        let mut watch = place
            .command(&["watch"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(watch.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(line.contains("w-1"), "{line}");
        drop(stdout);
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match watch.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    watch.kill().unwrap();
                    panic!("it still runs");
                }
                None => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        };
        assert_eq!(status.code(), Some(0));
        runtime.block_on(worker.shutdown(Some(500)));
    }
}

/// A pipe as a payload is not waited for (kind 13).
#[test]
fn a_pipe_is_no_payload_file() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let place = Place::in_file();
    place.run(&["schema", "install"]).ok();
    for path in [pipe.as_path(), folder.path()] {
        let text = place
            .run(&["start", "Greet", "x", "--input", &format!("@{}", path.display())])
            .refused(1);
        assert!(text.contains("not a file"), "{text}");
    }
    let text = run(steadfast(&["list", "--file"]).arg(&pipe)).refused(5);
    assert!(text.contains("pipe"), "{text}");
}
