//! `xtask schema`: the golden dump of what an installation makes; the invariant: it is made by one PostgreSQL version,
//! because `pg_dump` words the same schema differently in others.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use similar::TextDiff;

use crate::{
    database, golden,
    signals::Guard,
    workspace::{cargo, must, output, root},
};

const GOLDEN: &str = "crates/steadfast/sql/schema.golden.sql";
const GOLDEN_MAJOR: u32 = 15;
const SCHEMA: &str = "steadfast_golden";

/// Writes the golden dump, or compares it.
pub(crate) fn run(check: bool) -> Result<u8> {
    let guard = Guard::install()?;
    let binaries = database::binaries()?;
    if binaries.major() != GOLDEN_MAJOR {
        let version = binaries.version();
        if check {
            eprintln!("xtask: skipped: {GOLDEN} is compared on PostgreSQL {GOLDEN_MAJOR} only, and this is {version}");
            return Ok(0);
        }
        bail!("{GOLDEN} is made by PostgreSQL {GOLDEN_MAJOR} only, and this is {version} (set POSTGRES_BIN)");
    }
    let pg_dump = binaries
        .program("pg_dump")
        .context("this PostgreSQL installation has no pg_dump")?;
    let cluster = database::start(binaries)?;
    let url = cluster.url();
    let install = [
        "run",
        "-q",
        "-p",
        "steadfast-cli",
        "--",
        "schema",
        "install",
        "--database-url",
        &url,
        "--schema",
        SCHEMA,
    ];
    must(cargo(&install).stdin(Stdio::null()))?;
    guard.go_on()?;
    let dump = output(
        Command::new(pg_dump)
            .args(["--schema-only", "--no-owner", "--no-privileges"])
            .arg(format!("--schema={SCHEMA}"))
            .arg(format!("--dbname={url}")),
    )?;
    drop(cluster);
    let made = golden::normalise(&dump);
    let path = root().join(GOLDEN);
    if !check {
        fs::write(&path, made).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("xtask: wrote {GOLDEN}");
        return Ok(0);
    }
    let kept = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    if kept == made {
        eprintln!("xtask: {GOLDEN} is what an installation makes");
        return Ok(0);
    }
    let diff = TextDiff::from_lines(&kept, &made);
    println!(
        "{}",
        diff.unified_diff()
            .context_radius(3)
            .header(GOLDEN, "what an installation makes")
    );
    bail!("{GOLDEN} differs from what an installation makes: run `cargo xtask schema` and look at the change");
}
