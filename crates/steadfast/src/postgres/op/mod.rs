//! One operation a file: its parameters, its rows, and what follows from it. The stem names the stored function too.
//!
//! Invariant: an operation talks to PostgreSQL only through the pipe, with one call.

pub(crate) mod abandon_orchestration_item;
pub(crate) mod abandon_work_item;
pub(crate) mod ack_orchestration_item;
pub(crate) mod ack_work_item;
pub(crate) mod append_with_execution;
pub(crate) mod cleanup_orphaned_sessions;
pub(crate) mod delete_instances;
pub(crate) mod enqueue_for_orchestrator;
pub(crate) mod enqueue_for_worker;
pub(crate) mod export_rows;
pub(crate) mod fetch_orchestration_item;
pub(crate) mod fetch_work_item;
pub(crate) mod get_custom_status;
pub(crate) mod get_instance_stats;
pub(crate) mod get_kv;
pub(crate) mod history_size;
pub(crate) mod instance_detail;
pub(crate) mod list_children;
pub(crate) mod list_executions;
pub(crate) mod list_instances;
pub(crate) mod pending_instances;
pub(crate) mod prune_executions;
pub(crate) mod queue_depths;
pub(crate) mod queue_report;
pub(crate) mod read;
pub(crate) mod renew_orchestration_item_lock;
pub(crate) mod renew_session_lock;
pub(crate) mod renew_work_item_lock;
pub(crate) mod system_metrics;
pub(crate) mod take_staged;
pub(crate) mod waiting_workers;
