//! Points where tests make the provider fail. Without the feature `fault-injection` nothing here has a size or a
//! cost, and nothing can be injected.
//!
//! Invariant: an injected fault does nothing that a real one could not do.

#[cfg(feature = "fault-injection")]
pub use injected::{Faults, Rule};

/// Before the call is sent, or after its answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The request has not left.
    Before,
    /// The server has done its work.
    After,
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The server answers with this SQLSTATE.
    Error(&'static str),
    /// The connection breaks.
    Cut,
}

#[cfg(not(feature = "fault-injection"))]
pub(crate) use absent::Faults;

#[cfg(not(feature = "fault-injection"))]
mod absent {
    use super::{Fault, When};

    /// No faults.
    #[derive(Debug, Clone)]
    pub(crate) struct Faults;

    impl Faults {
        #[inline]
        pub(crate) fn none() -> Self {
            Self
        }
        #[inline]
        pub(crate) async fn strike(&self, _: &str, _: When) -> Option<Fault> {
            None
        }
        /// For callers that have a thread of their own.
        #[cfg(feature = "embedded")]
        #[inline]
        pub(crate) fn strike_now(&self, _: &str, _: When) -> Option<Fault> {
            None
        }
        #[inline]
        pub(crate) fn hint_lost(&self) -> bool {
            false
        }
        #[inline]
        pub(crate) fn listener_generation(&self) -> u64 {
            0
        }
        #[inline]
        pub(crate) fn skewed_ms(&self, at_ms: i64) -> i64 {
            at_ms
        }
    }
}

#[cfg(feature = "fault-injection")]
mod injected {
    use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
    use std::sync::{Arc, Mutex, PoisonError};
    use std::time::Duration;

    use super::{Fault, When};

    /// One fault to come.
    #[derive(Debug, Clone)]
    pub struct Rule {
        /// Name of the stored function, e.g. `sf_ack_work_item`; empty for any.
        pub function: &'static str,
        /// Before or after the call.
        pub when: When,
        /// Waits this long first.
        pub delay: Duration,
        /// Then this happens; `None`: only the delay.
        pub fault: Option<Fault>,
        /// For so many calls.
        pub times: u32,
    }

    #[derive(Debug, Default)]
    struct State {
        rules: Mutex<Vec<Rule>>,
        struck: AtomicU64,
        lose_hints: AtomicBool,
        listener_generation: AtomicU64,
        clock_skew_ms: AtomicI64,
    }

    /// Handle through which a test makes one provider fail; clones share it.
    #[derive(Debug, Clone, Default)]
    pub struct Faults(Arc<State>);

    impl Faults {
        /// Nothing fails yet.
        #[must_use]
        pub fn new() -> Self {
            Self::default()
        }

        /// Adds a rule; earlier rules strike first.
        pub fn add(&self, rule: Rule) {
            self.0.rules.lock().unwrap_or_else(PoisonError::into_inner).push(rule);
        }

        /// How many calls were struck so far.
        #[must_use]
        pub fn struck(&self) -> u64 {
            self.0.struck.load(Ordering::SeqCst)
        }

        /// Hints that arrive from other processes are dropped while this is on.
        pub fn lose_hints(&self, on: bool) {
            self.0.lose_hints.store(on, Ordering::SeqCst);
        }

        /// Breaks the listener's connection once.
        pub fn drop_listener(&self) {
            self.0.listener_generation.fetch_add(1, Ordering::SeqCst);
        }

        /// The process believes that it is so much later (negative: earlier). It can only change the due times of
        /// its own timers, which is what a test wants to see.
        pub fn set_clock_skew_ms(&self, skew_ms: i64) {
            self.0.clock_skew_ms.store(skew_ms, Ordering::SeqCst);
        }

        pub(crate) fn none() -> Self {
            Self::default()
        }

        pub(crate) async fn strike(&self, function: &str, when: When) -> Option<Fault> {
            let rule = self.next_rule(function, when)?;
            tokio::time::sleep(rule.delay).await;
            rule.fault
        }

        /// As [`Self::strike`], for callers that have a thread of their own.
        #[cfg(feature = "embedded")]
        pub(crate) fn strike_now(&self, function: &str, when: When) -> Option<Fault> {
            let rule = self.next_rule(function, when)?;
            std::thread::sleep(rule.delay);
            rule.fault
        }

        fn next_rule(&self, function: &str, when: When) -> Option<Rule> {
            let mut rules = self.0.rules.lock().unwrap_or_else(PoisonError::into_inner);
            let hit = rules
                .iter_mut()
                .find(|r| r.times > 0 && r.when == when && (r.function.is_empty() || r.function == function))?;
            hit.times -= 1;
            let rule = hit.clone();
            rules.retain(|r| r.times > 0);
            self.0.struck.fetch_add(1, Ordering::SeqCst);
            Some(rule)
        }

        pub(crate) fn hint_lost(&self) -> bool {
            self.0.lose_hints.load(Ordering::SeqCst)
        }

        pub(crate) fn listener_generation(&self) -> u64 {
            self.0.listener_generation.load(Ordering::SeqCst)
        }

        pub(crate) fn skewed_ms(&self, at_ms: i64) -> i64 {
            at_ms.saturating_add(self.0.clock_skew_ms.load(Ordering::SeqCst))
        }
    }
}
