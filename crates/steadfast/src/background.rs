//! Where a provider's own work runs: one Tokio runtime of this library, whatever becomes of its callers' runtimes.
//!
//! Callers come from runtimes that may end, or stand still, at any moment, or from none. What they have handed in is
//! still to be sent, answered and given back, and what has been opened for them (connections, the listener) serves
//! others as well. So none of it lives in a runtime of theirs.
//!
//! Invariants: it is started by the first provider and ends with the process, so a task that was spawned runs to its
//! end, and a `Drop` that spawns is never refused; nothing here waits for a caller's runtime.

use std::future::Future;
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{Sleep, Timeout};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerWaitFuture;

/// Never dropped: statics are not.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Threads at most: they wait for servers, and read what comes.
const THREADS: usize = 4;

/// The running background; copies are one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Background(&'static Handle);

impl Background {
    /// Starts it, unless it runs.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start() -> io::Result<Self> {
        static STARTING: Mutex<()> = Mutex::new(());
        let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = match RUNTIME.get() {
            Some(runtime) => runtime,
            None => {
                let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS));
                let runtime = Builder::new_multi_thread()
                    .worker_threads(threads)
                    .thread_name("steadfast")
                    .enable_all()
                    .build()?;
                RUNTIME.get_or_init(|| runtime)
            }
        };
        Ok(Self(runtime.handle()))
    }

    /// Runs `work` to its end.
    pub(crate) fn spawn<F>(self, work: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        drop(self.0.spawn(work));
    }

    /// As [`tokio::time::timeout`], for whoever polls it: also without a runtime.
    pub(crate) fn timeout<F: Future>(self, limit: Duration, work: F) -> Timeout<F> {
        let _here = self.0.enter();
        tokio::time::timeout(limit, work)
    }

    /// As [`tokio::time::sleep`], for whoever polls it: also without a runtime.
    pub(crate) fn sleep(self, time: Duration) -> Sleep {
        let _here = self.0.enter();
        tokio::time::sleep(time)
    }
}

/// The tasks of one provider, in the background.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    background: Background,
}

impl Tasks {
    pub(crate) fn new(background: Background) -> Self {
        Self {
            tracker: TaskTracker::new(),
            background,
        }
    }

    /// Runs `work` to its end, from wherever this is called.
    pub(crate) fn spawn<F>(&self, work: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        drop(self.tracker.spawn_on(work, self.background.0));
    }

    /// From now on [`wait`](Self::wait) may return.
    pub(crate) fn close(&self) {
        self.tracker.close();
    }

    /// Whether none is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Returns when none is under way.
    pub(crate) fn wait(&self) -> TaskTrackerWaitFuture<'_> {
        self.tracker.wait()
    }
}
