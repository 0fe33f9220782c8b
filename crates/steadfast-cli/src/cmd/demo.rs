//! `steadfast demo`: sets the scene (a server, a schema, a folder for the ledger), plays the demo, clears up.
//!
//! Invariant: what it made is gone afterwards, unless `--keep` asks for it: also after an error or Ctrl-C.

use std::path::{Path, PathBuf};

use clap::Args;
use private_postgres::{Cluster, Options};
use steadfast::postgres::{Migrations, PostgresProvider};
use tempfile::TempDir;

use crate::{
    cli::Globals,
    demo::{job, process::Plan, progress::say, report::Report, stage::Stage, tree},
    error::CliError,
    output::{Output, count},
};

/// Fewer files leave no time for a kill half-way.
const FEWEST: usize = 20;
/// The manifest is one event; this keeps it within a few MB.
const MOST: usize = 50_000;

/// See a durable job survive the death of its worker
///
/// Hashes every file below a directory with one orchestration per folder and one activity per file, in a worker process
/// that is killed half-way; another one goes on where the store says. Then everything is counted and compared. Uses a
/// schema of its own (--schema is not looked at), on a private PostgreSQL where no database is given.
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
    /// Leave the schema, the ledger and the manifest behind (needs a database of yours)
    #[arg(long)]
    keep: bool,
}

pub(crate) async fn run(globals: &Globals, arguments: &Arguments, output: &mut Output) -> Result<(), CliError> {
    if arguments.keep && globals.given_url().is_none() {
        let text = "--keep needs --database-url (or DATABASE_URL): a private PostgreSQL is removed at the end";
        return Err(CliError::Usage(text.to_owned()));
    }
    let dir = directory(arguments.dir.as_deref())?;
    let total = survey(&dir).await?;
    let cluster = match globals.given_url() {
        Some(_) => None,
        None => Some(private_cluster().await?),
    };
    let database_url = match &cluster {
        Some(cluster) => cluster.url(),
        None => globals.database_url()?.to_owned(),
    };
    let desk = TempDir::with_prefix("steadfast-demo-").map_err(CliError::while_trying("make a temporary folder"))?;
    let plan = Plan {
        database_url,
        schema: schema_name(),
        dir,
        desk: desk.path().to_owned(),
        pace_ms: arguments.pace_ms,
        slots: usize::from(arguments.slots),
        lease_ms: arguments.lease_ms,
    };
    let result = with_schema(&plan, total, arguments.keep).await;
    if let Some(cluster) = cluster {
        // Stopping the server blocks; an error of the task could only be a panic in there.
        let _ = tokio::task::spawn_blocking(move || drop(cluster)).await;
    }
    let report = result?;
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

/// Makes the schema, plays, drops the schema.
async fn with_schema(plan: &Plan, total: usize, keep: bool) -> Result<Report, CliError> {
    let provider = PostgresProvider::builder(&plan.database_url)
        .schema(&plan.schema)
        .pool_size(2)
        .migrations(Migrations::Apply)
        .application_name("steadfast demo")
        .connect()
        .await?;
    let result = tokio::select! {
        result = play(&provider, plan, total) => result,
        _ = tokio::signal::ctrl_c() => Err(CliError::Refused("interrupted".to_owned())),
    };
    let dropped = if keep { Ok(()) } else { provider.cleanup_schema().await };
    provider.close().await;
    let report = result?;
    dropped?;
    Ok(report)
}

async fn play(provider: &PostgresProvider, plan: &Plan, total: usize) -> Result<Report, CliError> {
    Stage::new(provider, plan, total)?.play().await
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
    say(&format!(
        "{files} files in {} folders below {}",
        folders.len(),
        dir.display()
    ));
    Ok(files)
}

async fn private_cluster() -> Result<Cluster, CliError> {
    say("no database given: starting a private PostgreSQL (installed first where it is missing)");
    let start = || Cluster::start(Options::under(std::env::temp_dir()));
    let started = tokio::task::spawn_blocking(start).await;
    Ok(started.map_err(|error| CliError::Refused(error.to_string()))??)
}

fn tell_what_is_kept(plan: &Plan, desk: PathBuf) {
    let schema = &plan.schema;
    say(&format!(
        "kept: {} and the schema {schema}; look into it:",
        desk.display()
    ));
    for command in [
        "list",
        &format!("show {}", job::ROOT),
        &format!("history {}", job::ROOT),
        "queues",
    ] {
        say(&format!("  steadfast --schema {schema} {command}"));
    }
    say(&format!("and when you have seen enough: DROP SCHEMA {schema} CASCADE"));
}
