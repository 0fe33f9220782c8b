//! Sends coalesced calls: the async side of [`crate::batch`].
//!
//! Invariants: a batch runs to its end in a task of its own, whatever becomes of the callers and their runtimes; every caller gets the
//! truth about its own operation; a caller whose operation must wait for a row held elsewhere waits apart, not with
//! its batch; an operation that the server refuses in an unexpected way fails alone.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::connection::{Persisted, repeat};
use super::error::StoreError;
use super::hint::Behind;
use super::listen::Queue;
use super::params::Params;
use super::store::Store;
use crate::batch::{Lane, Limits};
use crate::refusal::Refusal;
use crate::trouble::{Patience, Persistence, Setback};
use crate::wake::Moment;

/// A kind of call that coalesces.
pub(crate) trait Batch: Send + Sync + Sized + 'static {
    type Call: Send + Sync + 'static;
    type Answer: Send + 'static;
    const LIMITS: Limits;
    /// It ends or extends a lease: it is repeated until it is answered, and nothing is claimed while it fails.
    const LEASED: bool = false;

    /// Payload bytes of a call, roughly.
    fn bytes(call: &Self::Call) -> usize;

    /// Sends the calls and answers each.
    fn send(store: Arc<Store>, entries: Vec<Entry<Self>>) -> impl Future<Output = ()> + Send;
}

/// A call and who waits for its answer.
pub(crate) struct Entry<B: Batch> {
    pub(crate) call: B::Call,
    answer: oneshot::Sender<Result<B::Answer, StoreError>>,
}

impl<B: Batch> Entry<B> {
    pub(crate) fn answer(self, answer: Result<B::Answer, StoreError>) {
        // Nobody there: the caller gave up; what was done is done.
        let _ = self.answer.send(answer);
    }
}

/// Calls of kind `B` of one provider.
pub(crate) struct BatchLane<B: Batch> {
    store: Weak<Store>,
    waiting: Mutex<Lane<Entry<B>>>,
}

impl<B: Batch> BatchLane<B> {
    pub(crate) fn new(store: Weak<Store>) -> Arc<Self> {
        Arc::new(Self {
            store,
            waiting: Mutex::new(Lane::new(B::LIMITS)),
        })
    }

    /// Hands the call over and waits for its answer. Dropping the future before the call was sent cancels it;
    /// afterwards it takes its course.
    pub(crate) async fn submit(self: &Arc<Self>, call: B::Call) -> Result<B::Answer, StoreError> {
        let (answer, answered) = oneshot::channel();
        let bytes = B::bytes(&call);
        self.lock().push(Entry { call, answer }, bytes);
        // Whoever is ready to call in this runtime does so first, and goes along: on an idle one this takes no time.
        tokio::task::yield_now().await;
        self.pump();
        let gate = self.store.upgrade().map(|s| Arc::clone(s.pipe.gate()));
        // What has no lease gives up by itself.
        let Some(gate) = gate.filter(|_| B::LEASED) else {
            return answered.await.unwrap_or_else(|_| Err(self.unanswered()));
        };
        tokio::select! {
            biased;
            answer = answered => answer.unwrap_or_else(|_| Err(self.unanswered())),
            lasting = gate.overdue() => Err(StoreError::lasting(&lasting)),
        }
    }

    fn pump(self: &Arc<Self>) {
        while self.lock().reserve() {
            let Some(store) = self.store.upgrade() else {
                // Nobody can send these any more: dropping them says so.
                let dropped = self.lock().take_batch(|_| true).len();
                self.lock().finished(dropped);
                continue;
            };
            let mut place = Place {
                lane: Arc::clone(self),
                calls: 0,
            };
            let tracker = store.tasks.clone();
            tracker.spawn(async move {
                let batch = place.take_batch();
                if !batch.is_empty() {
                    B::send(store, batch).await;
                }
            });
        }
    }

    /// Why a call has come back without an answer: nobody is there to send it, or its batch has panicked.
    fn unanswered(&self) -> StoreError {
        match self.store.upgrade() {
            None => StoreError::Closed,
            Some(_) => StoreError::Connection("the call was given up half-way".to_owned()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lane<Entry<B>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a batch that is under way. However the batch ends, the next one follows. (In a task of the background,
/// which refuses none: where a runtime refuses tasks by dropping them, this would begin the next batch for ever.)
struct Place<B: Batch> {
    lane: Arc<BatchLane<B>>,
    calls: usize,
}

impl<B: Batch> Place<B> {
    fn take_batch(&mut self) -> Vec<Entry<B>> {
        let batch = self.lane.lock().take_batch(|entry| !entry.answer.is_closed());
        self.calls = batch.len();
        batch
    }
}

impl<B: Batch> Drop for Place<B> {
    fn drop(&mut self) {
        self.lane.lock().finished(self.calls);
        self.lane.pump();
    }
}

/// A mutating kind of call whose function answers one code per operation.
pub(crate) trait Coded: Batch<Answer = ()> {
    /// Name of the stored function.
    const FUNCTION: &'static str;
    /// The queue that these calls fill from outside: a client may end as soon as it has its answer, so others are told
    /// before that.
    const ARRIVES_IN: Option<Queue> = None;

    /// Parameters for these calls. `terms` identifies the batch and says whether it may wait for locks.
    fn params(store: &Store, calls: &[&Self::Call], terms: &Terms) -> Params;

    /// Until when repeating the call makes sense while it is in doubt.
    fn give_up(store: &Store, call: &Self::Call) -> Instant;

    /// Trouble has lasted longer than the call's lease: the attempt that it was is given back. The token is spent by it.
    fn give_attempt_back(_: Arc<Store>, _: &Self::Call) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    /// What follows from the calls that are done, after their commit, beside what is there to be claimed now.
    fn committed(store: &Arc<Store>, calls: &[&Self::Call]) -> Made;
}

/// What calls have put within reach of claims.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Made {
    /// Instances with messages.
    pub(crate) turns: usize,
    /// Activities.
    pub(crate) work: usize,
    /// Instances were released that may have messages which came meanwhile, and were passed over.
    pub(crate) released: bool,
    /// Other processes know already.
    pub(crate) told: bool,
}

impl Made {
    pub(crate) fn announce(self, store: &Store) {
        store.work_available(self.work, self.told);
        if self.released {
            store.turns.released();
        }
        store.turns_available(self.turns, self.told);
    }
}

/// Identity of one batch, fixed before it is first sent.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) batch_id: Uuid,
    /// How long the answer must be kept: longer than anybody may ask again.
    pub(crate) retain_ms: i64,
    /// Also drop answers that nobody can ask for any more.
    pub(crate) sweep: bool,
    /// Wait for rows that are held elsewhere.
    pub(crate) wait: bool,
    /// Until when repeating the call makes sense.
    pub(crate) give_up: Instant,
    /// How it failed when it was sent before, along with something else.
    pub(crate) earlier: Option<Setback>,
    /// Say of which turns the instances have messages waiting.
    pub(crate) tell: bool,
    /// Activities that the call queues are claimed at once, for those who wait for them here.
    pub(crate) hand: Option<Hand>,
}

/// The claim of what a call itself puts into a queue.
#[derive(Debug, Clone)]
pub(crate) struct Hand {
    pub(crate) batch_id: Uuid,
    pub(crate) claim: i64,
    pub(crate) limit: i32,
    pub(crate) lease_ms: i64,
    /// Tag keys; `None`: any.
    pub(crate) tags: Option<Vec<Vec<u8>>>,
}

impl Terms {
    pub(crate) fn new(store: &Store, give_up: Instant, wait: bool) -> Self {
        // Twice what is left, and a call's own time: the last request may still be on its way when we give up.
        let left = give_up.saturating_duration_since(Instant::now());
        let retain = 2 * (left + store.pipe.settings().call_timeout) + std::time::Duration::from_secs(30);
        Self {
            batch_id: Uuid::new_v4(),
            retain_ms: i64::try_from(retain.as_millis()).unwrap_or(i64::MAX / 2),
            sweep: store.time_to_sweep(),
            wait,
            give_up,
            earlier: None,
            tell: true,
            hand: None,
        }
    }
}

/// Code of a turn that is done, whose instance has messages waiting.
const MORE: i64 = 5;

fn is_done(code: i64) -> bool {
    code == 0 || code == MORE
}

/// Code of an operation whose lease has ended.
const LEASE_ENDED: i64 = 2;

/// Code of an operation that needs a row which is held elsewhere.
const BUSY: i64 = 4;

fn verdict(code: i64) -> Result<(), StoreError> {
    match code {
        code if is_done(code) => Ok(()),
        1 => Err(Refusal::InvalidToken.into()),
        2 => Err(Refusal::LeaseEnded.into()),
        3 => Err(Refusal::DuplicateEvent.into()),
        other => Err(StoreError::Decode(format!("code {other}"))),
    }
}

/// Runs a batch of coded calls: see the invariants above.
pub(crate) async fn settle<B: Coded>(store: Arc<Store>, entries: Vec<Entry<B>>) {
    let terms = terms_for::<B>(&store, &entries);
    settle_on(store, entries, terms).await;
}

/// [`settle`] for a batch that may have been sent under `terms` before.
pub(crate) async fn settle_on<B: Coded>(store: Arc<Store>, entries: Vec<Entry<B>>, terms: Terms) {
    let mut first = Some(terms);
    let mut batches = vec![entries];
    while let Some(entries) = batches.pop() {
        let terms = first.take().unwrap_or_else(|| terms_for::<B>(&store, &entries));
        metrics::histogram!("steadfast_batch_calls", "function" => B::FUNCTION).record(entries.len() as f64);
        match send_once::<B>(&store, &entries, &terms).await {
            Ok((codes, met_trouble)) => {
                if met_trouble {
                    give_attempts_back::<B>(&store, &entries, &codes).await;
                }
                answer_each(&store, entries, &codes);
            }
            // The statement itself was refused: somewhere in here is an operation that the checks do not know.
            // Only what the server says it rolled back may be sent again under new ids.
            Err(error @ StoreError::Database { .. }) if !error.may_pass() && entries.len() > 1 => {
                tracing::warn!(target: "steadfast", function = B::FUNCTION, calls = entries.len(), %error,
                    "a batch was refused; sending it in halves");
                let mut first = entries;
                let second = first.split_off(first.len() / 2);
                batches.push(second);
                batches.push(first);
            }
            Err(error) => {
                for entry in entries {
                    entry.answer(Err(error.clone()));
                }
            }
        }
    }
}

pub(crate) fn terms_for<B: Coded>(store: &Store, entries: &[Entry<B>]) -> Terms {
    let give_up = entries.iter().map(|e| B::give_up(store, &e.call)).max();
    Terms::new(store, give_up.unwrap_or_else(Instant::now), false)
}

/// The codes, and whether it took more than one attempt.
async fn send_once<B: Coded>(
    store: &Arc<Store>,
    entries: &[Entry<B>],
    terms: &Terms,
) -> Result<(Vec<i64>, bool), StoreError> {
    let calls: Vec<&B::Call> = entries.iter().map(|e| &e.call).collect();
    let params = B::params(store, &calls, terms);
    let moment = store.turns.moment();
    let behind = B::ARRIVES_IN.and_then(|queue| store.hint_behind(queue));
    let retry = Persistence::after(
        store.pipe.gate(),
        B::FUNCTION,
        patience::<B>(terms.give_up),
        terms.earlier,
    );
    let Persisted { rows, met_trouble } = store.pipe.persist_telling(&params, retry, behind.as_ref()).await?;
    let codes = codes_of(&rows, entries.len())?;
    if let Some(mut made) = committed::<B>(store, entries, &codes) {
        made.released &= must_look(store, &moment, &codes);
        made.told = behind.as_ref().is_some_and(Behind::was_sent);
        made.announce(store);
    }
    Ok((codes, met_trouble))
}

fn patience<B: Coded>(give_up: Instant) -> Patience {
    if B::LEASED {
        Patience::Leased(give_up.into())
    } else {
        Patience::Patient(give_up.into())
    }
}

/// Of calls that met trouble: those whose leases ended meanwhile have spent no attempt. Their callers are answered
/// afterwards, so that nothing which they do then comes before it.
async fn give_attempts_back<B: Coded>(store: &Arc<Store>, entries: &[Entry<B>], codes: &[i64]) {
    let late = entries.iter().zip(codes).filter(|(_, code)| **code == LEASE_ENDED);
    let back = late.map(|(entry, _)| B::give_attempt_back(Arc::clone(store), &entry.call));
    futures_util::future::join_all(back).await;
}

/// Whether somebody must look for turns because instances were released: messages wait for one of them, or came
/// and were passed over while the call was under way, of which its answer cannot know.
pub(crate) fn must_look(store: &Store, moment: &Moment, codes: &[i64]) -> bool {
    codes.contains(&MORE) || !store.turns.quiet_since(moment)
}

/// What the calls that are done have made; `None` when none is.
pub(crate) fn committed<B: Coded>(store: &Arc<Store>, entries: &[Entry<B>], codes: &[i64]) -> Option<Made> {
    let done: Vec<&B::Call> = entries
        .iter()
        .zip(codes)
        .filter(|(_, code)| is_done(**code))
        .map(|(e, _)| &e.call)
        .collect();
    (!done.is_empty()).then(|| B::committed(store, &done))
}

pub(crate) fn codes_of(rows: &[tokio_postgres::Row], wanted: usize) -> Result<Vec<i64>, StoreError> {
    let codes: Vec<i64> = match rows.first() {
        Some(row) => row.try_get(0).map_err(|e| StoreError::Decode(e.to_string()))?,
        None => Vec::new(),
    };
    if codes.len() == wanted {
        Ok(codes)
    } else {
        Err(StoreError::Decode(format!(
            "{} codes for {wanted} operations",
            codes.len()
        )))
    }
}

pub(crate) fn answer_each<B: Coded>(store: &Arc<Store>, entries: Vec<Entry<B>>, codes: &[i64]) {
    for (entry, code) in entries.into_iter().zip(codes) {
        if *code == BUSY {
            metrics::counter!("steadfast_busy_total", "function" => B::FUNCTION).increment(1);
            let store = Arc::clone(store);
            let tracker = store.tasks.clone();
            tracker.spawn(async move { wait_apart::<B>(store, entry).await });
        } else {
            entry.answer(verdict(*code));
        }
    }
}

/// The side lane: an operation whose row is held elsewhere waits alone. Few attempts at a time, each of at most two
/// seconds, so that neither the connections nor the places in this lane are held for long.
async fn wait_apart<B: Coded>(store: Arc<Store>, entry: Entry<B>) {
    let give_up = B::give_up(&store, &entry.call);
    let params = B::params(&store, &[&entry.call], &Terms::new(&store, give_up, true));
    let mut retry = store.pipe.persistence(B::FUNCTION, patience::<B>(give_up));
    let result = loop {
        let attempt = {
            let Ok(_permit) = store.side_lane.acquire().await else {
                break Err(StoreError::Closed);
            };
            store.pipe.call(B::FUNCTION, &params).await
        };
        match attempt {
            Err(error) => {
                if !repeat(&mut retry, B::FUNCTION, &error).await {
                    break Err(error);
                }
            }
            Ok(rows) => break codes_of(&rows, 1),
        }
    };
    let met_trouble = retry.met_trouble();
    drop(retry);
    match result.as_deref() {
        Ok([code]) if is_done(*code) => B::committed(&store, &[&entry.call]).announce(&store),
        Ok([LEASE_ENDED]) if met_trouble => B::give_attempt_back(Arc::clone(&store), &entry.call).await,
        _ => {}
    }
    entry.answer(result.and_then(|codes| verdict(codes.first().copied().unwrap_or(BUSY))));
}
