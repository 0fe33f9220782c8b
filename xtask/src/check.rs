//! `xtask check`: everything that can be said about the code without running it; the invariant: a check that cannot run
//! here says that it was skipped.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    tidy::{self, Source},
    workspace::{cargo, must, output, root},
};

const EXCEPTIONS: &str = "xtask/tidy-exceptions.txt";

/// Runs all checks; the first that fails ends it. The cheap ones come first.
pub(crate) fn run() -> Result<u8> {
    must(&mut cargo(&["fmt", "--all", "--check"]))?;
    tidy()?;
    must(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ]))?;
    documentation()?;
    package()?;
    licences()?;
    eprintln!("xtask: all checks passed");
    Ok(0)
}

/// The project's own rules, over every file that git has or would take.
pub(crate) fn tidy() -> Result<()> {
    let listed = output(
        Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root()),
    )?;
    let mut sources = Vec::new();
    for path in listed
        .split('\0')
        .filter(|path| path.ends_with(".rs") || path.ends_with(".sql"))
    {
        // A file that was deleted and is still in the index is no file.
        let Ok(bytes) = fs::read(root().join(path)) else {
            continue;
        };
        sources.push(Source {
            path: path.to_owned(),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        });
    }
    let exceptions =
        fs::read_to_string(root().join(EXCEPTIONS)).with_context(|| format!("cannot read {EXCEPTIONS}"))?;
    let complaints = tidy::complaints(&sources, &exceptions);
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    if !complaints.is_empty() {
        bail!(
            "tidy: {} complaints (the rules are in xtask/src/tidy.rs, the exceptions in {EXCEPTIONS})",
            complaints.len()
        );
    }
    eprintln!("xtask: tidy: {} files", sources.len());
    Ok(())
}

/// Programs first and libraries after, each apart: the library and the program `steadfast` share one name, and cargo
/// refuses to document both into one folder.
fn documentation() -> Result<()> {
    for kind in ["--bins", "--lib"] {
        let mut command = cargo(&["doc", "--workspace", "--no-deps", "--all-features", kind]);
        must(command.env("RUSTDOCFLAGS", "-D warnings"))?;
    }
    Ok(())
}

/// The published crate must hold its SQL, or it builds here and nowhere else.
fn package() -> Result<()> {
    let listed = output(&mut cargo(&[
        "package",
        "-p",
        "steadfast",
        "--allow-dirty",
        "--no-verify",
        "--list",
    ]))?;
    for folder in ["sql/tables/", "sql/functions/"] {
        if !listed
            .lines()
            .any(|file| file.starts_with(folder) && file.ends_with(".sql"))
        {
            bail!("the package steadfast would hold no {folder}*.sql");
        }
    }
    eprintln!("xtask: the package steadfast holds its SQL");
    Ok(())
}

fn licences() -> Result<()> {
    let installed = cargo(&["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !installed {
        eprintln!("xtask: skipped: cargo deny is not installed");
        return Ok(());
    }
    must(&mut cargo(&["deny", "--all-features", "check"]))
}
