//! Trouble of the store itself: what an administrator can mend, and what is waited out. One gate a provider.
//!
//! While a call that ends or extends a lease fails for such a reason it is kept and repeated, one call at a time, and
//! nothing is claimed: what would be claimed could not be acknowledged, and would spend an attempt.
//!
//! Invariants: the gate is closed exactly while such a call is held, so whoever holds it is also the probe that opens it;
//! a [`Hold`] is a value whose `Drop` finishes it; a trouble is logged once, and once when it is over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use crate::background::Background;

/// Shortest and longest pause between two attempts of one call.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(1000));
/// The same, of a call that waits for an administrator.
const LONGEST_IN_TROUBLE: Duration = Duration::from_millis(3000);
/// A call under a lease that fails in passing for so long is trouble as well: nothing is claimed meanwhile.
const PASSING: Duration = Duration::from_secs(1);
/// So many of the missing objects and grants are named in a line.
const NAMED: usize = 8;

/// Why an attempt failed, as far as repeating it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setback {
    /// It passes, and the call was not done.
    Passing,
    /// It passes, and the call may have been done: the store knows for a limited time.
    InDoubt,
    /// The store is not as it must be.
    Trouble,
}

/// How long a call is repeated.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Patience {
    /// Until then, whatever it is that fails.
    Until(Instant),
    /// Until then, and through trouble of the store for the gate's time.
    Patient(Instant),
    /// It ends or extends a lease: until then while it is in doubt, otherwise until it is answered.
    Leased(Instant),
}

/// What an observer is told of one kind of call.
struct Entry {
    message: String,
    holds: usize,
}

struct State {
    entries: BTreeMap<&'static str, Entry>,
    /// Calls that keep the gate closed.
    closing: usize,
    /// Since when it is closed.
    closed_since: Option<Instant>,
    /// Since when there is an entry.
    since: Option<Instant>,
    /// What was found to be missing.
    missing: Vec<String>,
}

type Diagnosis = Box<dyn Fn(&Arc<Gate>) + Send + Sync>;

/// What one provider knows of its store's trouble, and whether it claims.
pub(crate) struct Gate {
    state: Mutex<State>,
    /// Copy of `State::closing`, to be asked often.
    closing: AtomicUsize,
    changed: Notify,
    probe: Arc<Semaphore>,
    ended: CancellationToken,
    timeout: Duration,
    diagnosis: OnceLock<Diagnosis>,
    /// Whose clock it waits by; `None`: the caller's runtime's.
    background: Option<Background>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate")
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl Gate {
    /// `timeout`: how long a caller waits for trouble to end.
    #[cfg(test)]
    pub(crate) fn new(timeout: Duration) -> Arc<Self> {
        Self::made(timeout, None)
    }

    /// The same, for whoever waits: also without a runtime.
    pub(crate) fn timed_by(background: Background, timeout: Duration) -> Arc<Self> {
        Self::made(timeout, Some(background))
    }

    fn made(timeout: Duration, background: Option<Background>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                entries: BTreeMap::new(),
                closing: 0,
                closed_since: None,
                since: None,
                missing: Vec::new(),
            }),
            closing: AtomicUsize::new(0),
            changed: Notify::new(),
            probe: Arc::new(Semaphore::new(1)),
            ended: CancellationToken::new(),
            timeout,
            diagnosis: OnceLock::new(),
            background,
        })
    }

    fn sleep(&self, time: Duration) -> Sleep {
        match self.background {
            Some(background) => background.sleep(time),
            None => tokio::time::sleep(time),
        }
    }

    /// Asks what is missing, when trouble begins; the answer goes to [`Gate::found`], which logs it.
    pub(crate) fn set_diagnosis(&self, diagnosis: impl Fn(&Arc<Self>) + Send + Sync + 'static) {
        let _ = self.diagnosis.set(Box::new(diagnosis));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing may be claimed.
    pub(crate) fn is_closed(&self) -> bool {
        self.closing.load(Ordering::Acquire) > 0
    }

    /// What the trouble is and what is missing; `None`: there is none.
    pub(crate) fn report(&self) -> Option<String> {
        let state = self.lock();
        if state.entries.is_empty() {
            return None;
        }
        let mut parts: Vec<String> = state
            .entries
            .iter()
            .map(|(operation, entry)| format!("{operation}: {}", entry.message))
            .collect();
        parts.extend(state.missing.iter().take(NAMED).cloned());
        if state.missing.len() > NAMED {
            parts.push(format!("and {} more", state.missing.len() - NAMED));
        }
        Some(parts.join("; "))
    }

    /// What a caller is told that does not wait, or has waited long enough.
    pub(crate) fn lasting(&self) -> Lasting {
        Lasting {
            lasted: self.closed_since().map_or(Duration::ZERO, |since| since.elapsed()),
            trouble: self.report().unwrap_or_default(),
        }
    }

    /// A call of this kind met trouble. `closes`: nothing is claimed while the value lives.
    pub(crate) fn hold(self: &Arc<Self>, operation: &'static str, message: String, closes: bool) -> Hold {
        let begins = {
            let mut state = self.lock();
            let begins = state.entries.is_empty();
            if begins {
                state.since = Some(Instant::now());
            }
            let entry = state.entries.entry(operation).or_insert(Entry {
                message: String::new(),
                holds: 0,
            });
            entry.message = message;
            entry.holds += 1;
            if closes {
                state.closing += 1;
                state.closed_since.get_or_insert_with(Instant::now);
                self.closing.store(state.closing, Ordering::Release);
            }
            begins
        };
        self.changed.notify_waiters();
        let hold = Hold {
            gate: Arc::clone(self),
            operation,
            closes,
        };
        if begins {
            metrics::counter!("steadfast_troubles_total").increment(1);
            match self.diagnosis.get() {
                Some(diagnosis) => diagnosis(self),
                None => self.found(Vec::new()),
            }
        }
        hold
    }

    /// The diagnosis, if the trouble still lasts: this is where it is logged.
    pub(crate) fn found(&self, missing: Vec<String>) {
        {
            let mut state = self.lock();
            if state.entries.is_empty() {
                return;
            }
            state.missing = missing;
        }
        let trouble = self.report().unwrap_or_default();
        tracing::error!(target: "steadfast", trouble,
            "the store is not as it must be; what is in hand is kept, and nothing is claimed that could not be acknowledged");
    }

    /// The provider closes: who is held gives up.
    pub(crate) fn end(&self) {
        self.ended.cancel();
    }

    /// Ends when a caller has waited for trouble long enough: so long has the gate been closed.
    pub(crate) async fn overdue(&self) -> Lasting {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(since) = self.closed_since() else {
                changed.await;
                continue;
            };
            tokio::select! {
                () = self.sleep(self.timeout.saturating_sub(since.elapsed())) => return self.lasting(),
                () = changed => {}
            }
        }
    }

    fn closed_since(&self) -> Option<Instant> {
        self.lock().closed_since
    }
}

/// A trouble that outlasts what a caller waits for.
#[derive(Debug, Clone)]
pub(crate) struct Lasting {
    pub(crate) lasted: Duration,
    pub(crate) trouble: String,
}

/// A call that meets trouble, as long as it lasts.
#[derive(Debug)]
pub(crate) struct Hold {
    gate: Arc<Gate>,
    operation: &'static str,
    closes: bool,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let over = {
            let mut state = self.gate.lock();
            if self.closes {
                state.closing -= 1;
                self.gate.closing.store(state.closing, Ordering::Release);
                if state.closing == 0 {
                    state.closed_since = None;
                }
            }
            if let Some(entry) = state.entries.get_mut(self.operation) {
                entry.holds -= 1;
                if entry.holds == 0 {
                    state.entries.remove(self.operation);
                }
            }
            let over = state.entries.is_empty();
            if over {
                state.missing.clear();
            }
            over.then(|| state.since.take()).flatten()
        };
        self.gate.changed.notify_waiters();
        if let Some(since) = over {
            tracing::info!(target: "steadfast", lasted_ms = since.elapsed().as_millis() as u64,
                operation = self.operation, "the store's trouble is over");
        }
    }
}

/// One call that is repeated.
pub(crate) struct Persistence {
    gate: Arc<Gate>,
    operation: &'static str,
    patience: Patience,
    begun: Instant,
    attempts: u32,
    in_doubt: bool,
    hold: Option<Hold>,
    /// One held call at a time tries.
    probe: Option<OwnedSemaphorePermit>,
}

impl Persistence {
    pub(crate) fn new(gate: &Arc<Gate>, operation: &'static str, patience: Patience) -> Self {
        Self::after(gate, operation, patience, None)
    }

    /// It was tried once before, as part of something else, which failed so.
    pub(crate) fn after(
        gate: &Arc<Gate>,
        operation: &'static str,
        patience: Patience,
        earlier: Option<Setback>,
    ) -> Self {
        Self {
            gate: Arc::clone(gate),
            operation,
            patience,
            begun: Instant::now(),
            attempts: u32::from(earlier.is_some()),
            in_doubt: earlier == Some(Setback::InDoubt),
            hold: None,
            probe: None,
        }
    }

    /// Whether an attempt failed: what a lease has lost meanwhile, trouble has cost.
    pub(crate) fn met_trouble(&self) -> bool {
        self.attempts > 0
    }

    /// What is repeated.
    pub(crate) fn operation(&self) -> &'static str {
        self.operation
    }

    /// How often it has failed.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Waits before the next attempt; `false` when there is to be none.
    pub(crate) async fn pause(&mut self, setback: Setback, message: impl FnOnce() -> String) -> bool {
        self.probe = None;
        self.attempts += 1;
        self.in_doubt |= setback == Setback::InDoubt;
        let trouble = setback == Setback::Trouble;
        let leased = matches!(self.patience, Patience::Leased(_));
        if self.hold.is_none() && (trouble || (leased && self.begun.elapsed() >= PASSING)) {
            self.hold = Some(self.gate.hold(self.operation, message(), leased));
        }
        let pause = self.length(trouble);
        if self.give_up(trouble).is_some_and(|at| Instant::now() + pause >= at) {
            return false;
        }
        metrics::counter!("steadfast_call_retries_total", "function" => self.operation).increment(1);
        if self.hold.is_none() {
            self.gate.sleep(pause).await;
            return true;
        }
        if self.gate.ended.is_cancelled() {
            return false;
        }
        let probe = async {
            self.gate.sleep(pause).await;
            // Closes never: nobody closes the semaphore.
            Arc::clone(&self.gate.probe).acquire_owned().await.ok()
        };
        let permit = tokio::select! {
            permit = probe => permit,
            // One last attempt.
            () = self.gate.ended.cancelled() => None,
        };
        self.probe = permit;
        true
    }

    /// When there is no next attempt any more.
    fn give_up(&self, trouble: bool) -> Option<Instant> {
        match self.patience {
            Patience::Until(at) => Some(at),
            Patience::Patient(_) if trouble && !self.in_doubt => Some(self.begun + self.gate.timeout),
            Patience::Leased(_) if !self.in_doubt => None,
            Patience::Patient(at) | Patience::Leased(at) => Some(at),
        }
    }

    /// Growing, bounded, with jitter so that many callers do not return as one.
    fn length(&self, trouble: bool) -> Duration {
        let longest = if trouble { LONGEST_IN_TROUBLE } else { PAUSE.1 };
        let step = (PAUSE.0 * (1 << self.attempts.min(10))).min(longest);
        step.mul_f64(0.5 + f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 512.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say() -> String {
        "no such function".to_owned()
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    /// A call under a lease is kept for hours, and the gate stays closed until it is answered.
    #[tokio::test(start_paused = true)]
    async fn a_leased_call_is_kept_and_closes_the_gate() {
        let gate = Gate::new(Duration::from_secs(3600));
        let mut call = Persistence::new(&gate, "ack", Patience::Leased(far()));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(7200) {
            assert!(call.pause(Setback::Trouble, say).await);
            assert!(gate.is_closed());
        }
        assert!(call.attempts() < 7200, "{} attempts", call.attempts());
        assert_eq!(gate.report().as_deref(), Some("ack: no such function"));
        drop(call);
        assert!(!gate.is_closed());
        assert_eq!(gate.report(), None);
    }

    /// What is in doubt is asked only as long as the store remembers it.
    #[tokio::test(start_paused = true)]
    async fn a_call_in_doubt_ends_with_its_lease() {
        let gate = Gate::new(Duration::from_secs(3600));
        let mut call = Persistence::new(&gate, "ack", Patience::Leased(far()));
        let begun = Instant::now();
        assert!(call.pause(Setback::InDoubt, say).await);
        while call.pause(Setback::Trouble, say).await {}
        assert!(begun.elapsed() <= Duration::from_secs(30));
    }

    /// A read or an arrival waits for the gate's time, and keeps nobody from claiming.
    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_lease_gives_up_in_the_end() {
        let gate = Gate::new(Duration::from_secs(600));
        let mut call = Persistence::new(&gate, "read", Patience::Patient(far()));
        let begun = Instant::now();
        while call.pause(Setback::Trouble, say).await {
            assert!(!gate.is_closed());
            assert!(gate.report().is_some());
        }
        assert!(begun.elapsed() > Duration::from_secs(590));
        let mut call = Persistence::new(&gate, "read", Patience::Patient(far()));
        let begun = Instant::now();
        while call.pause(Setback::Passing, say).await {}
        assert!(begun.elapsed() < Duration::from_secs(31));
    }

    /// Of many held calls one tries at a time.
    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time() {
        let gate = Gate::new(Duration::from_secs(3600));
        let trying = Arc::new(AtomicUsize::new(0));
        let calls = (0..20).map(|_| {
            let (gate, trying) = (Arc::clone(&gate), Arc::clone(&trying));
            tokio::spawn(async move {
                let mut call = Persistence::new(&gate, "ack", Patience::Leased(far()));
                for _ in 0..20 {
                    assert!(call.pause(Setback::Trouble, say).await);
                    assert_eq!(trying.fetch_add(1, Ordering::SeqCst), 0, "two probes at once");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    trying.fetch_sub(1, Ordering::SeqCst);
                }
            })
        });
        for call in futures_util::future::join_all(calls).await {
            call.expect("no panic");
        }
        assert!(!gate.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn callers_are_told_when_it_lasts_too_long() {
        let gate = Gate::new(Duration::from_secs(60));
        let begun = Instant::now();
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.overdue().await }
        });
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert!(!waiting.is_finished());
        let hold = gate.hold("ack", say(), true);
        waiting.await.expect("no panic");
        assert_eq!(begun.elapsed().as_secs(), 1060);
        drop(hold);
        assert!(
            tokio::time::timeout(Duration::from_secs(1000), gate.overdue())
                .await
                .is_err(),
            "a new trouble has its own time"
        );
    }

    /// A provider that closes does not wait for an administrator.
    #[tokio::test(start_paused = true)]
    async fn closing_ends_it() {
        let gate = Gate::new(Duration::from_secs(3600));
        let mut call = Persistence::new(&gate, "ack", Patience::Leased(far()));
        assert!(call.pause(Setback::Trouble, say).await);
        gate.end();
        assert!(!call.pause(Setback::Trouble, say).await);
    }
}
