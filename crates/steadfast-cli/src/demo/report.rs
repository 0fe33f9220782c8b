//! What the demo says at the end.
//!
//! Invariant: every number in it was counted or measured in this run.

use serde::Serialize;

use crate::{
    demo::{job, manifest, snapshot::Snapshot, verdict::Verdict},
    error::CliError,
    output::Output,
};

/// Names of files that differ, shown before "and more".
const SHOWN: usize = 5;

/// The result of one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) directory: String,
    pub(crate) store: String,
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    pub(crate) folders_unfinished_at_kill: usize,
    pub(crate) instances: usize,
    pub(crate) instances_unfinished_at_kill: usize,
    pub(crate) events_before: u64,
    pub(crate) events_after: u64,
    pub(crate) turns_before: usize,
    pub(crate) turns_after: usize,
    pub(crate) activities: usize,
    pub(crate) activities_run: usize,
    pub(crate) completed_before: usize,
    pub(crate) run_twice_in_flight: usize,
    pub(crate) run_twice_unacknowledged: usize,
    pub(crate) files_per_second_before: f64,
    pub(crate) files_per_second_after: f64,
    pub(crate) first_sign_ms: u64,
    pub(crate) takeover_ms: Option<u64>,
    pub(crate) digest: String,
    pub(crate) faults: Vec<String>,
}

/// What the report is made from, beside the verdict.
#[derive(Debug)]
pub(crate) struct Findings<'a> {
    pub(crate) before: &'a Snapshot,
    pub(crate) after: &'a Snapshot,
    /// What the root instance returned.
    pub(crate) sealed: &'a job::Sealed,
    /// The manifest as the workflow wrote it.
    pub(crate) written: &'a str,
    /// The manifest as this process computed it, and the bytes it read.
    pub(crate) computed: &'a (String, u64),
}

impl Report {
    /// Puts it together, and checks what the verdict cannot see: the instances and the manifest.
    pub(crate) fn new(directory: String, store: String, verdict: Verdict, findings: &Findings<'_>) -> Self {
        let Findings {
            before,
            after,
            sealed,
            computed,
            ..
        } = findings;
        let mut faults = verdict.faults;
        faults.extend(
            after
                .not_completed()
                .iter()
                .map(|id| format!("instance {id:?} did not complete")),
        );
        faults.extend(manifest_fault(findings));
        let folders = before.unfinished(job::HASH_FOLDER);
        Self {
            directory,
            store,
            files: sealed.files,
            bytes: computed.1,
            folders_unfinished_at_kill: folders,
            instances: after.instances.len(),
            instances_unfinished_at_kill: folders + before.unfinished(job::MANIFEST),
            events_before: before.events,
            events_after: after.events,
            turns_before: verdict.turns_before,
            turns_after: verdict.turns_after,
            activities: verdict.tasks,
            activities_run: verdict.runs,
            completed_before: before.completed.len(),
            run_twice_in_flight: verdict.interrupted,
            run_twice_unacknowledged: verdict.unacknowledged,
            files_per_second_before: verdict.rate_before.round(),
            files_per_second_after: verdict.rate_after.round(),
            first_sign_ms: verdict.first_sign_ms,
            takeover_ms: verdict.takeover_ms,
            digest: sealed.digest.clone(),
            faults,
        }
    }

    /// Prints it.
    pub(crate) fn print(&self, output: &mut Output) -> Result<(), CliError> {
        if output.is_json() {
            return output.json(self);
        }
        for (name, text) in self.rows() {
            output.line(format_args!("{name:<12}{text}"))?;
        }
        Ok(())
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            (
                "job",
                format!(
                    "SHA-256 of {} files ({} bytes) below {}",
                    self.files, self.bytes, self.directory
                ),
            ),
            ("resumed", self.resumed()),
            (
                "turns",
                format!("{} before the kill, {} after; ", self.turns_before, self.turns_after)
                    + &format!(
                        "events in the histories: {}, then {}",
                        self.events_before, self.events_after
                    ),
            ),
            (
                "activities",
                format!(
                    "{} in all, {} of them completed in a history at the kill",
                    self.activities, self.completed_before
                ),
            ),
            ("run", format!("{} times: {}", self.activities_run, self.run_twice())),
            (
                "speed",
                format!(
                    "{} files/s before the kill, {} after it (while there was work: waits for leases not counted)",
                    self.files_per_second_before, self.files_per_second_after
                ),
            ),
            ("takeover", self.takeover()),
        ];
        if self.faults.is_empty() {
            rows.push((
                "manifest",
                format!("{} (the same as computed here, without a workflow)", self.digest),
            ));
            rows.push((
                "verdict",
                "nothing lost; nothing that a history had as completed ran again".to_owned(),
            ));
        }
        rows
    }

    fn takeover(&self) -> String {
        let seconds = |ms: u64| match ms {
            0..1_000 => format!("{ms} ms"),
            _ => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        };
        let first = format!(
            "first turn or activity {} after the kill, ",
            seconds(self.first_sign_ms)
        );
        first
            + &match self.takeover_ms {
                Some(ms) => format!("the last activity of the dead worker {} after it", seconds(ms)),
                None => "no activity of the dead worker was left to run".to_owned(),
            }
    }

    fn resumed(&self) -> String {
        let (unfinished, all) = (self.instances_unfinished_at_kill, self.instances);
        let folders = self.folders_unfinished_at_kill;
        format!(
            "{unfinished} instances unfinished at the kill (1 {}, {folders} {}), ",
            job::MANIFEST,
            job::HASH_FOLDER
        ) + &format!("of {all} in the end")
    }

    fn run_twice(&self) -> String {
        let (in_flight, unacknowledged) = (self.run_twice_in_flight, self.run_twice_unacknowledged);
        format!(
            "{} ran twice ({in_flight} in flight at the kill, ",
            in_flight + unacknowledged
        ) + &format!("{unacknowledged} done but not yet acknowledged)")
    }
}

fn manifest_fault(findings: &Findings<'_>) -> Option<String> {
    let Findings {
        sealed,
        written,
        computed,
        ..
    } = findings;
    if manifest::digest_text(written) != sealed.digest {
        return Some("the manifest in the file is not the one that the workflow returned".to_owned());
    }
    let names = manifest::differences(written, &computed.0);
    if names.is_empty() && *written == computed.0 {
        return None;
    }
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let more = if names.len() > SHOWN { " and more" } else { "" };
    Some(format!(
        "the manifest differs from the tree as it is now in {} files (were they changed meanwhile?): {}{more}",
        names.len(),
        shown.join(", ")
    ))
}
