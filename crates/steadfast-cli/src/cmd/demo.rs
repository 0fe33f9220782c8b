//! `steadfast demo`: sets the scene (a file or a schema, a folder for the ledger), plays the demo, clears up.
//!
//! Invariants: no store is touched that an option did not name; what it made is gone afterwards, unless `--keep` asks for
//! it: also after an error, and always after Ctrl-C.

use std::path::{Path, PathBuf};

use clap::Args;
use steadfast::{feed::Level, postgres::Migrations};
use tempfile::TempDir;

use crate::{
    cli::Globals,
    cmd::Interrupt,
    demo::{job, process::Plan, report::Report, stage::Stage, tree},
    error::CliError,
    output::{Output, count, note},
    store::{self, Place, Store},
};

/// Fewer files leave no time for a kill half-way.
const FEWEST: usize = 20;
/// The manifest is one event; this keeps it within a few MB.
const MOST: usize = 50_000;

/// See a durable job survive the death of its worker
///
/// Hashes every file below a directory with one orchestration per folder and one activity per file, in a worker process
/// that is killed half-way; another one goes on where the store says. Then everything is counted and compared. The store is a
/// temporary file, or a new file of yours (--file), or a schema of its own (--schema is not looked at) in a database that
/// --database-url names; the variable DATABASE_URL is not looked at.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The directory to hash; by default the checkout that the working directory is in
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Extra time per file, so that the kill lands half-way also where hashing takes no time
    #[arg(long, value_name = "MS", default_value_t = 3)]
    pace_ms: u64,
    /// Activities at once, and orchestration turns at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    slots: u16,
    /// Length of a lease: what a dead worker had in hand is free after that
    #[arg(long, value_name = "MS", default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(1_000..=600_000))]
    lease_ms: u64,
    /// Leave the store, the ledger and the manifest behind
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(globals: &Globals, arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    let dir = directory(arguments.dir.as_deref())?;
    let total = survey(&dir).await?;
    let desk = TempDir::with_prefix("steadfast-demo-").map_err(CliError::while_trying("make a temporary folder"))?;
    let plan = Plan {
        place: place(globals, desk.path())?,
        dir,
        desk: desk.path().to_owned(),
        pace_ms: arguments.pace_ms,
        slots: usize::from(arguments.slots),
        lease_ms: arguments.lease_ms,
    };
    let report = with_store(&plan, total, arguments.keep).await?;
    report.print(output)?;
    if arguments.keep {
        tell_what_is_kept(&plan, desk.keep());
    }
    match report.faults.first() {
        None => Ok(()),
        Some(first) => {
            let faults = count(report.faults.len() as u64, "fault");
            Err(CliError::Refused(format!(
                "the demo found {faults}, the first: {first}"
            )))
        }
    }
}

/// A name that no other run has: 48 random bits.
fn schema_name() -> String {
    let random: String = uuid::Uuid::new_v4().simple().to_string().chars().take(12).collect();
    format!("steadfast_demo_{random}")
}

/// A store that no other run has.
fn place(globals: &Globals, desk: &Path) -> Result<Place, CliError> {
    match globals.place_by_option()? {
        None => {
            let unused = globals.given_place()?.is_some();
            let why = if unused {
                " (what the environment names is not used: say --database-url)"
            } else {
                ""
            };
            note(&format!("no database given: the store is a file{why}"));
            Ok(Place::File(desk.join("steadfast.db")))
        }
        Some(Place::File(path)) if path.exists() => Err(CliError::Path {
            path,
            reason: "is there already; the demo makes a store of its own".to_owned(),
        }),
        Some(Place::Database { url, access, .. }) => Ok(Place::Database {
            url,
            schema: schema_name(),
            access,
        }),
        Some(file) => Ok(file),
    }
}

/// Makes the store, plays, removes the store.
async fn with_store(plan: &Plan, total: usize, keep: bool) -> Result<Report, CliError> {
    let mut interrupt = Interrupt::listen()?;
    let result = tokio::select! {
        result = whole(plan, total) => result,
        interrupted = interrupt.come() => Err(interrupted),
    };
    let removed = if keep && !matches!(result, Err(CliError::Interrupted)) {
        Ok(())
    } else {
        store::remove(&plan.place).await
    };
    let report = result?;
    removed?;
    Ok(report)
}

async fn whole(plan: &Plan, total: usize) -> Result<Report, CliError> {
    let store = store::open_with(
        plan.place.clone(),
        Migrations::Apply,
        "steadfast demo",
        Some(2),
        Level::default(),
    )
    .await?;
    note(&format!("to watch: steadfast {} watch", options(&plan.place)));
    let result = play(&store, plan, total).await;
    store.close().await;
    result
}

async fn play(store: &Store, plan: &Plan, total: usize) -> Result<Report, CliError> {
    Stage::new(store, plan, total)?.play().await
}

fn directory(given: Option<&Path>) -> Result<PathBuf, CliError> {
    let dir = match given {
        Some(dir) => dir.to_owned(),
        None => tree::checkout().map_err(CliError::while_trying("find the working directory"))?,
    };
    let refuse = |reason: String| CliError::Path {
        path: dir.clone(),
        reason,
    };
    let real = dir.canonicalize().map_err(|error| refuse(error.to_string()))?;
    if real.is_dir() {
        Ok(real)
    } else {
        Err(refuse("is not a directory".to_owned()))
    }
}

/// How many files there are; also refuses at once what the job would stumble over.
async fn survey(dir: &Path) -> Result<usize, CliError> {
    let path = dir.to_owned();
    let folders = tokio::task::spawn_blocking(move || tree::folders(&path))
        .await
        .map_err(|error| CliError::Refused(error.to_string()))?
        .map_err(|error| CliError::Refused(error.to_string()))?;
    let files = folders.iter().map(|(_, files)| files).sum();
    let refuse = |what: &str| {
        let reason = format!("holds {files} files, {what}; choose another: --dir");
        Err(CliError::Path {
            path: dir.to_owned(),
            reason,
        })
    };
    if files < FEWEST {
        return refuse(&format!("and the demo needs {FEWEST} to be killed half-way"));
    }
    if files > MOST {
        return refuse(&format!("more than the {MOST} that the demo is made for"));
    }
    note(&format!(
        "{files} files in {} folders below {}",
        folders.len(),
        dir.display()
    ));
    Ok(files)
}

/// What names the store to another command, which has the same database.
fn options(place: &Place) -> String {
    match place {
        Place::Database { schema, .. } => format!("--schema {schema}"),
        Place::File(path) => format!("--file {}", path.display()),
    }
}

fn tell_what_is_kept(plan: &Plan, desk: PathBuf) {
    let option = options(&plan.place);
    let farewell = match &plan.place {
        Place::Database { schema, .. } => format!("DROP SCHEMA {schema} CASCADE"),
        Place::File(path) => format!("rm {}*", path.display()),
    };
    note(&format!(
        "kept: {} and the {}; look into it:",
        desk.display(),
        plan.place.describe()
    ));
    for command in [
        "list",
        &format!("show {}", job::ROOT),
        &format!("history {}", job::ROOT),
        "queues",
    ] {
        note(&format!("  steadfast {option} {command}"));
    }
    note(&format!("and when you have seen enough: {farewell}"));
}
