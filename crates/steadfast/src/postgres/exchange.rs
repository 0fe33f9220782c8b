//! Acknowledges and claims in one call: what a batch puts into a queue goes straight to those who wait for it here.
//!
//! Invariants: acknowledgement and claim are one statement and one commit, each under a batch id of its own, so that
//! after trouble each finds out by itself what became of it; the claim comes second and sees what the batch made; who
//! is acknowledged does not wait for what was claimed.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio_postgres::Row;

use super::connection::Pair;
use super::error::{Class, StoreError};
use super::fetch_lane::Mark;
use super::lane::{Coded, Entry, Hand, answer_each, codes_of, committed, must_look, settle, settle_on, terms_for};
use super::listen::Queue;
use super::params::Params;
use super::store::Store;

/// A kind of call that makes work of the other kind.
pub(crate) trait Exchange: Coded {
    /// The queue that it fills.
    const FILLS: Queue;

    /// Names of its function and of the one that claims from `queue` (`direct`: what the call made), as one.
    fn both(queue: Queue, direct: bool) -> &'static str;

    /// Whether the call puts something into the queue that it fills that is due at once.
    fn fills(call: &Self::Call) -> bool;

    /// Where to find what these calls put there, if that can be claimed without a look at the queue.
    fn targets(calls: &[&Self::Call]) -> Option<Targets>;

    /// What was taken from the other queue and is done with: whoever had it comes back for more.
    fn mark(_: &Self::Call) -> Option<Mark> {
        None
    }
}

/// What a call puts within reach of a claim.
pub(crate) enum Targets {
    /// Messages for these instances.
    Turns(Vec<String>),
    /// Activities of these instances (their keys).
    Work(Vec<i64>),
}

/// A look into a queue that goes along with a batch: [`super::fetch_lane::Along`] without its type.
pub(crate) trait Passenger: Send + Sync {
    /// The queue that it looks into.
    fn queue(&self) -> Queue;
    fn function(&self) -> &'static str;
    /// Whether it takes only what the batch makes.
    fn direct(&self) -> bool;
    /// What the batch itself must claim for it.
    fn hand(&self) -> Option<Hand>;
    /// Place of the parameter that says how many to claim, from 0.
    fn limit_at(&self) -> usize;
    fn params(&self) -> Params;
    /// The batch has made `units`. Returns whether there are more than wait for them in this process.
    fn made(&mut self, units: usize) -> bool;
    /// Hands out what came, or finds out what became of the claim.
    fn arrive(self: Box<Self>, answer: Result<Vec<Row>, StoreError>) -> BoxFuture<'static, ()>;
}

/// Larger batches go alone. With few calls, each waits for the one before, and a round trip and a commit less is what
/// counts; with many, both kinds of calls are always under way, and a claim that rides along only holds up the next ack
/// (measured: at 128/128 slots all batches together cost 5 to 15 % of throughput).
const FEW: usize = 4;
/// The same for claims on behalf of those who come back (measured at 8/8, 32/32 and 128/128 slots: of 4, 16 and 64, 16 was
/// best or equal everywhere; 64 cost a third at 128/128).
const FEW_RETURNING: usize = 16;

/// Who goes along with these calls: somebody who waits for what they make, or else those who come back after them.
fn passenger<B: Exchange>(store: &Arc<Store>, entries: &[Entry<B>]) -> Option<Box<dyn Passenger>> {
    if entries.len() > FEW_RETURNING {
        return None;
    }
    let waits = || {
        let calls: Vec<&B::Call> = entries.iter().map(|e| &e.call).filter(|c| B::fills(c)).collect();
        let may_look = entries.len() <= FEW;
        (!calls.is_empty()).then(|| store.passenger(B::FILLS, B::targets(&calls), may_look))?
    };
    waits().or_else(|| {
        let marks: Vec<Mark> = entries.iter().filter_map(|e| B::mark(&e.call)).collect();
        store.returning(B::FILLS.other(), &marks)
    })
}

/// Runs a batch, together with a claim when somebody here waits for what it makes, or will wait after it.
pub(crate) async fn exchange<B: Exchange>(store: Arc<Store>, entries: Vec<Entry<B>>) {
    let Some(mut passenger) = passenger::<B>(&store, &entries) else {
        return settle(store, entries).await;
    };
    let takes_turns = passenger.queue() == Queue::Turns;
    let mut terms = terms_for::<B>(&store, &entries);
    terms.tell = !takes_turns;
    terms.hand = passenger.hand();
    let moment = store.turns.moment();
    let answer = send::<B>(&store, &entries, &terms, passenger.as_ref()).await;
    // Whatever is sent again is sent for itself.
    terms.tell = true;
    terms.hand = None;
    match answer.and_then(|rows| Ok((codes_of(&rows, entries.len())?, rows))) {
        Ok((codes, rows)) => {
            metrics::histogram!("steadfast_batch_calls", "function" => B::both(passenger.queue(), passenger.direct()))
                .record(entries.len() as f64);
            if let Some(mut made) = committed::<B>(&store, &entries, &codes) {
                let carried = match passenger.queue() {
                    queue if queue != B::FILLS => 0,
                    Queue::Turns => std::mem::take(&mut made.turns),
                    Queue::Work => std::mem::take(&mut made.work),
                };
                // A claim of turns that follows the release has seen what waits for the instances.
                let seen = takes_turns && std::mem::take(&mut made.released);
                if (carried > 0 || seen) && passenger.made(carried) {
                    store.offer_now(passenger.queue());
                }
                made.released &= must_look(&store, &moment, &codes);
                made.announce(&store);
            }
            // Whoever is acknowledged comes back at once, and should find what was claimed for him; but he does not wait
            // for what takes more than a moment.
            let mut arrival = passenger.arrive(Ok(rows));
            let arrived = futures_util::poll!(&mut arrival).is_ready();
            answer_each(&store, entries, &codes);
            if !arrived {
                arrival.await;
            }
        }
        Err(error) => {
            // The claim is not made alone before it is known whether this call is what failed.
            let gate = store.pipe.gate();
            let _hold = (error.class() == Class::Trouble).then(|| gate.hold(B::FUNCTION, error.to_string(), B::LEASED));
            terms.earlier = error.setback();
            let tracker = store.tasks.clone();
            tracker.spawn(passenger.arrive(Err(error)));
            settle_on(store, entries, terms).await;
        }
    }
}

async fn send<B: Exchange>(
    store: &Store,
    entries: &[Entry<B>],
    terms: &super::lane::Terms,
    passenger: &dyn Passenger,
) -> Result<Vec<Row>, StoreError> {
    let calls: Vec<&B::Call> = entries.iter().map(|e| &e.call).collect();
    let pair = Pair {
        both: B::both(passenger.queue(), passenger.direct()),
        first: B::FUNCTION,
        second: passenger.function(),
        limit_at: passenger.limit_at(),
    };
    let (first, second) = (B::params(store, &calls, terms), passenger.params());
    store.pipe.call_pair(&pair, first, second).await
}
