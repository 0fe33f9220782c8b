//! `xtask test`: all tests of the workspace on one private server; the invariant: its last line is the sum of them all.

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    process::Stdio,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use private_postgres::Binaries;

use crate::{
    database,
    signals::Guard,
    totals::Totals,
    workspace::{cargo, exit_code},
};

/// How a run of all tests ended.
pub(crate) struct Outcome {
    /// The exit code of `cargo test`.
    pub(crate) code: u8,
    pub(crate) totals: Totals,
    pub(crate) took: Duration,
}

/// `xtask test`.
pub(crate) fn run(arguments: &[String]) -> Result<u8> {
    let guard = Guard::install()?;
    let outcome = on(database::binaries()?, arguments, &[], &guard)?;
    eprintln!("xtask: tests took {} s", outcome.took.as_secs());
    println!("tests: {}", outcome.totals);
    Ok(outcome.code)
}

/// Runs all tests on a server of these programs, with these variables beside those of the server.
pub(crate) fn on(
    binaries: Binaries,
    arguments: &[String],
    variables: &[(&str, &OsStr)],
    guard: &Guard,
) -> Result<Outcome> {
    let started = Instant::now();
    let cluster = database::start(binaries)?;
    let mut command = cargo(&["test", "--all-features", "--no-fail-fast"]);
    if !names_packages(arguments) {
        command.arg("--workspace");
    }
    command
        .args(arguments)
        .envs(variables.iter().copied())
        .stdout(Stdio::piped());
    if std::env::var_os("RUST_TEST_THREADS").is_none() {
        // Most tests wait for leases and timers rather than for a core.
        command.env("RUST_TEST_THREADS", "8");
    }
    database::tell(&mut command, &cluster);
    command.envs(variables.iter().copied());
    let mut child = guard.start(&mut command)?;
    let reader = child.stdout.take().map(|stdout| thread::spawn(move || copy(stdout)));
    let status = guard.wait(&mut child)?;
    // Cargo, when it is told to stop, leaves its test binary behind, which holds the pipe: do not wait for that, but
    // take its server away.
    let totals = match reader {
        Some(reader) if !guard.asked_to_stop() => join(reader)?,
        _ => Totals::default(),
    };
    guard.go_on()?;
    drop(cluster);
    Ok(Outcome {
        code: exit_code(status),
        totals,
        took: started.elapsed(),
    })
}

/// Whether the arguments for `cargo test` choose packages, which `--workspace` would overrule.
fn names_packages(arguments: &[String]) -> bool {
    let for_cargo = arguments.iter().take_while(|argument| *argument != "--");
    for_cargo
        .into_iter()
        .any(|argument| argument.starts_with("-p") || argument.starts_with("--package"))
}

/// Passes the output on as it comes, and adds up the closing lines.
fn copy(mut from: impl Read) -> io::Result<Totals> {
    let mut totals = Totals::default();
    let mut line = Vec::new();
    let mut buffer = [0; 8192];
    let mut out = io::stdout();
    loop {
        let count = from.read(&mut buffer)?;
        let chunk = buffer.get(..count).unwrap_or_default();
        if chunk.is_empty() {
            totals.line(&String::from_utf8_lossy(&line));
            return Ok(totals);
        }
        out.write_all(chunk)?;
        out.flush()?;
        for byte in chunk {
            if *byte == b'\n' {
                totals.line(&String::from_utf8_lossy(&line));
                line.clear();
            } else {
                line.push(*byte);
            }
        }
    }
}

fn join(reader: JoinHandle<io::Result<Totals>>) -> Result<Totals> {
    match reader.join() {
        Ok(totals) => totals.context("cannot pass on the tests' output"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
