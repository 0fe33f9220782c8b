//! One provider's inside: the pipe, the lanes, the cache, the listener, and how they act on each other.
//!
//! Invariant: work made here is announced after its commit: to this process at once, to others by a hint when there is
//! more than this process waits for.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::builder::LongPoll;
use super::connection::Pipe;
use super::connector::Connector;
use super::errand::with_connection;
use super::error::StoreError;
use super::exchange::{Passenger, Targets};
use super::feed::FeedSide;
use super::fetch_lane::{FetchLane, Mark};
use super::floor::Floors;
use super::hint::{Behind, Channel, Hint};
use super::lane::BatchLane;
use super::listen::{Ear, Hints, Listener, ListenerState, Queue, Topic};
use super::op::abandon_orchestration_item::{AbandonTurns, AbandonedTurn};
use super::op::abandon_work_item::{AbandonWork, AbandonedWork};
use super::op::ack_orchestration_item::AckTurns;
use super::op::ack_work_item::AckWork;
use super::op::enqueue_for_orchestrator::EnqueueMessages;
use super::op::enqueue_for_worker::EnqueueWork;
use super::op::fetch_orchestration_item::TurnClaimer;
use super::op::fetch_work_item::WorkClaimer;
use super::op::get_custom_status::CustomStatuses;
use super::op::read::Reads;
use super::op::renew_orchestration_item_lock::RenewTurns;
use super::op::renew_work_item_lock::RenewWork;
use super::rights::{self, Missing};
use crate::background::Tasks;
use crate::feed::Bell;
use crate::group::{TurnGroup, WorkGroup};
use crate::history_cache::HistoryCache;
use crate::limit::{HistoryLimit, PayloadLimit};
use crate::refused::RefusedTurns;
use crate::sessions::Sessions;
use crate::spent::Spent;
use crate::token::{TurnToken, WorkToken};

/// Everything behind a provider.
pub(crate) struct Store {
    pub(crate) pipe: Pipe,
    pub(crate) connector: Connector,
    pub(crate) long_poll: LongPoll,
    pub(crate) tasks: Tasks,
    pub(crate) side_lane: Semaphore,
    pub(crate) turns: Arc<FetchLane<TurnClaimer>>,
    pub(crate) work: Arc<FetchLane<WorkClaimer>>,
    pub(crate) ack_turns: Arc<BatchLane<AckTurns>>,
    pub(crate) ack_work: Arc<BatchLane<AckWork>>,
    pub(crate) enqueue_messages: Arc<BatchLane<EnqueueMessages>>,
    pub(crate) enqueue_work: Arc<BatchLane<EnqueueWork>>,
    pub(crate) abandon_turns: Arc<BatchLane<AbandonTurns>>,
    pub(crate) abandon_work: Arc<BatchLane<AbandonWork>>,
    pub(crate) renew_turns: Arc<BatchLane<RenewTurns>>,
    pub(crate) renew_work: Arc<BatchLane<RenewWork>>,
    pub(crate) reads: Arc<BatchLane<Reads>>,
    pub(crate) custom_statuses: Arc<BatchLane<CustomStatuses>>,
    pub(crate) sessions: Sessions,
    pub(crate) refused: RefusedTurns,
    pub(crate) turn_floors: Floors<TurnGroup, i64>,
    pub(crate) work_floors: Floors<WorkGroup, Vec<u8>>,
    pub(crate) feed: FeedSide,
    cache: Mutex<HistoryCache>,
    /// Claims whose acks came to nothing by trouble.
    pub(crate) spent: Spent,
    hints: Option<Hints>,
    channel: Channel,
    /// The listener, which ends last: it sends what the others have to say.
    listening: Tasks,
    /// Nothing new begins any more.
    closing: CancellationToken,
    /// The listener is to end.
    stop: CancellationToken,
    batches: AtomicU32,
}

impl Store {
    pub(crate) fn new(
        pipe: Pipe,
        connector: Connector,
        long_poll: LongPoll,
        cache_bytes: usize,
        feed: FeedSide,
    ) -> Arc<Self> {
        diagnose_trouble(&pipe, &connector, feed.records());
        let background = pipe.background();
        let tasks = Tasks::new(background);
        let (closing, stop) = (CancellationToken::new(), CancellationToken::new());
        let listening = Tasks::new(background);
        let channel = Channel::of(pipe.quoted_schema());
        let side = (pipe.settings().pool_size / 4).max(1);
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let slowest = long_poll.slowest_poll_interval.min(long_poll.fallback_poll_interval);
            let turns = FetchLane::new(TurnClaimer(weak.clone()), tasks.clone(), background, slowest);
            let work = FetchLane::new(WorkClaimer(weak.clone()), tasks.clone(), background, slowest);
            let hints = long_poll.enabled.then(|| {
                let listener = Listener {
                    connector: connector.clone(),
                    quoted_schema: pipe.quoted_schema().to_owned(),
                    channel: channel.clone(),
                    fallback_poll_interval: long_poll.fallback_poll_interval,
                    ear: Box::new(Lanes {
                        store: weak.clone(),
                        bell: Arc::clone(&feed.bell),
                        turns: Arc::downgrade(&turns),
                        work: Arc::downgrade(&work),
                    }),
                    faults: pipe.faults().clone(),
                    stop: stop.clone(),
                    possible: long_poll.listen && !pipe.settings().transaction_pooler,
                };
                let hints = Hints::start(listener, &listening);
                turns.set_hints(hints.clone());
                work.set_hints(hints.clone());
                hints
            });
            Self {
                side_lane: Semaphore::new(side),
                ack_turns: BatchLane::new(weak.clone()),
                ack_work: BatchLane::new(weak.clone()),
                enqueue_messages: BatchLane::new(weak.clone()),
                enqueue_work: BatchLane::new(weak.clone()),
                abandon_turns: BatchLane::new(weak.clone()),
                abandon_work: BatchLane::new(weak.clone()),
                renew_turns: BatchLane::new(weak.clone()),
                renew_work: BatchLane::new(weak.clone()),
                reads: BatchLane::new(weak.clone()),
                custom_statuses: BatchLane::new(weak.clone()),
                feed,
                sessions: Sessions::default(),
                refused: RefusedTurns::default(),
                turn_floors: Floors::new(),
                work_floors: Floors::new(),
                cache: Mutex::new(HistoryCache::new(cache_bytes)),
                spent: Spent::default(),
                batches: AtomicU32::new(0),
                pipe,
                connector,
                long_poll,
                tasks,
                turns,
                work,
                hints,
                channel,
                listening,
                closing,
                stop,
            }
        })
    }

    /// The largest payload that is taken.
    pub(crate) fn payload_limit(&self) -> PayloadLimit {
        self.pipe.settings().payload_limit
    }

    /// The largest history that is handed out.
    pub(crate) fn history_limit(&self) -> HistoryLimit {
        self.pipe.settings().history_limit
    }

    pub(crate) fn cache(&self) -> MutexGuard<'_, HistoryCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages for `units` instances have been committed, or instances have been released. `told`: others know.
    pub(crate) fn turns_available(&self, units: usize, told: bool) {
        if units > 0 && self.turns.signal(units) && !told {
            self.offer(Queue::Turns, Duration::ZERO);
        }
    }

    /// `units` activities have been committed or released. `told`: others know.
    pub(crate) fn work_available(&self, units: usize, told: bool) {
        if units > 0 && self.work.signal(units) && !told {
            self.offer(Queue::Work, Duration::ZERO);
        }
    }

    /// What others are told along with a call that fills `queue`; nothing where somebody waits for it here.
    pub(crate) fn hint_behind(&self, queue: Queue) -> Option<Behind> {
        let waiting = match queue {
            Queue::Turns => self.turns.waiting(),
            Queue::Work => self.work.waiting(),
        };
        (waiting == 0).then(|| Behind::new(Hint::of(&self.channel, [(queue.into(), Duration::ZERO)])))
    }

    /// A message becomes visible in `delay`. Everybody should know: this process may be gone by then.
    pub(crate) fn turns_due_in(&self, delay: Duration) {
        self.turns.due_in(delay);
        self.offer(Queue::Turns, delay);
    }

    /// An activity becomes visible in `delay`.
    pub(crate) fn work_due_in(&self, delay: Duration) {
        self.work.due_in(delay);
        self.offer(Queue::Work, delay);
    }

    /// Somebody who waits here for `queue` goes along with a call that fills it.
    pub(crate) fn passenger(
        &self,
        queue: Queue,
        targets: Option<Targets>,
        may_look: bool,
    ) -> Option<Box<dyn Passenger>> {
        match queue {
            Queue::Turns => self.turns.along(targets, may_look),
            Queue::Work => self.work.along(targets, may_look),
        }
    }

    /// Somebody here is about to wait for what other processes write to the feed.
    pub(crate) fn want_feed(&self) {
        if let Some(hints) = &self.hints {
            hints.want(Topic::Feed);
        }
    }

    /// Those who had these items from `queue` in hand, and come back for more, go along with the call that ends them.
    pub(crate) fn returning(&self, queue: Queue, marks: &[Mark]) -> Option<Box<dyn Passenger>> {
        match queue {
            Queue::Turns => self.turns.along_returning(marks),
            Queue::Work => self.work.along_returning(marks),
        }
    }

    /// Others may take what this process has just put into `queue`.
    pub(crate) fn offer_now(&self, queue: Queue) {
        self.offer(queue, Duration::ZERO);
    }

    pub(crate) fn offer(&self, topic: impl Into<Topic>, delay: Duration) {
        if let Some(hints) = &self.hints {
            hints.offer(topic, delay);
        }
    }

    pub(crate) fn listener_state(&self) -> ListenerState {
        self.hints.as_ref().map_or(ListenerState::Idle, Hints::state)
    }

    /// How long a fetch waits: not at all in short-poll mode.
    pub(crate) fn patience(&self, poll_timeout: Duration) -> Option<Duration> {
        (self.long_poll.enabled && !poll_timeout.is_zero()).then_some(poll_timeout)
    }

    /// Every 256th batch also removes answers that expired: 1,024 at most, so that the sweep keeps ahead.
    pub(crate) fn time_to_sweep(&self) -> bool {
        self.batches.fetch_add(1, Ordering::Relaxed) % 256 == 255
    }

    /// Until when a retry can make sense for a call without a lease.
    pub(crate) fn give_up(&self) -> Instant {
        later(self.pipe.settings().retry_timeout)
    }

    /// Until when repeating makes sense for a call under a lease: it is refused once the lease has ended. At least
    /// until a connection lost in this very moment can be replaced.
    pub(crate) fn give_up_with_lease(&self, lease: Duration) -> Instant {
        later(lease.max(Duration::from_secs(1)))
    }

    /// Gives a turn back whose lease ended by trouble, with the attempt that it was.
    pub(crate) async fn return_turn(&self, token: TurnToken) {
        let turn = AbandonedTurn {
            token,
            delay: None,
            ignore_attempt: true,
        };
        if let Err(error) = self.abandon_turns.submit(turn).await {
            tracing::debug!(target: "steadfast", %error, "a turn that trouble has cost was not given back");
        }
    }

    /// Gives an activity back likewise.
    pub(crate) async fn return_work(&self, token: WorkToken) {
        let work = AbandonedWork {
            token,
            delay: None,
            ignore_attempt: true,
        };
        if let Err(error) = self.abandon_work.submit(work).await {
            tracing::debug!(target: "steadfast", %error, "an activity that trouble has cost was not given back");
        }
    }

    /// Ends waiting and starts no more work; what is under way ends by itself.
    pub(crate) fn begin_close(&self) {
        self.pipe.gate().end();
        self.turns.close();
        self.work.close();
        self.closing.cancel();
        self.tasks.close();
        self.listening.close();
    }

    /// Whether something is under way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.tasks.is_empty() || !self.listening.is_empty()
    }

    /// Returns when the store has begun to close.
    pub(crate) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Ends everything: claims that come back are returned, what was written is given its position in the feed, others are
    /// told the last news, connections are closed.
    pub(crate) async fn close(&self) {
        self.begin_close();
        // Bounded: a server that does not answer must not keep a process from ending.
        let (background, limit) = (self.pipe.background(), self.pipe.settings().call_timeout);
        let _ = background.timeout(limit, self.tasks.wait()).await;
        self.stop.cancel();
        let _ = background.timeout(limit, self.listening.wait()).await;
        self.pipe.close();
    }

    /// The same where nobody can wait for anything.
    pub(crate) fn end_at_once(&self) {
        self.stop.cancel();
        self.pipe.close();
    }
}

/// When trouble begins, the catalogue is asked what is missing, on a connection of its own.
fn diagnose_trouble(pipe: &Pipe, connector: &Connector, records: bool) {
    let (connector, schema) = (connector.clone(), pipe.settings().schema.clone());
    let (background, timeout) = (pipe.background(), pipe.settings().call_timeout);
    pipe.gate().set_diagnosis(move |gate| {
        let (gate, connector, schema) = (Arc::clone(gate), connector.clone(), schema.clone());
        background.spawn(async move {
            let asked = with_connection(&connector, timeout, async |client| {
                rights::missing(client, &schema, records, true, false).await
            });
            // Connecting counts as well.
            let missing = match tokio::time::timeout(timeout, asked).await {
                Ok(Ok(missing)) => missing.iter().map(Missing::describe).collect(),
                Ok(Err(_)) | Err(_) => Vec::new(),
            };
            gate.found(missing);
        });
    });
}

/// Passes what the listener hears to the lanes.
struct Lanes {
    store: Weak<Store>,
    bell: Arc<Bell>,
    turns: Weak<FetchLane<TurnClaimer>>,
    work: Weak<FetchLane<WorkClaimer>>,
}

impl Ear for Lanes {
    fn hint(&self, queue: Topic, delay: Duration) {
        match queue {
            Topic::Turns => tell(&self.turns, delay),
            Topic::Work => tell(&self.work, delay),
            Topic::Feed => self.bell.ring(),
            Topic::Pending => {
                if let Some(store) = self.store.upgrade() {
                    store.feed_asked();
                }
            }
        }
    }

    fn hints_arrive(&self, arrive: bool) {
        self.bell.reaches_far(arrive);
        if let Some(lane) = self.turns.upgrade() {
            lane.hints_arrive(arrive);
        }
        if let Some(lane) = self.work.upgrade() {
            lane.hints_arrive(arrive);
        }
    }

    fn sleeping(&self, queue: Topic) -> usize {
        match queue {
            Topic::Turns => self.turns.upgrade().map_or(0, |l| l.sleeping()),
            Topic::Work => self.work.upgrade().map_or(0, |l| l.sleeping()),
            Topic::Feed => self.bell.waiting(),
            Topic::Pending => 0,
        }
    }
}

fn tell<C: super::fetch_lane::Claimer>(lane: &Weak<FetchLane<C>>, delay: Duration) {
    if let Some(lane) = lane.upgrade() {
        if delay.is_zero() {
            lane.signal(1);
        } else {
            lane.due_in(delay);
        }
    }
}

/// A moment in the future, at most a day away: nothing here is repeated for longer, whatever a caller asks for.
pub(crate) fn later(delay: Duration) -> Instant {
    Instant::now() + delay.min(Duration::from_secs(86_400))
}

/// A column of an answer.
pub(crate) fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a tokio_postgres::Row,
    name: &str,
) -> Result<T, StoreError> {
    row.try_get(name)
        .map_err(|e| StoreError::Decode(format!("column {name}: {e}")))
}
