//! Readers: threads with connections of their own, which the writer never waits for.
//!
//! Invariant: a read sees everything that was committed before it was handed in.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

/// Something to be done on a connection.
pub(crate) type Question = Box<dyn FnOnce(&Connection) + Send>;

#[derive(Default)]
struct State {
    questions: VecDeque<Question>,
    closed: bool,
    /// Readers that have the file open.
    serving: usize,
}

/// Where questions wait for a reader.
#[derive(Default)]
pub(crate) struct Readers {
    state: Mutex<State>,
    bell: Condvar,
}

/// So many questions share one look at the file (its locks are taken once), if there is nobody else to take them.
const TOGETHER: usize = 16;

impl Readers {
    /// For so many readers, which are to [`serve`](Self::serve).
    pub(crate) fn of(count: usize) -> Self {
        let readers = Self::default();
        readers.lock().serving = count;
        readers
    }

    /// Waits until all of them have closed the file.
    pub(crate) fn wait_until_gone(&self) {
        let mut state = self.lock();
        while state.serving > 0 {
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands a question in. `false` when there is nobody to take it any more.
    pub(crate) fn ask(&self, question: Question) -> bool {
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.questions.push_back(question);
        drop(state);
        self.bell.notify_one();
        true
    }

    /// Takes no more questions; those that wait are still answered.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_all();
    }

    /// A reader's life.
    pub(crate) fn serve(self: Arc<Self>, connection: Connection, readers: usize) {
        while let Some(questions) = self.next(readers) {
            // One snapshot, begun after all of them were asked.
            let begun = connection.execute_batch("BEGIN").is_ok();
            for question in questions {
                question(&connection);
            }
            if begun && let Err(error) = connection.execute_batch("COMMIT") {
                tracing::debug!(target: "steadfast", %error, "a reader could not end its look");
                let _ = connection.execute_batch("ROLLBACK");
            }
        }
        drop(connection);
        self.lock().serving -= 1;
        self.bell.notify_all();
    }

    fn next(&self, readers: usize) -> Option<Vec<Question>> {
        let mut state = self.lock();
        loop {
            if !state.questions.is_empty() {
                let fair = state.questions.len().div_ceil(readers).min(TOGETHER);
                return Some(state.questions.drain(..fair).collect());
            }
            if state.closed {
                return None;
            }
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
