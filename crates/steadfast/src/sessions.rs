//! Which session owners of this process may hold sessions, so that renewing and sweeping cost nothing while nobody does.
//!
//! Invariant: an owner that holds a session is always among the holders.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Which session owners of this process may hold sessions, so that renewing and sweeping cost no statement while
/// there is nothing to renew or sweep.
#[derive(Debug)]
pub(crate) struct Sessions {
    /// Owner to the moment by which its sessions have surely expired.
    held: Mutex<HashMap<String, Instant>>,
    /// A predecessor's sessions may be there: the first sweep is always made.
    unswept: AtomicBool,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            held: Mutex::new(HashMap::new()),
            unswept: AtomicBool::new(true),
        }
    }
}

impl Sessions {
    /// `owner` has taken or renewed a session for so long.
    pub(crate) fn took(&self, owner: &str, lease: Duration) {
        // A margin for the time that the answer took to arrive.
        if let Some(until) = Instant::now().checked_add(lease.saturating_add(Duration::from_secs(5))) {
            self.lock().insert(owner.to_owned(), until);
        }
        self.unswept.store(true, Ordering::Relaxed);
    }

    /// Those of `owners` that may hold sessions.
    pub(crate) fn holders<'a>(&self, owners: &[&'a str]) -> Vec<&'a str> {
        let now = Instant::now();
        let mut held = self.lock();
        held.retain(|_, until| *until > now);
        owners.iter().filter(|o| held.contains_key(**o)).copied().collect()
    }

    /// Whether `owner` may hold a session.
    pub(crate) fn may_hold(&self, owner: &str) -> bool {
        self.lock().get(owner).is_some_and(|until| *until > Instant::now())
    }

    /// Whether there may be something to sweep; forgets it when nobody here holds a session any more.
    pub(crate) fn should_sweep(&self) -> bool {
        let now = Instant::now();
        let mut held = self.lock();
        held.retain(|_, until| *until > now);
        if held.is_empty() {
            self.unswept.swap(false, Ordering::Relaxed)
        } else {
            true
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
