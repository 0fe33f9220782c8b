//! The SQL files, as they stand under `sql/`.
//!
//! Invariant: every file under `sql/tables`, `sql/functions` and `sql/views` is listed here (tested), and each
//! function file defines the function `sf_<stem>`.

macro_rules! files {
    ($folder:literal: $($stem:literal),* $(,)?) => {
        &[$(($stem, include_str!(concat!("../../../sql/", $folder, "/", $stem, ".sql")))),*]
    };
}

/// Table migrations in order: number, name, text. Immutable once released.
pub(super) const MIGRATIONS: &[(u32, &str, &str)] = &[
    (1, "0001_store", include_str!("../../../sql/tables/0001_store.sql")),
    (2, "0002_copied", include_str!("../../../sql/tables/0002_copied.sql")),
    (3, "0003_feed", include_str!("../../../sql/tables/0003_feed.sql")),
    (4, "0004_apart", include_str!("../../../sql/tables/0004_apart.sql")),
    (5, "0005_pending", include_str!("../../../sql/tables/0005_pending.sql")),
    (
        6,
        "0006_feed_liveness",
        include_str!("../../../sql/tables/0006_feed_liveness.sql"),
    ),
    (
        7,
        "0007_work_bytes",
        include_str!("../../../sql/tables/0007_work_bytes.sql"),
    ),
];

/// Stored functions, today's definitions.
pub(super) const FUNCTIONS: &[(&str, &str)] = files!("functions":
    "abandon_orchestration_item",
    "abandon_work_item",
    "ack_kv",
    "ack_metadata",
    "ack_orchestration_item",
    "ack_work_item",
    "append_with_execution",
    "batch_close",
    "batch_open",
    "claim_instances",
    "claim_sessions",
    "claim_starts",
    "claimed_turns",
    "cleanup_orphaned_sessions",
    "deletable_instances",
    "delete_instances",
    "enqueue_for_orchestrator",
    "enqueue_for_worker",
    "export_rows",
    "feed_append",
    "feed_assign",
    "feed_commit",
    "feed_new_epoch",
    "feed_note",
    "feed_payloads",
    "feed_read",
    "feed_report",
    "feed_rotate",
    "feed_trim",
    "fetch_orchestration_item",
    "fetch_work_item",
    "get_custom_status",
    "get_instance_stats",
    "get_kv",
    "handed_work",
    "history_changed",
    "history_size",
    "hold_messages",
    "inbox_head",
    "inbox_park",
    "insert_work",
    "instance_detail",
    "isolate",
    "isolate_turns",
    "isolate_work",
    "list_children",
    "list_executions",
    "list_instances",
    "lock_cancelled",
    "lock_work",
    "look_ahead",
    "look_read",
    "look_recent",
    "look_since",
    "pending_instances",
    "poll_due",
    "poll_waiting",
    "prunable_instances",
    "prune_executions",
    "quarantine_messages",
    "quarantine_work_item",
    "queue_depths",
    "queue_report",
    "read_history",
    "release_held",
    "renew_orchestration_item_lock",
    "renew_session_lock",
    "renew_work_item_lock",
    "route_claimed",
    "session_next_due",
    "stage_rows",
    "system_metrics",
    "take_staged",
    "text_of",
    "touch_sessions",
    "transfer_state",
    "turn_heads",
    "turn_next_due",
    "turn_reschedule",
    "waiting_workers",
    "work_next_due",
    "work_tags",
);

/// Views for people.
pub(super) const VIEWS: &[(&str, &str)] = files!("views":
    "history",
    "instances",
    "work",
);

/// Names that follow `what` at the beginning of a line.
fn created(text: &'static str, what: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines()
        .filter_map(move |l| l.strip_prefix(what))
        .filter_map(|l| l.split([' ', '(', ';']).next())
}

/// Names of the tables that migrations make, without the ledger.
pub(in crate::postgres) fn tables() -> impl Iterator<Item = &'static str> {
    MIGRATIONS
        .iter()
        .flat_map(|(_, _, text)| created(text, "CREATE TABLE "))
}

/// Names of the sequences that migrations make by name.
pub(in crate::postgres) fn sequences() -> impl Iterator<Item = &'static str> {
    MIGRATIONS
        .iter()
        .flat_map(|(_, _, text)| created(text, "CREATE SEQUENCE "))
}

/// Names of our tables and views.
pub(super) fn relations() -> Vec<String> {
    tables()
        .chain(
            VIEWS
                .iter()
                .flat_map(|(_, text)| created(text, "CREATE OR REPLACE VIEW ")),
        )
        .chain(["sf_ledger"])
        .map(str::to_owned)
        .collect()
}

/// Names of our functions.
pub(in crate::postgres) fn functions() -> Vec<String> {
    FUNCTIONS.iter().map(|(stem, _)| format!("sf_{stem}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_listed_and_defines_what_its_name_says() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sql");
        let stems = |folder: &str| -> Vec<String> {
            let mut stems: Vec<String> = std::fs::read_dir(root.join(folder))
                .unwrap()
                .map(|f| f.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
                .collect();
            stems.sort();
            stems
        };
        assert_eq!(
            stems("functions"),
            FUNCTIONS.iter().map(|(n, _)| *n).collect::<Vec<_>>()
        );
        assert_eq!(stems("views"), VIEWS.iter().map(|(n, _)| *n).collect::<Vec<_>>());
        assert_eq!(
            stems("tables"),
            MIGRATIONS.iter().map(|(_, n, _)| *n).collect::<Vec<_>>()
        );
        for (stem, text) in FUNCTIONS {
            assert!(text.starts_with(&format!("-- sf_{stem}: ")), "{stem}: header");
            assert!(
                text.contains(&format!("CREATE OR REPLACE FUNCTION sf_{stem}(")),
                "{stem}: definition"
            );
            assert!(
                text.contains("\n-- Called by: ") && text.contains("\n-- Locks: "),
                "{stem}: header fields"
            );
        }
        assert!(relations().contains(&"sf_turn".to_owned()) && relations().contains(&"sf_history".to_owned()));
    }
}
