//! The connections of a provider, and who waits for one.
//!
//! Attempts to connect are nobody's call: they are tasks of their own, and a call takes whichever connection is free
//! first, be it new or returned by another call. (Pools at hand either make the call wait for its own attempt, or do not
//! tell those who wait why there is no connection.)
//!
//! Invariants: never more than `size` connections and attempts together; nobody waits while a connection is idle; the
//! connection used last is lent first (its server process has its plans and pages at hand); a connection that was not
//! given back is closed; after a failure there is one attempt at a time, with pauses while other connections serve;
//! where there is no connection and the last attempt has failed, all who wait are told why.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::error::StoreError;
use crate::background::Background;

/// Opens connections.
pub(crate) trait Connect: Send + Sync + 'static {
    type Connection: Send + 'static;

    fn connect(&self) -> impl Future<Output = Result<Self::Connection, StoreError>> + Send;

    /// Whether an idle connection can still be used.
    fn is_open(connection: &Self::Connection) -> bool;
}

/// An attempt that takes longer has failed: whoever gives the password, or tells the addresses, does not answer.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(60);
/// Shortest and longest pause after a failed attempt while other connections serve.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

type Answer<C> = Result<<C as Connect>::Connection, StoreError>;

struct State<C: Connect> {
    /// The one used last is the last.
    idle: Vec<C::Connection>,
    /// Connections, idle or lent.
    open: usize,
    /// Attempts under way, or pausing.
    attempts: usize,
    /// First come, first served.
    waiting: VecDeque<oneshot::Sender<Answer<C>>>,
    /// Attempts that have failed since the last success, and why the last one did.
    failures: u32,
    trouble: Option<StoreError>,
    closed: bool,
}

struct Shared<C: Connect> {
    source: C,
    size: usize,
    background: Background,
    state: Mutex<State<C>>,
}

/// The pool; it lends connections.
pub(crate) struct Pool<C: Connect>(Arc<Shared<C>>);

impl<C: Connect> Pool<C> {
    pub(crate) fn new(source: C, size: usize, background: Background) -> Self {
        Self(Arc::new(Shared {
            source,
            size: size.max(1),
            background,
            state: Mutex::new(State {
                idle: Vec::new(),
                open: 0,
                attempts: 0,
                waiting: VecDeque::new(),
                failures: 0,
                trouble: None,
                closed: false,
            }),
        }))
    }

    /// The first connection that is free, within `patience`.
    pub(crate) async fn get(&self, patience: Duration) -> Result<Lent<C>, StoreError> {
        let mut place = {
            let mut state = self.0.lock();
            if state.closed {
                return Err(StoreError::Closed);
            }
            if let Some(connection) = state.take_idle() {
                return Ok(self.0.lend(connection));
            }
            let (answer, answered) = oneshot::channel();
            state.waiting.push_back(answer);
            Place {
                pool: &self.0,
                answered,
            }
        };
        self.0.connect_more();
        let answer = match self.0.background.timeout(patience, &mut place.answered).await {
            Ok(answer) => answer.unwrap_or(Err(StoreError::Closed)),
            // It may have been answered in this very moment.
            Err(_) => place.answered.try_recv().unwrap_or_else(|_| {
                let state = self.0.lock();
                let trouble = state.trouble.clone().filter(|_| state.open == 0);
                Err(trouble.unwrap_or(StoreError::PoolTimeout(patience)))
            }),
        };
        answer.map(|connection| self.0.lend(connection))
    }

    /// Connections now: (open, of those idle).
    pub(crate) fn connections(&self) -> (usize, usize) {
        let state = self.0.lock();
        (state.open, state.idle.len())
    }

    /// Closes idle connections; those that are lent close when they come back. Who waits is told.
    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.open -= state.idle.len();
        let idle = std::mem::take(&mut state.idle);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        drop(idle);
        tell(waiting, &StoreError::Closed);
    }
}

fn tell<K>(waiting: VecDeque<oneshot::Sender<Result<K, StoreError>>>, error: &StoreError) {
    for caller in waiting {
        // Nobody there: the caller gave up.
        let _ = caller.send(Err(error.clone()));
    }
}

impl<C: Connect> State<C> {
    fn take_idle(&mut self) -> Option<C::Connection> {
        while let Some(connection) = self.idle.pop() {
            if C::is_open(&connection) {
                return Some(connection);
            }
            self.open -= 1;
        }
        None
    }

    /// A connection is free: to the first who waits, or to the idle ones. It comes back where it must be closed.
    fn put(&mut self, mut connection: C::Connection) -> Option<C::Connection> {
        if self.closed || !C::is_open(&connection) {
            self.open -= 1;
            return Some(connection);
        }
        while let Some(caller) = self.waiting.pop_front() {
            match caller.send(Ok(connection)) {
                Err(Ok(refused)) => connection = refused,
                _ => return None,
            }
        }
        self.idle.push(connection);
        None
    }

    /// How many attempts are to begin now.
    fn wanted(&mut self, size: usize) -> usize {
        if self.closed {
            return 0;
        }
        self.waiting.retain(|caller| !caller.is_closed());
        let most = if self.failures == 0 { self.waiting.len() } else { 1 };
        let room = size.saturating_sub(self.open + self.attempts);
        most.min(self.waiting.len()).saturating_sub(self.attempts).min(room)
    }
}

impl<C: Connect> Shared<C> {
    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lend(self: &Arc<Self>, connection: C::Connection) -> Lent<C> {
        Lent {
            pool: Arc::clone(self),
            connection: Some(connection),
        }
    }

    fn put(self: &Arc<Self>, connection: C::Connection) {
        let refused = self.lock().put(connection);
        if refused.is_some() {
            self.connect_more();
        }
    }

    /// Begins attempts, as many as those who wait can use.
    fn connect_more(self: &Arc<Self>) {
        let wanted = {
            let mut state = self.lock();
            let wanted = state.wanted(self.size);
            state.attempts += wanted;
            wanted
        };
        for _ in 0..wanted {
            let attempt = Attempt {
                pool: Arc::clone(self),
                under_way: true,
            };
            self.background.spawn(attempt.run());
        }
    }
}

/// A caller's place among those who wait. Dropping it gives back a connection that came too late.
struct Place<'a, C: Connect> {
    pool: &'a Arc<Shared<C>>,
    answered: oneshot::Receiver<Answer<C>>,
}

impl<C: Connect> Drop for Place<'_, C> {
    fn drop(&mut self) {
        self.answered.close();
        if let Ok(Ok(connection)) = self.answered.try_recv() {
            self.pool.put(connection);
        }
    }
}

/// A connection in use. Unless it is given back it is closed: a call that was dropped half-way, with its future, leaves a
/// connection on which somebody else's answer is still to come.
pub(crate) struct Lent<C: Connect> {
    pool: Arc<Shared<C>>,
    connection: Option<C::Connection>,
}

impl<C: Connect> Lent<C> {
    pub(crate) fn connection(&mut self) -> Option<&mut C::Connection> {
        self.connection.as_mut()
    }

    /// Its state is known: others may use it.
    pub(crate) fn give_back(mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.put(connection);
        }
    }
}

impl<C: Connect> Drop for Lent<C> {
    fn drop(&mut self) {
        if self.connection.take().is_some() {
            self.pool.lock().open -= 1;
            self.pool.connect_more();
        }
    }
}

/// An attempt to connect. However it ends, its place is free again, and whoever has nothing else to hope for is told.
struct Attempt<C: Connect> {
    pool: Arc<Shared<C>>,
    under_way: bool,
}

impl<C: Connect> Attempt<C> {
    async fn run(mut self) {
        loop {
            let connecting = self.pool.source.connect();
            match tokio::time::timeout(LONGEST_ATTEMPT, connecting).await {
                Ok(Ok(connection)) => return self.succeeded(connection),
                Ok(Err(error)) => self.failed(error),
                Err(_) => self.failed(StoreError::Timeout(LONGEST_ATTEMPT)),
            }
            let Some(pause) = self.pause() else { return };
            tokio::time::sleep(pause).await;
            // Nobody may want it any more.
            if self.pool.lock().wanted_by_nobody() {
                return;
            }
        }
    }

    fn succeeded(mut self, connection: C::Connection) {
        self.under_way = false;
        let refused = {
            let mut state = self.pool.lock();
            state.attempts -= 1;
            state.open += 1;
            state.failures = 0;
            state.trouble = None;
            state.put(connection)
        };
        drop(refused);
        self.pool.connect_more();
    }

    fn failed(&self, error: StoreError) {
        let mut state = self.pool.lock();
        if state.failures == 0 {
            tracing::warn!(target: "steadfast", %error, open = state.open, "could not open a connection");
        }
        state.failures = state.failures.saturating_add(1);
        state.trouble = Some(error);
    }

    /// How long to wait before the next attempt. `None` when this one has ended: others are under way, nobody waits, or
    /// those who waited were told.
    fn pause(&mut self) -> Option<Duration> {
        let mut state = self.pool.lock();
        let goes_on = state.open > 0 && state.attempts == 1 && !state.wanted_by_nobody();
        let step = PAUSE.0.saturating_mul(1 << state.failures.min(8)).min(PAUSE.1);
        drop(state);
        if !goes_on {
            self.end();
        }
        // With jitter, so that many processes do not return as one.
        goes_on.then(|| step.mul_f64(0.5 + f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 512.0))
    }

    fn end(&mut self) {
        if !std::mem::take(&mut self.under_way) {
            return;
        }
        let mut state = self.pool.lock();
        state.attempts -= 1;
        if state.open > 0 || state.attempts > 0 {
            return;
        }
        let ended = || StoreError::Connection("an attempt to connect ended without a result".to_owned());
        let error = state.trouble.clone().unwrap_or_else(ended);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        tell(waiting, &error);
    }
}

impl<C: Connect> State<C> {
    fn wanted_by_nobody(&mut self) -> bool {
        self.waiting.retain(|caller| !caller.is_closed());
        self.closed || self.waiting.is_empty()
    }
}

impl<C: Connect> Drop for Attempt<C> {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
