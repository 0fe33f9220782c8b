//! Hints between processes: one dedicated connection that listens, tells who waits here, and notifies others.
//!
//! Invariants: a hint is never the truth, only a reason to look; notifications are sent from here, never within a
//! transaction that does work, and only when another process waits; who waits is an advisory lock of this
//! connection, so it vanishes with it; a waiter registers, looks once more, then sleeps; after every reconnect all
//! look again; while listening does not work, everybody polls.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::connector::Connector;
use super::errand::drive;
use super::error::StoreError;
use super::hint::{Channel, Hint};
use super::target::Connected;
use crate::background::Tasks;
use crate::fault::Faults;

mod register;
use register::Registered;

/// The two queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Queue {
    Turns,
    Work,
}

/// What there is to wait for: the two queues, and the change feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    Turns,
    Work,
    Feed,
    /// Something waits for a position in the change feed, and who found it may not give it one. For everybody.
    Pending,
}

impl From<Queue> for Topic {
    fn from(queue: Queue) -> Self {
        match queue {
            Queue::Turns => Self::Turns,
            Queue::Work => Self::Work,
        }
    }
}

impl Queue {
    pub(crate) fn name(self) -> &'static str {
        Topic::from(self).name()
    }

    /// The one that this one's items make work for.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Turns => Self::Work,
            Self::Work => Self::Turns,
        }
    }
}

impl Topic {
    fn name(self) -> &'static str {
        match self {
            Self::Turns => "orchestrator",
            Self::Work => "worker",
            Self::Feed => "feed",
            Self::Pending => "pending",
        }
    }

    pub(crate) fn letter(self) -> char {
        match self {
            Self::Turns => 't',
            Self::Work => 'w',
            Self::Feed => 'f',
            Self::Pending => 'p',
        }
    }

    /// Second key of the lock that says who waits; 0: nobody says so.
    pub(crate) fn lock_id(self) -> i32 {
        match self {
            Self::Turns => 1,
            Self::Work => 2,
            Self::Feed => 3,
            Self::Pending => 0,
        }
    }
}

/// Who is told what the listener hears.
pub(crate) trait Ear: Send + Sync + 'static {
    /// Something is due in `queue`, now or after `delay`.
    fn hint(&self, queue: Topic, delay: Duration);
    /// Hints arrive from now on, or do not any more.
    fn hints_arrive(&self, arrive: bool);
    /// How many sleep until they are told.
    fn sleeping(&self, queue: Topic) -> usize;
}

/// How the listener fares, for the health report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerState {
    /// Not needed yet.
    Idle,
    /// Connecting, or reconnecting after the connection was lost.
    Connecting,
    /// Hints arrive.
    Listening,
    /// Notifications cannot work here (a transaction-mode pooler, a standby): everybody polls.
    Polling,
}

enum Command {
    Offer(Topic, Duration),
    Want(Topic),
}

/// Handle of the listener; clones share it.
#[derive(Clone)]
pub(crate) struct Hints(Arc<Shared>);

struct Shared {
    commands: mpsc::UnboundedSender<Command>,
    state: Arc<AtomicU8>,
}

/// What the listener needs to run.
pub(crate) struct Listener {
    pub(crate) connector: Connector,
    pub(crate) quoted_schema: String,
    pub(crate) channel: Channel,
    pub(crate) fallback_poll_interval: Duration,
    pub(crate) ear: Box<dyn Ear>,
    pub(crate) faults: Faults,
    pub(crate) stop: CancellationToken,
    /// `false` where it is known that listening cannot work.
    pub(crate) possible: bool,
}

/// Shortest time between two notifications: what happens meanwhile shares one.
const COALESCE: Duration = Duration::from_millis(5);
/// Longest wait for an answer on the listener's connection before it counts as dead.
const ANSWER: Duration = Duration::from_secs(5);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long the end of a process may be held up by hints that were not sent yet.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often to try again whether notifications work where they did not.
const RECHECK: Duration = Duration::from_secs(300);

impl Hints {
    /// Starts the listener's task; it connects when it is first needed.
    pub(crate) fn start(listener: Listener, tasks: &Tasks) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let state = Arc::new(AtomicU8::new(ListenerState::Idle as u8));
        let shared = Shared {
            commands,
            state: Arc::clone(&state),
        };
        tasks.spawn(run(listener, inbox, state));
        Self(Arc::new(shared))
    }

    /// Others may want to know that `queue` has something, now or after `delay`.
    pub(crate) fn offer(&self, topic: impl Into<Topic>, delay: Duration) {
        let _ = self.0.commands.send(Command::Offer(topic.into(), delay));
    }

    /// Somebody here is about to sleep on `queue`.
    pub(crate) fn want(&self, topic: impl Into<Topic>) {
        let _ = self.0.commands.send(Command::Want(topic.into()));
    }

    pub(crate) fn state(&self) -> ListenerState {
        match self.0.state.load(Ordering::Relaxed) {
            1 => ListenerState::Connecting,
            2 => ListenerState::Listening,
            3 => ListenerState::Polling,
            _ => ListenerState::Idle,
        }
    }
}

/// What the task knows between connections.
struct Run {
    listener: Listener,
    inbox: mpsc::UnboundedReceiver<Command>,
    state: Arc<AtomicU8>,
    /// Hints to send, with the soonest delay, kept until they are sent.
    offers: HashMap<Topic, Instant>,
    wanted: HashMap<Topic, Instant>,
}

enum End {
    Stop,
    Lost(StoreError),
    Impossible(String),
}

async fn run(listener: Listener, inbox: mpsc::UnboundedReceiver<Command>, state: Arc<AtomicU8>) {
    let stop = listener.stop.clone();
    let listener = Listener {
        connector: listener.connector.answering_within(ANSWER),
        ..listener
    };
    let mut run = Run {
        listener,
        inbox,
        state,
        offers: HashMap::new(),
        wanted: HashMap::new(),
    };
    tokio::select! {
        () = run.forever() => {}
        () = stop.cancelled() => {}
    }
    // A process that enqueues and ends must not take the news with it.
    let _ = tokio::time::timeout(LAST_WORDS, run.last_words()).await;
}

impl Run {
    async fn forever(&mut self) {
        // The connection is opened when the first hint is offered or wanted.
        let Some(first) = self.inbox.recv().await else { return };
        self.note(first);
        let mut backoff = BACKOFF.0;
        loop {
            if !self.listener.possible {
                self.set_state(ListenerState::Polling);
                tracing::info!(target: "steadfast", server = %self.listener.connector.describe(),
                    "notifications are not used here, as it is set; polling instead");
                return self.drain().await;
            }
            self.set_state(ListenerState::Connecting);
            let started = Instant::now();
            let end = match self.listener.connector.connect().await {
                Ok(connected) => self.serve(connected).await,
                Err(error) => End::Lost(error),
            };
            self.listener.ear.hints_arrive(false);
            metrics::gauge!("steadfast_listener_connected").set(0.0);
            match end {
                End::Stop => return,
                End::Impossible(why) => {
                    self.set_state(ListenerState::Polling);
                    tracing::warn!(target: "steadfast", server = %self.listener.connector.describe(), why,
                        "notifications do not work here; polling instead");
                    self.pause(RECHECK).await;
                }
                End::Lost(error) => {
                    if started.elapsed() > Duration::from_secs(30) {
                        backoff = BACKOFF.0;
                    }
                    tracing::info!(target: "steadfast", %error, "the listener's connection is gone; reconnecting");
                    metrics::counter!("steadfast_listener_reconnects_total").increment(1);
                    self.pause(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
            }
        }
    }

    /// Sends what was offered and not yet sent, on a connection of its own: where the last one stands is unknown.
    async fn last_words(&mut self) {
        while let Ok(command) = self.inbox.try_recv() {
            self.note(command);
        }
        if self.offers.is_empty() || !self.listener.possible {
            return;
        }
        let Ok(Connected { client, messages, .. }) = self.listener.connector.connect().await else {
            return;
        };
        let driver = drive(messages);
        if let Err(error) = self.send_offers(&client).await {
            tracing::debug!(target: "steadfast", %error, "the last hints were not sent; a fallback poll finds the work");
        }
        drop(client);
        let _ = driver.await;
    }

    fn set_state(&self, state: ListenerState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    fn note(&mut self, command: Command) {
        match command {
            Command::Offer(queue, delay) => {
                let Some(at) = Instant::now().checked_add(delay) else {
                    return;
                };
                self.offers.entry(queue).and_modify(|t| *t = at.min(*t)).or_insert(at);
            }
            Command::Want(queue) => {
                self.wanted.insert(queue, Instant::now());
            }
        }
    }

    /// Sleeps, and goes on taking commands, which coalesce.
    async fn pause(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            tokio::select! {
                () = sleep_until(Some(until)) => return,
                command = self.inbox.recv() => match command {
                    Some(command) => self.note(command),
                    None => return,
                },
            }
        }
    }

    /// Commands have nobody to carry them out; they must not pile up.
    async fn drain(&mut self) {
        while self.inbox.recv().await.is_some() {}
    }

    async fn serve(&mut self, connected: Connected) -> End {
        let Connected {
            client, mut messages, ..
        } = connected;
        let (heard, mut ears) = mpsc::unbounded_channel();
        // Ends with the handle, whatever the server still owes.
        let _driver = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                if let AsyncMessage::Notification(n) = message
                    && heard.send((n.process_id(), n.payload().to_owned())).is_err()
                {
                    break;
                }
            }
        }));
        self.converse(&client, &mut ears).await
    }

    async fn converse(&mut self, client: &Client, ears: &mut mpsc::UnboundedReceiver<(i32, String)>) -> End {
        let own_pid = match self.begin(client, ears).await {
            Ok(pid) => pid,
            Err(end) => return end,
        };
        self.set_state(ListenerState::Listening);
        metrics::gauge!("steadfast_listener_connected").set(1.0);
        let mut registered = Registered::default();
        let mut last_sent = Instant::now() - COALESCE;
        let mut next_poll = Instant::now() + self.listener.fallback_poll_interval;
        let generation = self.listener.faults.listener_generation();
        // Registered before they are told that hints arrive: the look that follows is the one "once more".
        let result = self.register(client, &mut registered).await;
        if let Err(error) = result {
            return End::Lost(error);
        }
        self.listener.ear.hints_arrive(true);
        loop {
            let send_at = (!self.offers.is_empty()).then(|| last_sent + COALESCE);
            let housekeeping = registered.next_look(!self.wanted.is_empty());
            tokio::select! {
                biased;
                command = self.inbox.recv() => match command {
                    Some(command) => self.note(command),
                    None => return End::Stop,
                },
                heard = ears.recv() => match heard {
                    Some((pid, payload)) if pid != own_pid => self.hear(&payload),
                    Some(_) => {}
                    None => return End::Lost(StoreError::Connection("the server closed it".to_owned())),
                },
                () = sleep_until(send_at) => {
                    last_sent = Instant::now();
                    if let Err(error) = self.send_offers(client).await {
                        return End::Lost(error);
                    }
                }
                () = sleep_until(Some(next_poll)) => {
                    next_poll = Instant::now() + self.listener.fallback_poll_interval;
                    if let Err(error) = self.poll(client).await {
                        return End::Lost(error);
                    }
                }
                () = sleep_until(housekeeping) => {}
            }
            if self.listener.faults.listener_generation() != generation {
                return End::Lost(StoreError::Connection("injected".to_owned()));
            }
            let kept = async {
                self.register(client, &mut registered).await?;
                self.unregister(client, &mut registered).await
            };
            if let Err(error) = kept.await {
                return End::Lost(error);
            }
        }
    }

    /// LISTEN, and the proof that notifications really arrive on this connection.
    async fn begin(&self, client: &Client, ears: &mut mpsc::UnboundedReceiver<(i32, String)>) -> Result<i32, End> {
        let probe = uuid::Uuid::new_v4().to_string();
        let statements = async {
            client
                .batch_execute(&format!("LISTEN {}", self.listener.channel.name))
                .await?;
            let rows = client
                .query_typed(
                    "SELECT pg_backend_pid(), pg_notify($1, $2)::text",
                    &[(&self.listener.channel.name, Type::TEXT), (&probe, Type::TEXT)],
                )
                .await?;
            Ok::<_, tokio_postgres::Error>(rows.first().map_or(0, |r| r.get::<_, i32>(0)))
        };
        let pid = match tokio::time::timeout(ANSWER, statements).await {
            Err(_) => return Err(End::Lost(StoreError::Timeout(ANSWER))),
            Ok(Ok(pid)) => pid,
            Ok(Err(error)) => {
                let error = StoreError::from(error);
                // A standby refuses LISTEN (25006); a pooler may refuse it in its own way.
                let refused = matches!(&error, StoreError::Database { sqlstate, .. }
                    if sqlstate == "25006" || sqlstate == "0A000" || sqlstate == "08P01" || sqlstate == "42501");
                return Err(if refused {
                    End::Impossible(error.to_string())
                } else {
                    End::Lost(error)
                });
            }
        };
        let deadline = Instant::now() + ANSWER;
        loop {
            tokio::select! {
                heard = ears.recv() => match heard {
                    Some((_, payload)) if payload == probe => return Ok(pid),
                    Some((_, payload)) => self.hear(&payload),
                    None => return Err(End::Lost(StoreError::Connection("closed at the start".to_owned()))),
                },
                () = sleep_until(Some(deadline)) =>
                    return Err(End::Impossible("a notification to ourselves did not arrive".to_owned())),
            }
        }
    }

    fn hear(&self, payload: &str) {
        if self.listener.faults.hint_lost() {
            return;
        }
        // "t", "w1500", several separated by spaces: queue, then ms until due.
        for word in payload.split(' ') {
            let queue = match word.chars().next() {
                Some('t') => Topic::Turns,
                Some('w') => Topic::Work,
                Some('f') => Topic::Feed,
                Some('p') => Topic::Pending,
                _ => continue,
            };
            let delay = word.get(1..).and_then(|d| d.parse().ok()).unwrap_or(0);
            metrics::counter!("steadfast_hints_received_total", "queue" => queue.name()).increment(1);
            self.listener.ear.hint(queue, Duration::from_millis(delay));
        }
    }

    /// Tells the others who wait.
    async fn send_offers(&mut self, client: &Client) -> Result<(), StoreError> {
        let now = Instant::now();
        let offers = self.offers.iter();
        let hint = Hint::of(
            &self.listener.channel,
            offers.map(|(topic, at)| (*topic, at.saturating_duration_since(now))),
        );
        answered(hint.send(client)).await?;
        // Only now: what a broken connection swallowed is sent over the next one.
        self.offers.clear();
        Ok(())
    }

    /// The safety poll: finds what a lost hint would have shown, and that the connection is alive.
    async fn poll(&mut self, client: &Client) -> Result<(), StoreError> {
        if self.listener.ear.sleeping(Topic::Turns) + self.listener.ear.sleeping(Topic::Work) == 0 {
            return Ok(());
        }
        let sql = format!("SELECT * FROM {}.sf_poll_waiting()", self.listener.quoted_schema);
        let rows = answered(client.query_typed(&sql, &[])).await?;
        metrics::counter!("steadfast_fallback_polls_total").increment(1);
        if let Some(row) = rows.first() {
            for (queue, column) in [(Topic::Turns, 0), (Topic::Work, 1)] {
                if let Ok(Some(ms)) = row.try_get::<_, Option<i64>>(column) {
                    self.listener
                        .ear
                        .hint(queue, Duration::from_millis(ms.max(0).unsigned_abs()));
                }
            }
            if row.try_get::<_, bool>(2).unwrap_or(false) {
                self.listener.ear.hint(Topic::Pending, Duration::ZERO);
            }
        }
        Ok(())
    }
}

async fn answered<T>(query: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout(ANSWER, query).await {
        Ok(answer) => answer.map_err(StoreError::from),
        Err(_) => Err(StoreError::Timeout(ANSWER)),
    }
}

/// Sleeps until `at`, or for ever.
async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
