//! Defects that are planted to see that the checker finds them.
//!
//! Invariant: they live in the run's own schema, or in a worker of a build with the feature `faults`; no other store or build
//! can have them.

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::place::Settings;
use super::server::Server;

/// What a worker whose clock is wrong is called by the server.
const SKEWED: &str = "steadfast-skewed";

/// A defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Plant {
    /// Leases of activities are judged by the clock of the worker that claims, and one worker's is wrong.
    ClientClock,
    /// Every fifth queued event is lost.
    LostEvent,
    /// Completions are delivered and the activity stays.
    AckWithoutEnd,
    /// Hints are lost and nothing makes that good.
    LostHints,
    /// Writers give their events positions in the feed by themselves.
    FeedWithoutAssigner,
}

impl Plant {
    pub(crate) async fn into_store(self, server: &Server) -> Result<()> {
        let sql = match self {
            Self::ClientClock => {
                let clock = format!(
                    "clock_timestamp() + CASE WHEN current_setting('application_name') = '{SKEWED}'
                     THEN interval '5 minutes' ELSE interval '0' END;"
                );
                faulty(
                    include_str!("../../../steadfast/sql/functions/fetch_work_item.sql"),
                    "clock_timestamp();",
                    &clock,
                )?
            }
            Self::LostEvent => "CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN IF NEW.kind = 3 AND NEW.message_id % 5 = 0 THEN RETURN NULL; END IF; RETURN NEW; END $$;
                 CREATE TRIGGER planted BEFORE INSERT ON sf_inbox FOR EACH ROW EXECUTE FUNCTION planted();"
                .to_owned(),
            Self::AckWithoutEnd => "CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN IF OLD.work_id % 20 = 0 AND OLD.attempt_count < 2 THEN
                     UPDATE sf_work SET available_at = clock_timestamp(), claim = 0 WHERE work_id = OLD.work_id;
                     RETURN NULL;
                 END IF; RETURN OLD; END $$;
                 CREATE TRIGGER planted BEFORE DELETE ON sf_work FOR EACH ROW EXECUTE FUNCTION planted();"
                .to_owned(),
            Self::FeedWithoutAssigner => {
                let placed = "INSERT INTO sf_feed
                    SELECT (SELECT max(nextval('planted_position')) FROM unnest(r.kinds)), r.mark, r.at, r.instance_key,
                           r.instance_id, r.execution_id, r.orchestration_name, r.event_ids, r.kinds
                    FROM unnest(v_rows) r;
                    RETURN;
                    IF (SELECT h.filling FROM sf_feed_head h) = 0 THEN";
                let append = faulty(
                    include_str!("../../../steadfast/sql/functions/feed_append.sql"),
                    "IF (SELECT h.filling FROM sf_feed_head h) = 0 THEN",
                    placed,
                )?;
                format!("CREATE SEQUENCE planted_position; {append}")
            }
            Self::LostHints => return Ok(()),
        };
        Ok(server.connect().await?.batch_execute(&sql).await?)
    }

    pub(crate) fn into_worker(self, slot: usize, settings: &mut Settings) {
        match self {
            Self::ClientClock if slot == 0 => settings.application_name = Some(SKEWED.to_owned()),
            Self::LostHints => {
                settings.deaf = true;
                settings.fallback_ms = Some(3_600_000);
            }
            _ => {}
        }
    }
}

/// A stored function with a part of it replaced.
fn faulty(function: &str, part: &str, by: &str) -> Result<String> {
    ensure!(function.contains(part), "the defect cannot be planted any more: {part}");
    Ok(function.replace(part, by))
}
