//! Before anything else happens: work is put into an idle store, by a process that does nothing else, while every hint is lost.
//!
//! Invariant: nothing but the safety poll can show the work to the workers; the checker looks at when each began.

use std::time::Duration;

use anyhow::Result;

use super::Run;
use super::crew::{Member, Role};
use super::ledger::Fact;
use super::place::Inner;
use super::worker::{WORK_LEASE, Word};
use super::workflows;

/// On top of the safety poll: a turn, and the hand-over of an activity, on a busy machine.
const MARGIN: Duration = Duration::from_secs(3);
/// A file's waiters look at it by themselves, this often at the least.
const FILE_POLL: Duration = Duration::from_secs(1);
/// Pieces of work.
const PIECES: usize = 4;

/// Work for idle workers. `safety`: how often they look by themselves.
pub(crate) async fn work(run: &mut Run, safety: Duration) -> Result<()> {
    for member in run.crew.iter_mut().filter(|member| member.role == Role::Worker) {
        member.start()?;
    }
    let (store, client) = run.bystander().await?;
    // Time to start, and to fall asleep.
    client
        .start_orchestration("probe-first", "child", workflows::input(1))
        .await?;
    // A planted defect may keep it from being found: then the others show it.
    let _ = client
        .wait_for_orchestration("probe-first", Duration::from_secs(10))
        .await;
    // Not before the leases just given have passed: a process looks again when one that it knows of ends, and that look
    // would find the work without any hint.
    tokio::time::sleep(WORK_LEASE + Duration::from_secs(2)).await;
    deafen(&mut run.crew, true).await?;
    let interval = if run.server.is_some() { safety } else { FILE_POLL };
    let within = interval + MARGIN;
    let ids: Vec<String> = (0..PIECES).map(|piece| format!("probe-idle-{piece}")).collect();
    for instance in &ids {
        client
            .start_orchestration(instance, "child", workflows::input(1))
            .await?;
        run.ledger.note(Fact::Expected {
            instance: instance.clone(),
            within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        });
        tokio::time::sleep(interval / 5).await;
    }
    for instance in &ids {
        if client.wait_for_orchestration(instance, within).await.is_err() {
            // One is enough to fail the run.
            break;
        }
    }
    deafen(&mut run.crew, false).await?;
    store.provider.close().await;
    Ok(())
}

/// Workers hear no hint, or do so again.
async fn deafen(crew: &mut [Member], deaf: bool) -> Result<()> {
    for member in crew.iter_mut().filter(|member| member.role == Role::Worker) {
        member.say(&Word::Inner(Inner::LoseHints(deaf))).await?;
    }
    Ok(())
}
