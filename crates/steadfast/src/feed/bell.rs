//! A bell within a process: rung when something may have changed, heard by those who wait.
//!
//! Invariant: whoever noted the number of rings before it looked misses none after.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// Rung by writers and listeners of this process.
#[derive(Debug)]
pub(crate) struct Bell {
    rings: watch::Sender<u64>,
    waiting: AtomicUsize,
    /// Rings from other processes arrive.
    reaches_far: watch::Sender<bool>,
}

impl Default for Bell {
    fn default() -> Self {
        Self {
            rings: watch::Sender::new(0),
            waiting: AtomicUsize::new(0),
            reaches_far: watch::Sender::new(false),
        }
    }
}

impl Bell {
    pub(crate) fn ring(&self) {
        self.rings.send_modify(|rings| *rings = rings.wrapping_add(1));
    }

    pub(crate) fn rings(&self) -> u64 {
        *self.rings.borrow()
    }

    /// Whether other processes' rings arrive from now on. A change is a ring: something may have been missed.
    pub(crate) fn reaches_far(&self, far: bool) {
        self.reaches_far.send_replace(far);
        self.ring();
    }

    pub(crate) fn hears_far(&self) -> bool {
        *self.reaches_far.borrow()
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Returns when it was rung since `seen`, `true`, or when the time has passed.
    pub(crate) async fn wait(&self, seen: u64, timeout: Duration) -> bool {
        let _here = Here::new(&self.waiting);
        let mut rings = self.rings.subscribe();
        let rung = rings.wait_for(|rings| *rings != seen);
        tokio::time::timeout(timeout, rung).await.is_ok()
    }
}

/// Counts somebody for as long as it lives, however a wait ends.
struct Here<'a>(&'a AtomicUsize);

impl<'a> Here<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
