//! One provider's inside: what its callers, its writer and its readers share.
//!
//! Invariant: what was handed in is answered, whatever becomes of the caller; after the end everything is refused.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::builder::{OpenError, OpenErrorKind, Settings};
use super::claim::RawTurn;
use super::claim::work::RawWork;
use super::clock::Reading;
use super::connection::{Place, Witness, fold_log, keep_log, open_reader, open_writer};
use super::error::{Class, StoreError};
use super::job::{Call, Job, Settled};
use super::log::{self, Phase};
use super::look::Look;
use super::op::Operation;
use super::op::abandon_orchestration_item::AbandonedTurn;
use super::op::abandon_work_item::AbandonedWork;
use super::presence::Presence;
use super::reader::Readers;
use super::schema;
use super::transaction::Tx;
use super::waiting::Caller;
use super::writer::Writer;
use crate::batch::{Lane, Limits};
use crate::feed::Bell;
use crate::group::{TurnGroup, WorkGroup};
use crate::history_cache::HistoryCache;
use crate::limit::{HistoryLimit, PayloadLimit};
use crate::refused::RefusedTurns;
use crate::sessions::Sessions;
use crate::spent::Spent;

/// Bounds of one transaction.
const LIMITS: Limits = Limits {
    max_calls: 256,
    max_bytes: 16 << 20,
    max_in_flight: 1,
    beside_calls: 0,
};

/// A caller that waits for an instance.
pub(crate) type TurnCaller = Caller<TurnGroup, (), RawTurn>;
/// A caller that waits for an activity.
pub(crate) type WorkCaller = Caller<WorkGroup, Vec<u8>, RawWork>;

/// What the writer finds in its mailbox.
pub(crate) struct Mail {
    pub(crate) jobs: Vec<Box<dyn Job>>,
    pub(crate) turns: Vec<TurnCaller>,
    pub(crate) work: Vec<WorkCaller>,
    pub(crate) stopping: bool,
}

struct Post {
    jobs: Lane<Box<dyn Job>>,
    turns: Vec<TurnCaller>,
    work: Vec<WorkCaller>,
    /// Jobs that the writer has in hand.
    under_way: usize,
    stopping: bool,
    ended: bool,
}

/// Where callers leave what the writer is to do.
pub(crate) struct Mailbox {
    post: Mutex<Post>,
    bell: Condvar,
}

impl Mailbox {
    fn new() -> Self {
        Self {
            post: Mutex::new(Post {
                jobs: Lane::new(LIMITS),
                turns: Vec::new(),
                work: Vec::new(),
                under_way: 0,
                stopping: false,
                ended: false,
            }),
            bell: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Post> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, put: impl FnOnce(&mut Post)) -> Result<(), StoreError> {
        let mut post = self.lock();
        if post.ended {
            return Err(StoreError::Closed);
        }
        put(&mut post);
        drop(post);
        self.bell.notify_one();
        Ok(())
    }

    /// The writer's side: waits for something to do, at most until `until`, and not at all unless `patient`.
    pub(crate) fn wait(&self, until: Option<Instant>, patient: bool) -> Mail {
        let mut post = self.lock();
        let done = std::mem::take(&mut post.under_way);
        if done > 0 {
            post.jobs.finished(done);
        }
        loop {
            let mut jobs = Vec::new();
            if post.jobs.reserve() {
                jobs = post.jobs.take_batch(|job| job.is_wanted());
                if jobs.is_empty() {
                    post.jobs.finished(0);
                }
            }
            post.under_way = jobs.len();
            let now = Instant::now();
            let due = until.is_some_and(|at| at <= now);
            let asked = !post.turns.is_empty() || !post.work.is_empty();
            if !jobs.is_empty() || asked || post.stopping || due || !patient {
                return Mail {
                    jobs,
                    turns: std::mem::take(&mut post.turns),
                    work: std::mem::take(&mut post.work),
                    stopping: post.stopping,
                };
            }
            post = match until {
                None => self.bell.wait(post).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let waited = self.bell.wait_timeout(post, at.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// The writer has gone: nothing more is taken, and what is left is dropped, which its callers hear.
    pub(crate) fn end(&self) {
        let mut post = self.lock();
        post.ended = true;
        post.jobs = Lane::new(LIMITS);
        post.turns.clear();
        post.work.clear();
    }
}

/// Everything behind a provider.
pub(crate) struct Store {
    pub(crate) mailbox: Mailbox,
    pub(crate) settings: Settings,
    pub(crate) sessions: Sessions,
    /// Rung after commits that wrote to the change feed.
    pub(crate) bell: Arc<Bell>,
    place: Place,
    /// The store's time less the uptime.
    offset_ms: i64,
    pub(crate) refused: RefusedTurns,
    cache: Mutex<HistoryCache>,
    readers: Option<Arc<Readers>>,
    /// Where the store is only looked at.
    look: Option<Arc<Look>>,
    /// Ends after all connections.
    presence: Mutex<Option<Presence>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    waiting: (AtomicUsize, AtomicUsize),
    /// Why the last transaction failed, for those whose time runs out meanwhile.
    trouble: Mutex<Option<StoreError>>,
    /// Claims whose acks came to nothing by trouble.
    pub(crate) spent: Spent,
}

impl Store {
    /// Opens the file, and starts the threads.
    pub(crate) fn open(place: Place, settings: Settings) -> Result<Arc<Self>, OpenError> {
        let opened = open_writer(&place, settings.durability)?;
        // In this order, so that the connection is closed first.
        let (presence, alone) = (opened.presence, opened.alone);
        let mut connection = opened.connection;
        if presence.is_some() && alone {
            // What a dead process left in the log may fill the volume.
            fold_log(&connection);
        }
        let clock = schema::prepare(&mut connection, &settings.faults, settings.accepts_changes)?;
        let (witness, reading) = match &place {
            Place::File(path) => {
                let marked = begin_log(&connection, alone);
                let witness = Witness::new(path)?;
                (Some((witness, marked)), open_readers(path, settings.readers)?)
            }
            Place::Memory => (None, Vec::new()),
        };
        let readers = (!reading.is_empty()).then(|| Arc::new(Readers::of(reading.len())));
        let store = Arc::new(Self {
            readers: readers.clone(),
            presence: Mutex::new(presence),
            ..Self::over(place, settings, clock.offset_ms)
        });
        let mut threads = Vec::new();
        let writer = Writer::new(Arc::clone(&store), connection, clock, witness);
        threads.push(thread("steadfast-writer", move || writer.run())?);
        let count = reading.len();
        for connection in reading {
            if let Some(readers) = readers.clone() {
                threads.push(thread("steadfast-reader", move || readers.serve(connection, count))?);
            }
        }
        *store.threads() = threads;
        Ok(store)
    }

    /// Opens the file to look into it.
    pub(crate) fn look_at(path: &Path, settings: Settings) -> Result<Arc<Self>, OpenError> {
        let look = Look::at(path)?;
        let clock = look.open_with(|connection| schema::prepare_to_look(connection, &settings.faults))?;
        let store = Self::over(Place::File(path.to_owned()), settings, clock.offset_ms);
        store.mailbox.end();
        Ok(Arc::new(Self {
            look: Some(Arc::new(look)),
            ..store
        }))
    }

    fn over(place: Place, settings: Settings, offset_ms: i64) -> Self {
        Self {
            mailbox: Mailbox::new(),
            sessions: Sessions::default(),
            bell: Arc::default(),
            refused: RefusedTurns::default(),
            cache: Mutex::new(HistoryCache::looked_into(settings.history_cache_bytes)),
            readers: None,
            look: None,
            presence: Mutex::new(None),
            threads: Mutex::new(Vec::new()),
            waiting: (AtomicUsize::new(0), AtomicUsize::new(0)),
            trouble: Mutex::new(None),
            spent: Spent::default(),
            place,
            offset_ms,
            settings,
        }
    }

    /// The look, where the store was opened only for that.
    pub(crate) fn look(&self) -> Option<&Arc<Look>> {
        self.look.as_ref()
    }

    fn presence(&self) -> MutexGuard<'_, Option<Presence>> {
        self.presence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody else has the file open, as far as can be told.
    pub(crate) fn is_alone(&self) -> bool {
        self.presence().as_ref().is_some_and(|p| p.is_alone().unwrap_or(false))
    }

    /// All connections have been closed.
    pub(crate) fn leave(&self) {
        drop(self.presence().take());
    }

    /// Another process that has the file open: its id, 0 where that cannot be told.
    pub(crate) fn other_process(&self) -> std::io::Result<Option<i32>> {
        match (self.presence().as_ref(), &self.look) {
            (Some(presence), _) => presence.other_process(),
            (None, Some(look)) => look.other_process(),
            (None, None) => Ok(None),
        }
    }

    /// The store's time.
    pub(crate) fn now(&self) -> i64 {
        self.offset_ms
            .saturating_add(Reading::take(&self.settings.faults).uptime_ms)
    }

    /// The wall clock's time.
    pub(crate) fn wall_now(&self) -> i64 {
        Reading::take(&self.settings.faults).wall_ms
    }

    /// The largest payload that is taken.
    pub(crate) fn payload_limit(&self) -> PayloadLimit {
        self.settings.payload_limit
    }

    /// The largest history that is handed out.
    pub(crate) fn history_limit(&self) -> HistoryLimit {
        self.settings.history_limit
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn cache(&self) -> MutexGuard<'_, HistoryCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an operation to the writer and waits for its answer. Dropping the future before the operation was begun
    /// cancels it; afterwards it takes its course.
    pub(crate) async fn submit<O: Operation>(&self, operation: O) -> Result<O::Answer, StoreError> {
        self.settle(operation).await.1
    }

    /// As [`Self::submit`]; the operation comes back with its answer, unless the provider is closed.
    pub(crate) async fn settle<O: Operation>(&self, operation: O) -> (Option<O>, Result<O::Answer, StoreError>) {
        let (answer, answered) = oneshot::channel();
        if let Err(error) = self.post(operation, Some(answer)) {
            return (None, Err(error));
        }
        match answered.await {
            Ok((operation, outcome)) => (Some(operation), outcome),
            Err(_) => (None, Err(StoreError::Closed)),
        }
    }

    fn post<O: Operation>(&self, operation: O, answer: Option<oneshot::Sender<Settled<O>>>) -> Result<(), StoreError> {
        const LONGEST: Duration = Duration::from_secs(86_400);
        let now = Instant::now();
        let bytes = operation.bytes();
        let call = Call {
            operation,
            outcome: None,
            answer,
            give_up: now + self.settings.retry_timeout.min(LONGEST),
            last: now + self.settings.trouble_timeout.min(LONGEST),
            met_trouble: false,
        };
        self.put(|post| post.jobs.push(Box::new(call), bytes))
    }

    fn put(&self, put: impl FnOnce(&mut Post)) -> Result<(), StoreError> {
        if self.look.is_some() {
            return Err(StoreError::ReadOnly);
        }
        self.mailbox.put(put)
    }

    /// Gives back an instance that nobody took.
    pub(crate) fn give_back_turn(&self, turn: AbandonedTurn) {
        metrics::counter!("steadfast_given_back_total", "queue" => "orchestrator").increment(1);
        if let Err(error) = self.post(turn, None) {
            tracing::debug!(target: "steadfast", %error, "could not give an instance back; its lease will end");
        }
    }

    /// Gives back an activity that nobody took.
    pub(crate) fn give_back_work(&self, work: AbandonedWork) {
        metrics::counter!("steadfast_given_back_total", "queue" => "worker").increment(1);
        if let Err(error) = self.post(work, None) {
            tracing::debug!(target: "steadfast", %error, "could not give an activity back; its lease will end");
        }
    }

    /// A caller that wants an instance.
    pub(crate) fn want_turn(&self, caller: TurnCaller) -> Result<(), StoreError> {
        self.put(|post| post.turns.push(caller))
    }

    /// A caller that wants an activity.
    pub(crate) fn want_work(&self, caller: WorkCaller) -> Result<(), StoreError> {
        self.put(|post| post.work.push(caller))
    }

    /// Asks the file something. Trouble that passes is waited for.
    pub(crate) async fn ask<T, F>(&self, question: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, StoreError> + Clone + Send + 'static,
    {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(5);
        loop {
            let answer = match (&self.look, &self.readers) {
                (Some(look), _) => ask_look(look, question.clone()).await,
                (None, Some(readers)) => ask_once(readers, question.clone()).await,
                (None, None) => self.submit(OnWriter(question.clone())).await,
            };
            match answer {
                Err(error) if error.may_pass() && begun.elapsed() + pause < self.patience_for(&error) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
                other => return other,
            }
        }
    }

    /// How long a read waits for what keeps it from being answered.
    fn patience_for(&self, error: &StoreError) -> Duration {
        if error.class() == Class::Trouble && !error.is_damage() {
            self.settings.trouble_timeout
        } else {
            self.settings.retry_timeout
        }
    }

    /// How long a fetch waits: not at all in short-poll mode.
    pub(crate) fn patience(&self, poll_timeout: Duration) -> Option<Duration> {
        (self.settings.long_poll.enabled && !poll_timeout.is_zero()).then_some(poll_timeout)
    }

    pub(crate) fn note_waiting(&self, turns: usize, work: usize) {
        self.waiting.0.store(turns, Ordering::Relaxed);
        self.waiting.1.store(work, Ordering::Relaxed);
    }

    /// Callers that wait, for instances and for activities.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (
            self.waiting.0.load(Ordering::Relaxed),
            self.waiting.1.load(Ordering::Relaxed),
        )
    }

    /// Notes what keeps the writer from working, or that nothing does. Each is logged once.
    pub(crate) fn note_trouble(&self, trouble: Option<StoreError>) {
        let mut noted = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*noted, &trouble) {
            (None, Some(error)) if error.class() != Class::Retryable => tracing::error!(target: "steadfast", %error,
                "the file is not as it must be; what is in hand is kept, and nothing is claimed"),
            (Some(error), None) if error.class() != Class::Retryable => {
                tracing::info!(target: "steadfast", "the file's trouble is over")
            }
            _ => {}
        }
        *noted = trouble;
    }

    /// What keeps the writer from working at the moment.
    pub(crate) fn trouble(&self) -> Option<StoreError> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends waiting; what was handed in is still done.
    pub(crate) fn begin_close(&self) {
        self.mailbox.lock().stopping = true;
        self.mailbox.bell.notify_one();
        if let Some(readers) = &self.readers {
            readers.close();
        }
    }

    /// Waits until no reader has the file open any more.
    pub(crate) fn outlast_readers(&self) {
        if let Some(readers) = &self.readers {
            readers.close();
            readers.wait_until_gone();
        }
    }

    /// Ends everything.
    pub(crate) async fn close(&self) {
        self.begin_close();
        let threads = std::mem::take(&mut *self.threads());
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!(target: "steadfast", "a thread of the embedded engine panicked");
                }
            }
        });
        if let Err(error) = joined.await {
            tracing::error!(target: "steadfast", %error, "could not wait for the engine's threads");
        }
    }
}

async fn ask_once<T, F>(readers: &Readers, question: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: Fn(&Connection) -> Result<T, StoreError> + Send + 'static,
{
    let (answer, answered) = oneshot::channel();
    let asked = readers.ask(Box::new(move |connection| {
        if !answer.is_closed() {
            let _ = answer.send(question(connection));
        }
    }));
    if !asked {
        return Err(StoreError::Closed);
    }
    answered.await.unwrap_or(Err(StoreError::Closed))
}

async fn ask_look<T, F>(look: &Arc<Look>, question: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: Fn(&Connection) -> Result<T, StoreError> + Send + 'static,
{
    let look = Arc::clone(look);
    let asked = tokio::task::spawn_blocking(move || look.ask(question));
    asked.await.unwrap_or(Err(StoreError::Closed))
}

/// A question where there are no readers: a store in memory has one connection.
struct OnWriter<F>(F);

impl<T, F> Operation for OnWriter<F>
where
    T: Send + 'static,
    F: Fn(&Connection) -> Result<T, StoreError> + Send + 'static,
{
    const NAME: &'static str = "read";
    type Answer = T;

    fn apply(&self, tx: &mut Tx<'_>) -> Result<T, StoreError> {
        (self.0)(tx.connection())
    }
}

fn open_readers(path: &Path, count: usize) -> Result<Vec<Connection>, OpenError> {
    (0..count).map(|_| open_reader(path, "")).collect()
}

/// Marks the file as open, so that no earlier copy of it can be taken for it, and the log as its own. `false`: there was
/// no room for it yet.
pub(super) fn begin_log(connection: &Connection, alone: bool) -> bool {
    let marked = (|| {
        if alone {
            log::mark(connection, Phase::Opening)?;
            fold_log(connection);
        }
        log::mark(connection, Phase::Working)
    })();
    if let Err(error) = &marked {
        tracing::warn!(target: "steadfast", %error, "the log could not be marked yet");
        // A file that is marked as opening must not lose its log, however empty.
        keep_log(connection, true);
    }
    marked.is_ok()
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|e| OpenError::new(OpenErrorKind::Database, format!("cannot start a thread: {e}")))
}
