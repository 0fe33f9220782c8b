//! The durable job: its orchestrations and activities.
//!
//! Invariant: orchestrations are deterministic: they touch the world through activities only. (The note of a turn in the
//! ledger is for the report; nothing depends on it.)

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use duroxide::{
    ActivityContext, BackoffStrategy, OrchestrationContext, OrchestrationRegistry, RetryPolicy,
    runtime::registry::ActivityRegistry,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::demo::{
    ledger::{Mark, Task, Writer},
    manifest::{self, Line},
    tree,
};

/// The id of the one root instance.
pub(crate) const ROOT: &str = "manifest";
/// The root orchestration.
pub(crate) const MANIFEST: &str = "Manifest";
/// One per folder.
pub(crate) const HASH_FOLDER: &str = "HashFolder";
/// Lists the folders of the tree.
pub(crate) const LIST_FOLDERS: &str = "ListFolders";
/// Lists the files of a folder.
pub(crate) const LIST_FILES: &str = "ListFiles";
/// Hashes one file.
pub(crate) const HASH_FILE: &str = "HashFile";
/// Writes the manifest.
pub(crate) const SEAL: &str = "SealManifest";
/// The event that the root waits for before it seals.
pub(crate) const RELEASE: &str = "release";
/// The custom status while it waits.
pub(crate) const WAITING: &str = "waiting for the event `release`";

const FOLDERS_AT_ONCE: usize = 32;
const FILES_AT_ONCE: usize = 64;
const SETTLE: Duration = Duration::from_millis(500);

/// What the root instance returns.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sealed {
    pub(crate) files: usize,
    pub(crate) digest: String,
}

/// What the activities work with.
#[derive(Debug)]
pub(crate) struct Workshop {
    pub(crate) root: PathBuf,
    /// Where the sealed manifest goes.
    pub(crate) manifest: PathBuf,
    pub(crate) ledger: Writer,
    /// Time that each file takes on top.
    pub(crate) pace: Duration,
}

/// The task that an activity is, by its name and input. The input of the last one is the whole manifest.
pub(crate) fn task(activity: &str, input: &str) -> Task {
    Task::new(activity, if activity == SEAL { "" } else { input })
}

/// The orchestrations.
pub(crate) fn orchestrations(workshop: &Arc<Workshop>) -> OrchestrationRegistry {
    let (for_root, for_folder) = (Arc::clone(workshop), Arc::clone(workshop));
    OrchestrationRegistry::builder()
        .register(MANIFEST, move |ctx: OrchestrationContext, _input: String| {
            note_turn(&for_root, MANIFEST, &ctx);
            make_manifest(ctx)
        })
        .register(HASH_FOLDER, move |ctx: OrchestrationContext, folder: String| {
            note_turn(&for_folder, HASH_FOLDER, &ctx);
            hash_folder(ctx, folder)
        })
        .build()
}

fn note_turn(workshop: &Workshop, name: &str, ctx: &OrchestrationContext) {
    let _ = workshop.ledger.note(Mark::Turn, Task::new(name, ctx.instance_id()));
}

async fn make_manifest(ctx: OrchestrationContext) -> Result<String, String> {
    let folders: Vec<String> = decode(&ctx.schedule_activity(LIST_FOLDERS, "").await?)?;
    let mut lines: Vec<Line> = Vec::new();
    let mut done = 0;
    for wave in folders.chunks(FOLDERS_AT_ONCE) {
        let children = wave.iter().map(|folder| {
            let id = format!("{}/{}", ctx.instance_id(), if folder.is_empty() { "." } else { folder });
            ctx.schedule_sub_orchestration_with_id(HASH_FOLDER, id, folder)
        });
        for result in ctx.join(children.collect()).await {
            lines.extend(decode::<Vec<Line>>(&result?)?);
        }
        done += wave.len();
        ctx.set_custom_status(format!("{done} of {} folders", folders.len()));
        ctx.set_kv_value("files", lines.len().to_string());
    }
    ctx.schedule_timer(SETTLE).await;
    ctx.set_custom_status(WAITING);
    ctx.schedule_wait(RELEASE).await;
    let sealed = ctx
        .schedule_activity_with_retry(SEAL, manifest::render(lines), retry())
        .await?;
    ctx.set_custom_status("sealed");
    Ok(sealed)
}

async fn hash_folder(ctx: OrchestrationContext, folder: String) -> Result<String, String> {
    let files: Vec<String> = decode(&ctx.schedule_activity_with_retry(LIST_FILES, folder, retry()).await?)?;
    let mut lines: Vec<Line> = Vec::new();
    for wave in files.chunks(FILES_AT_ONCE) {
        let hashes = wave
            .iter()
            .map(|file| ctx.schedule_activity_with_retry(HASH_FILE, file, retry()));
        for (file, digest) in wave.iter().zip(ctx.join(hashes.collect()).await) {
            lines.push((file.clone(), digest?));
        }
    }
    encode(&lines)
}

fn retry() -> RetryPolicy {
    RetryPolicy::new(3).with_backoff(BackoffStrategy::Fixed {
        delay: Duration::from_millis(200),
    })
}

/// The activities.
pub(crate) fn activities(workshop: &Arc<Workshop>) -> ActivityRegistry {
    let builder = ActivityRegistry::builder();
    let builder = builder.register(
        LIST_FOLDERS,
        activity(workshop, LIST_FOLDERS, |shop, _| list_folders(&shop.root)),
    );
    let builder = builder.register(
        LIST_FILES,
        activity(workshop, LIST_FILES, |shop, folder| {
            encode(&tree::list(&shop.root, folder).map_err(|error| error.to_string())?.files)
        }),
    );
    let builder = builder.register(
        HASH_FILE,
        activity(workshop, HASH_FILE, |shop, file| {
            std::thread::sleep(shop.pace);
            manifest::digest_file(&shop.root.join(file)).map_err(|error| format!("cannot read {file}: {error}"))
        }),
    );
    builder
        .register(SEAL, activity(workshop, SEAL, |shop, text| seal(&shop.manifest, text)))
        .build()
}

/// An activity as duroxide takes it: the work, between two lines in the ledger, on a thread that may block.
fn activity(
    workshop: &Arc<Workshop>,
    name: &'static str,
    work: fn(&Workshop, &str) -> Result<String, String>,
) -> impl Fn(ActivityContext, String) -> BoxedResult + Send + Sync + 'static {
    let workshop = Arc::clone(workshop);
    move |_ctx, input| {
        let workshop = Arc::clone(&workshop);
        Box::pin(async move {
            let whole = move || {
                let task = task(name, &input);
                let noted = |result: std::io::Result<()>| result.map_err(|error| format!("the ledger failed: {error}"));
                noted(workshop.ledger.note(Mark::Start, task.clone()))?;
                let result = work(&workshop, &input)?;
                noted(workshop.ledger.note(Mark::End, task))?;
                Ok(result)
            };
            tokio::task::spawn_blocking(whole)
                .await
                .map_err(|error| error.to_string())?
        })
    }
}

type BoxedResult = std::pin::Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

fn list_folders(root: &Path) -> Result<String, String> {
    let folders = tree::folders(root).map_err(|error| error.to_string())?;
    encode(&folders.into_iter().map(|(folder, _)| folder).collect::<Vec<_>>())
}

/// Writes the manifest in one step, so that running twice does no harm.
fn seal(path: &Path, text: &str) -> Result<String, String> {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text)
        .and_then(|()| std::fs::rename(&draft, path))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    encode(&Sealed {
        files: text.lines().count(),
        digest: manifest::digest_text(text),
    })
}

fn encode(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

fn decode<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}
