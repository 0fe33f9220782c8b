//! The writer: one thread, one connection, one transaction for all that waits.
//!
//! Invariants: nobody is told of anything before its COMMIT; an operation that fails in an unexpected way fails alone;
//! trouble of the whole file undoes the whole batch, which is repeated while that makes sense; claims share the
//! transaction of the operations that made their work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::claim::work::{self as claim_work, RawWork};
use super::claim::{self, Looked, RawTurn};
use super::clock::Kept;
use super::connection::{Witness, fold_log, keep_log};
use super::error::StoreError;
use super::job::Job;
use super::log::{self, Phase};
use super::op::abandon_orchestration_item::AbandonedTurn;
use super::op::abandon_work_item::AbandonedWork;
use super::store::{Mail, Store};
use super::transaction::{Effects, Tx};
use super::waiting::{Started, Waiting};
use crate::fault::When;
use crate::group::{TurnGroup, WorkGroup};
use crate::token::{WorkToken, new_claim};

/// Shortest and longest pause after trouble of the whole file.
const TROUBLE_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(1000));
/// After so many looks at the file that showed nothing new, looks become rare.
const QUIET_LOOKS: u32 = 500;

/// What went wrong with a transaction.
enum Trouble {
    /// One operation failed in a way that concerns only itself.
    One(StoreError),
    /// Nothing can be done at the moment.
    Whole(StoreError),
}

/// A look and what it brought.
type Done<G, S, I> = (Started<G, S>, Looked<I>);

/// What looks brought, to be handed out after the commit.
struct Brought {
    turns: Vec<Done<TurnGroup, (), RawTurn>>,
    work: Vec<Done<WorkGroup, Vec<u8>, RawWork>>,
}

/// The thread's state.
pub(crate) struct Writer {
    store: Arc<Store>,
    connection: Connection,
    clock: Kept,
    witness: Option<Witness>,
    /// The log was begun anew, and is to be marked with the next transaction.
    mark_due: bool,
    turns: Waiting<TurnGroup, (), RawTurn>,
    work: Waiting<WorkGroup, Vec<u8>, RawWork>,
    retrying: Vec<Box<dyn Job>>,
    /// What is repeated runs under a lease: nothing is claimed.
    holding: bool,
    setbacks: u32,
    peers: Peers,
}

/// What is known of other writers of the file.
struct Peers {
    version: i64,
    next_look: Instant,
    quiet: u32,
}

impl Writer {
    /// `witness`: of the file, and whether its log is marked.
    pub(crate) fn new(
        store: Arc<Store>,
        connection: Connection,
        clock: Kept,
        witness: Option<(Witness, bool)>,
    ) -> Self {
        let mark_due = witness.as_ref().is_some_and(|(_, marked)| !marked);
        let witness = witness.map(|(witness, _)| witness);
        Self {
            mark_due,
            store,
            connection,
            clock,
            witness,
            turns: Waiting::new(),
            work: Waiting::new(),
            retrying: Vec::new(),
            holding: false,
            setbacks: 0,
            peers: Peers {
                version: 0,
                next_look: Instant::now(),
                quiet: 0,
            },
        }
    }

    /// Works until the provider is closed and everything that was handed in is answered.
    pub(crate) fn run(mut self) {
        loop {
            let mail = self.store.mailbox.wait(self.next_look(), self.retrying.is_empty());
            let Mail {
                jobs,
                turns,
                work,
                stopping,
            } = mail;
            turns.into_iter().for_each(|caller| self.turns.register(caller));
            work.into_iter().for_each(|caller| self.work.register(caller));
            let mut batch = std::mem::take(&mut self.retrying);
            batch.extend(jobs);
            if stopping {
                self.turns.close();
                self.work.close();
                if batch.is_empty() {
                    break;
                }
            }
            self.turns.purge();
            self.work.purge();
            if self.holding
                && let Some(trouble) = self.store.trouble()
            {
                self.turns.refuse_hasty(&trouble);
                self.work.refuse_hasty(&trouble);
            }
            self.store.note_waiting(self.turns.len(), self.work.len());
            self.look_at_peers(!batch.is_empty());
            self.settle(batch, stopping);
            self.rest();
        }
        self.store.mailbox.end();
        // The last connection folds the log into the file, if it may write.
        self.store.outlast_readers();
        self.mark_closed();
        if let Err((_, error)) = self.connection.close() {
            tracing::warn!(target: "steadfast", %error, "could not close the file in order; it is sound nevertheless");
        }
        self.store.leave();
    }

    /// Says in the file that whoever finds it without a log has all of it.
    fn mark_closed(&self) {
        let still_there = self.witness.is_some() && self.store.trouble().is_none();
        if !still_there || !self.store.is_alone() {
            return;
        }
        match log::mark(&self.connection, Phase::Closed) {
            Ok(()) => keep_log(&self.connection, false),
            Err(error) => {
                tracing::debug!(target: "steadfast", %error, "the file could not be marked as closed");
            }
        }
    }

    /// When there is something to do although nobody asks.
    fn next_look(&self) -> Option<Instant> {
        let peers = (self.witness.is_some() && !(self.turns.is_empty() && self.work.is_empty()))
            .then_some(self.peers.next_look);
        let looks = self
            .turns
            .wake
            .next_look()
            .into_iter()
            .chain(self.work.wake.next_look());
        looks.chain(peers).min()
    }

    /// Whether somebody else has written to the file: then everybody looks.
    fn look_at_peers(&mut self, active: bool) {
        if active {
            self.peers.quiet = 0;
        }
        let now = Instant::now();
        if self.witness.is_none() || now < self.peers.next_look || (self.turns.is_empty() && self.work.is_empty()) {
            return;
        }
        let version = self
            .connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut s| s.query_row([], |row| row.get(0)));
        match version {
            Ok(version) if version != self.peers.version => {
                self.peers.version = version;
                self.peers.quiet = 0;
                self.turns.wake.signal();
                self.work.wake.signal();
            }
            Ok(_) => self.peers.quiet = self.peers.quiet.saturating_add(1),
            Err(error) => tracing::debug!(target: "steadfast", %error, "could not ask for the file's version"),
        }
        let long_poll = &self.store.settings.long_poll;
        let pause = if self.peers.quiet < QUIET_LOOKS {
            long_poll.peer_poll_interval
        } else {
            long_poll.slowest_peer_poll_interval.max(long_poll.peer_poll_interval)
        };
        self.peers.next_look = now + pause.max(Duration::from_millis(1));
    }

    /// Runs a batch, and answers it.
    fn settle(&mut self, mut batch: Vec<Box<dyn Job>>, stopping: bool) {
        match self.transact(&mut batch) {
            Ok(()) => answer_all(batch),
            Err(Trouble::One(error)) if batch.len() == 1 && error.may_pass() => {
                self.retry_later(batch, &error, stopping);
            }
            Err(Trouble::One(error)) if batch.len() == 1 => fail_all(batch, &error),
            Err(Trouble::One(error)) => {
                tracing::warn!(target: "steadfast", operations = batch.len(), %error,
                    "an operation failed; its batch is run one by one");
                for job in batch {
                    self.settle(vec![job], stopping);
                }
            }
            Err(Trouble::Whole(error)) => self.retry_later(batch, &error, stopping),
        }
    }

    /// Keeps what failed for the file's sake, as long as that makes sense.
    fn retry_later(&mut self, batch: Vec<Box<dyn Job>>, error: &StoreError, stopping: bool) {
        tracing::debug!(target: "steadfast", operations = batch.len(), %error, "a transaction failed");
        self.store.note_trouble(Some(error.clone()));
        if error.is_no_space() {
            // The log itself may be what takes the space.
            fold_log(&self.connection);
        }
        if !error.may_pass() || stopping {
            fail_all(batch, error);
            return;
        }
        let now = Instant::now();
        let (late, mut early): (Vec<_>, Vec<_>) = batch.into_iter().partition(|job| job.give_up(error) <= now);
        fail_all(late, error);
        early.iter_mut().for_each(|job| job.note_trouble());
        self.retrying.extend(early);
    }

    /// After a batch: a pause, if something of it is to be repeated.
    fn rest(&mut self) {
        self.holding = self.retrying.iter().any(|job| job.is_leased());
        if self.retrying.is_empty() {
            self.setbacks = 0;
            return;
        }
        metrics::counter!("steadfast_retries_total", "function" => "commit").increment(1);
        let pause = TROUBLE_PAUSE.0 * 2u32.pow(self.setbacks.min(7));
        self.setbacks = self.setbacks.saturating_add(1);
        std::thread::sleep(pause.min(TROUBLE_PAUSE.1));
    }

    /// One transaction: the operations, then the looks that are due, then COMMIT.
    fn transact(&mut self, batch: &mut [Box<dyn Job>]) -> Result<(), Trouble> {
        let mut brought = Brought {
            turns: Vec::new(),
            work: Vec::new(),
        };
        let now = Instant::now();
        let (turns, work) = if batch.is_empty() {
            if self.holding {
                return Ok(());
            }
            let looks = (self.turns.looks(now), self.work.looks(now));
            if looks.0.is_empty() && looks.1.is_empty() {
                return Ok(());
            }
            looks
        } else {
            (Vec::new(), Vec::new())
        };
        let done = self.attempt(batch, turns, work, &mut brought);
        match done {
            Ok(()) => {
                if self.retrying.is_empty() {
                    self.store.note_trouble(None);
                }
                self.hand_out(brought);
                Ok(())
            }
            Err(trouble) => {
                let (Trouble::One(error) | Trouble::Whole(error)) = &trouble;
                brought
                    .turns
                    .iter()
                    .for_each(|(look, _)| self.turns.failed(look, error));
                brought.work.iter().for_each(|(look, _)| self.work.failed(look, error));
                Err(trouble)
            }
        }
    }

    fn attempt(
        &mut self,
        batch: &mut [Box<dyn Job>],
        turns: Vec<Started<TurnGroup, ()>>,
        work: Vec<Started<WorkGroup, Vec<u8>>>,
        brought: &mut Brought,
    ) -> Result<(), Trouble> {
        brought.turns = turns.into_iter().map(|look| (look, Looked::nothing())).collect();
        brought.work = work.into_iter().map(|look| (look, Looked::nothing())).collect();
        let faults = self.store.settings.faults.clone();
        let mut tx = Tx::begin(
            &self.connection,
            &self.clock,
            &faults,
            self.store.settings.feed,
            (self.store.payload_limit(), self.store.history_limit()),
        )
        .map_err(Trouble::Whole)?;
        if self.mark_due
            && let Err(error) = log::mark(tx.connection(), Phase::Working)
        {
            tx.roll_back();
            return Err(Trouble::Whole(error.into()));
        }
        for job in batch.iter_mut() {
            if let Err(error) = job.run(&mut tx) {
                tx.roll_back();
                return Err(if error.may_be_one() {
                    Trouble::One(error)
                } else {
                    Trouble::Whole(error)
                });
            }
        }
        note(&mut self.turns, &mut self.work, &tx);
        if !self.holding {
            let now = Instant::now();
            brought
                .turns
                .extend(self.turns.looks(now).into_iter().map(|look| (look, Looked::nothing())));
            brought
                .work
                .extend(self.work.looks(now).into_iter().map(|look| (look, Looked::nothing())));
        }
        if let Err(error) = claim_all(&self.store, &mut tx, brought) {
            tx.roll_back();
            return Err(Trouble::Whole(error));
        }
        if let Some(fault) = faults.strike_now("commit", When::Before) {
            tx.roll_back();
            return Err(Trouble::Whole(super::error::injected(&fault)));
        }
        let effects = tx.commit(&mut self.clock, &faults).map_err(Trouble::Whole)?;
        if effects.feed {
            self.store.bell.ring();
        }
        if let Some(witness) = &mut self.witness {
            let course = witness.check().map_err(Trouble::Whole)?;
            if std::mem::replace(&mut self.mark_due, course.begun_anew) {
                keep_log(&self.connection, false);
            }
            if course.crowded {
                fold_log(&self.connection);
            }
        }
        if !batch.is_empty() {
            metrics::histogram!("steadfast_batch_calls", "function" => "commit").record(batch.len() as f64);
        }
        Ok(())
    }

    /// After the commit: each waiter gets its item; what nobody takes is given back.
    fn hand_out(&mut self, brought: Brought) {
        for (started, looked) in brought.turns {
            count("orchestrator", looked.items.len());
            for turn in self.turns.deliver(&started, looked) {
                self.store.give_back_turn(AbandonedTurn::untouched(turn.token));
            }
        }
        for (started, looked) in brought.work {
            count("worker", looked.items.len());
            for work in self.work.deliver(&started, looked) {
                self.store.give_back_work(AbandonedWork::untouched(work.token));
            }
        }
    }
}

/// What the operations of a transaction have made available, to those who wait here.
fn note(turns: &mut Waiting<TurnGroup, (), RawTurn>, work: &mut Waiting<WorkGroup, Vec<u8>, RawWork>, tx: &Tx<'_>) {
    let Effects {
        turns: turns_now,
        work: work_now,
        turns_due_at,
        work_due_at,
        ..
    } = tx.effects;
    turns.note(turns_now, turns_due_at.map(|at| claim::delay(tx, at)));
    work.note(work_now, work_due_at.map(|at| claim::delay(tx, at)));
}

fn claim_all(store: &Store, tx: &mut Tx<'_>, brought: &mut Brought) -> Result<(), StoreError> {
    for (started, looked) in &mut brought.turns {
        let (group, want) = (&started.look.group, started.seats.len());
        *looked = claim::turns(tx, &mut store.cache(), group, new_claim(), want)?;
    }
    for (started, looked) in &mut brought.work {
        *looked = claim_work::claim(tx, &started.look.group, &started.seats, new_claim())?;
    }
    Ok(())
}

fn count(queue: &'static str, items: usize) {
    if items > 0 {
        metrics::counter!("steadfast_claimed_items_total", "queue" => queue).increment(items as u64);
    }
}

fn answer_all(batch: Vec<Box<dyn Job>>) {
    for job in batch {
        job.answer();
    }
}

fn fail_all(batch: Vec<Box<dyn Job>>, error: &StoreError) {
    for job in batch {
        job.fail(error.clone());
    }
}

/// The token of a claimed activity.
pub(crate) fn work_token(instance_key: i64, work_id: i64, claim: i64, lease_ms: i64) -> WorkToken {
    WorkToken {
        instance_key,
        work_id,
        claim,
        lease: Duration::from_millis(lease_ms.unsigned_abs()),
    }
}
