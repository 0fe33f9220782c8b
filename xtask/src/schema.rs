//! `xtask schema`: the golden dump and the golden listing of what an installation makes; the invariant: they are made by one
//! PostgreSQL version, because `pg_dump` words the same schema differently in others.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use similar::TextDiff;

use crate::{
    database, golden, listing,
    signals::Guard,
    workspace::{cargo, must, output, root},
};

const GOLDEN: &str = "crates/steadfast/sql/schema.golden.sql";
const LISTING: &str = "crates/steadfast/sql/catalogue/listing.golden.txt";
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
    let cluster = database::start(binaries.clone())?;
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
    let listing = listing::make(&binaries, &url, SCHEMA)?;
    drop(cluster);
    let mut differ = false;
    for (file, made) in [(GOLDEN, golden::normalise(&dump)), (LISTING, listing)] {
        let path = root().join(file);
        if check {
            let kept = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            differ |= !is_same(file, &kept, &made);
        } else {
            fs::write(&path, made).with_context(|| format!("cannot write {}", path.display()))?;
            eprintln!("xtask: wrote {file}");
        }
    }
    if differ {
        bail!("an installation makes something else: run `cargo xtask schema` and look at the change");
    }
    Ok(0)
}

fn is_same(file: &str, kept: &str, made: &str) -> bool {
    if kept == made {
        eprintln!("xtask: {file} is what an installation makes");
        return true;
    }
    let diff = TextDiff::from_lines(kept, made);
    println!(
        "{}",
        diff.unified_diff()
            .context_radius(3)
            .header(file, "what an installation makes")
    );
    false
}
