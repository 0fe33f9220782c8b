//! Histories that a claim of an activity vouches for.
//!
//! The runtime reads the history of an activity's instance right after it has fetched the activity, in the same task. The
//! claim has just told whether this process holds the whole history, so that read needs no question of its own: it is
//! answered as of the claim.
//!
//! Invariants: only the first read of the task that fetched is answered so, only of that instance, within [`FRESH`], and
//! only if the task has changed nothing in between; a history counts as held here only if this process acknowledged the
//! instance's last turn, so the answer never lacks what this process has acknowledged.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::Id;

use super::store::Store;

/// How old an answer may be: what another process acknowledges after the claim is not in it.
const FRESH: Duration = Duration::from_millis(20);
/// Beyond so many tasks, those that did not read after their fetch are forgotten.
const MANY: usize = 4096;

struct Vouched {
    store: usize,
    instance: String,
    instance_key: i64,
    at: Instant,
}

/// By task: a task may use several providers, and a change through one of them ends what another vouched for.
static VOUCHED: LazyLock<Mutex<HashMap<Id, Vouched>>> = LazyLock::new(Mutex::default);

fn lock() -> MutexGuard<'static, HashMap<Id, Vouched>> {
    VOUCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn identity(store: &Store) -> usize {
    std::ptr::from_ref(store).addr()
}

/// This task's claim has found that `store` holds the whole history of the instance.
pub(crate) fn vouch(store: &Store, instance: &str, instance_key: i64) {
    let Some(task) = tokio::task::try_id() else { return };
    let at = Instant::now();
    let mut vouched = lock();
    if vouched.len() >= MANY {
        vouched.retain(|_, v| at.saturating_duration_since(v.at) <= FRESH);
    }
    let entry = Vouched {
        store: identity(store),
        instance: instance.to_owned(),
        instance_key,
        at,
    };
    vouched.insert(task, entry);
}

/// Which history this task may read without asking, once.
pub(crate) fn take(store: &Store, instance: &str) -> Option<i64> {
    let vouched = lock().remove(&tokio::task::try_id()?)?;
    (vouched.store == identity(store) && vouched.instance == instance && vouched.at.elapsed() <= FRESH)
        .then_some(vouched.instance_key)
}

/// This task is about to change something.
pub(crate) fn forget() {
    if let Some(task) = tokio::task::try_id() {
        lock().remove(&task);
    }
}
