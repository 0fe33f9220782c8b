//! Chaos, short and with fixed seeds: no violation on either engine, and planted defects are found.
//!
//! The long runs are made by hand: docs/evidence/README.md.
#![cfg(all(feature = "engine", feature = "faults"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::process::{Command, Output};

fn chaos(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_steadfast-bench"))
        .arg("chaos")
        .args(arguments.split(' '))
        // A server of its own: it is stopped now and then.
        .env_remove("DATABASE_URL")
        .output()
        .expect("run chaos")
}

fn text(output: &Output) -> String {
    let bytes = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn passes(arguments: &str) {
    let output = chaos(arguments);
    assert!(output.status.success(), "{}", text(&output));
}

/// The run ends with violations of the promise that begins so.
fn fails(arguments: &str, promise: &str) {
    let output = chaos(arguments);
    let said = text(&output);
    assert!(!output.status.success(), "the planted defect was not found: {said}");
    let broken = said
        .lines()
        .any(|line| line.contains(promise) && !line.ends_with("| 0 |"));
    assert!(broken, "not {promise:?}: {said}");
}

/// The planted defect is found as a violation of the promise that begins so.
fn finds(defect: &str, promise: &str) {
    let run =
        "--engine postgres --minutes 0.15 --seed 1 --rate 6 --safety-poll-ms 1500 --no-figures --drain-seconds 15";
    fails(&format!("{run} --plant {defect}"), promise);
}

#[test]
fn postgres_loses_nothing() {
    passes("--engine postgres --minutes 0.4 --seed 7 --rate 4 --safety-poll-ms 1500 --no-figures");
}

#[test]
fn embedded_loses_nothing() {
    passes("--engine embedded --minutes 0.4 --seed 7 --rate 4 --safety-poll-ms 1500 --no-figures");
}

#[test]
fn a_lease_by_the_clients_clock_is_found() {
    fails(
        "--engine postgres --minutes 0.15 --seed 1 --rate 6 --safety-poll-ms 1500 --no-figures --plant client-clock",
        "each activity ran",
    );
}

#[test]
fn a_lost_event_is_found() {
    finds("lost-event", "every acknowledged start ended");
}

#[test]
fn an_activity_that_its_ack_does_not_end_is_found() {
    finds("ack-without-end", "each activity ran");
}

#[test]
fn a_feed_without_an_assigner_is_found() {
    finds("feed-without-assigner", "the change feed agrees");
}

#[test]
fn hints_lost_without_a_fallback_are_found() {
    finds("lost-hints", "an idle process found its work");
}
