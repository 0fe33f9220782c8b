//! Who waits here, made known to other processes.
//!
//! Invariants: a registration is a shared advisory lock of the listener's connection and vanishes with it; it is tried, never
//! waited for; whoever is registered anew looks once more.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::{Run, Topic, answered};
use crate::postgres::error::StoreError;

/// A process that stopped waiting so long ago need not be told any more.
const LINGER: Duration = Duration::from_secs(1);
/// Shortest and longest pause between two tries to register.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Whose waiting others know of, on one connection.
#[derive(Default)]
pub(super) struct Registered {
    /// When somebody was last seen to wait.
    since: HashMap<Topic, Instant>,
    /// Until when there is no point in trying again, and how long that pause is.
    refused: Option<(Instant, Duration)>,
}

impl Registered {
    /// When to look again whether registrations are as they should be.
    pub(super) fn next_look(&self, wanted: bool) -> Option<Instant> {
        let linger = (!self.since.is_empty()).then(|| Instant::now() + LINGER);
        let again = self.refused.filter(|_| wanted).map(|(until, _)| until);
        [linger, again].into_iter().flatten().min()
    }
}

impl Run {
    /// Makes it known that somebody here waits, then has them look once more.
    ///
    /// The lock is tried and not waited for: a backend that waits for whoever has it would go on when we have given it up.
    /// Who cannot register is told all the same, as a sender takes any other's lock for a waiter; only between the end
    /// of that lock and the next try a hint may pass by, and the look after registering makes up for it.
    pub(super) async fn register(&mut self, client: &Client, registered: &mut Registered) -> Result<(), StoreError> {
        let now = Instant::now();
        self.wanted.retain(|queue, at| match registered.since.get_mut(queue) {
            Some(since) => {
                *since = *at;
                false
            }
            None => true,
        });
        if self.wanted.is_empty() || registered.refused.is_some_and(|(until, _)| now < until) {
            return Ok(());
        }
        for (queue, at) in std::mem::take(&mut self.wanted) {
            let rows = answered(client.query_typed(
                "SELECT pg_try_advisory_lock_shared($1, $2)",
                &[
                    (&self.listener.channel.lock_class, Type::INT4),
                    (&queue.lock_id(), Type::INT4),
                ],
            ))
            .await?;
            if rows.first().is_some_and(|row| row.get(0)) {
                registered.since.insert(queue, at);
                self.listener.ear.hint(queue, Duration::ZERO);
            } else if self.listener.ear.sleeping(queue) > 0 || at.elapsed() < LINGER {
                self.wanted.insert(queue, at);
            }
        }
        registered.refused = (!self.wanted.is_empty()).then(|| {
            let pause = registered.refused.map_or(TRY_AGAIN.0, |(_, pause)| pause * 2);
            let pause = pause.min(TRY_AGAIN.1);
            (Instant::now() + pause, pause)
        });
        Ok(())
    }

    /// Takes it back for queues that nobody here has waited for lately.
    pub(super) async fn unregister(&mut self, client: &Client, registered: &mut Registered) -> Result<(), StoreError> {
        let now = Instant::now();
        let mut gone = Vec::new();
        for (queue, last) in &mut registered.since {
            if self.listener.ear.sleeping(*queue) > 0 {
                *last = now;
            } else if now.duration_since(*last) >= LINGER {
                gone.push(*queue);
            }
        }
        for queue in gone {
            registered.since.remove(&queue);
            answered(client.query_typed(
                "SELECT pg_advisory_unlock_shared($1, $2)",
                &[
                    (&self.listener.channel.lock_class, Type::INT4),
                    (&queue.lock_id(), Type::INT4),
                ],
            ))
            .await?;
            // Somebody may have gone to sleep meanwhile, counting on the registration.
            if self.listener.ear.sleeping(queue) > 0 {
                self.wanted.insert(queue, now);
            }
        }
        Ok(())
    }
}
