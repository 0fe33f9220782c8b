//! `xtask field`: the long forms of what the field found; the invariant: each suite that ran leaves a report of its own
//! day and commit, whether it passed or not.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    database,
    signals::Guard,
    test_run,
    totals::Totals,
    workspace::{output, root, target},
};

/// A suite of `crates/steadfast/tests/it/field`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Suite {
    /// Faults cease, no input comes, and everything comes to rest
    Silence,
    /// A worker limited to 512 MiB, and what is sent at it
    Cage,
    /// Every stored function, table and right times every SQLSTATE, under load
    Errors,
    /// The figures of single kinds of fault
    Kinds,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Silence => "silence",
            Self::Cage => "cage",
            Self::Errors => "errors",
            Self::Kinds => "kinds",
        }
    }

    /// What its tests have in their names.
    fn filter(self) -> &'static str {
        match self {
            Self::Silence => "field::silence",
            Self::Cage => "field::cage",
            Self::Errors => "field::errors",
            Self::Kinds => "field::kind_",
        }
    }
}

/// Runs the suites one after the other, each on a server of its own.
pub(crate) fn run(suites: &[Suite]) -> Result<u8> {
    let guard = Guard::install()?;
    let chosen = if suites.is_empty() {
        Suite::value_variants()
    } else {
        suites
    };
    let (mut code, mut sum) = (0, Totals::default());
    for suite in chosen {
        let (suite_code, totals) = one(*suite, &guard)?;
        code = code.max(suite_code);
        sum.add(totals);
    }
    println!("tests: {sum}");
    Ok(code)
}

/// Runs one suite, and writes its report.
fn one(suite: Suite, guard: &Guard) -> Result<(u8, Totals)> {
    let notes = target().join("field").join(format!("{}.md", suite.name()));
    if let Some(folder) = notes.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    // The tests add to it, each its own part.
    fs::write(&notes, "").with_context(|| format!("cannot write {}", notes.display()))?;
    let arguments = [
        "-p",
        "steadfast",
        "--test",
        "it",
        "--",
        suite.filter(),
        "--nocapture",
        // What fails today is left out of the tests, and not of the report.
        "--include-ignored",
    ]
    .map(str::to_owned);
    let variables = [
        ("STEADFAST_FIELD_FORM", "long".as_ref()),
        ("STEADFAST_FIELD_REPORT", notes.as_os_str()),
    ];
    let outcome = test_run::on(database::binaries()?, &arguments, &variables, guard)?;
    guard.go_on()?;

    let parts = fs::read_to_string(&notes).with_context(|| format!("cannot read {}", notes.display()))?;
    let day = spoken_by("date", &["-u", "+%Y-%m-%d"])?;
    let commit = spoken_by("git", &["rev-parse", "--short", "HEAD"])?;
    let name = suite.name();
    let report = format!(
        "# Field suite: {name}\n\n{day}, commit {commit}, `cargo xtask field {name}`, {} s.\n\nTests: {}.\n\n{parts}",
        outcome.took.as_secs(),
        outcome.totals,
    );
    let path = root().join(format!("docs/evidence/field-{name}-{day}.md"));
    fs::write(&path, report).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("xtask: report in {}", path.display());
    Ok((outcome.code, outcome.totals))
}

/// The one line that a program prints.
fn spoken_by(program: &str, arguments: &[&str]) -> Result<String> {
    let text = output(Command::new(program).args(arguments).current_dir(root()))?;
    Ok(text.trim().to_owned())
}
