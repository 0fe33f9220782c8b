//! The change feed on PostgreSQL: who gives positions, who reads, who is told.
//!
//! Invariants: positions are given after commit, outside the operations' path, by whoever comes first; who wrote something
//! comes back until nothing is pending, whoever holds the lock or whatever fails meanwhile; what a worker leaves that dies
//! in between is found by the readers, who look while they wait, and who ask for it where they may not assign; a ring
//! follows every assignment made here.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use duroxide::Event;
use tokio_postgres::Row as PgRow;
use uuid::Uuid;

use super::error::StoreError;
use super::listen::Topic;
use super::params::Params;
use super::provider::PostgresProvider;
use super::store::{Store, column};
use crate::feed::{
    Bell, CursorStatus, Feed, FeedError, FeedStatus, Filter, Level, Page, Request, Retention, Row, Source, Stretch,
    Token, recorded,
};
use crate::group::millis;

/// What is written within this time shares an assignment.
const COALESCE: Duration = Duration::from_millis(4);
/// While writing goes on, an assignment is followed by a pause this many times as long, so that what assigning costs stays
/// a small part of what the work costs; but no longer than readers may have to wait.
const BUSY_SHARE: u32 = 20;
const BUSY_COALESCE: Duration = Duration::from_millis(50);
/// Operations that one assignment moves.
const ASSIGN_ROWS: i32 = 10_000;
/// A pending table larger than this gives way to the other one.
const ROTATE_BYTES: i64 = 1 << 20;
/// Operations that one step of trimming removes.
const TRIM_ROWS: i32 = 10_000;
/// While it writes, a process trims so often, and so many steps at most.
const TRIM_EVERY: Duration = Duration::from_secs(60);
const TRIM_STEPS: usize = 20;

/// Who was refused to assign tries again after this: grants change, and servers are promoted.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// Meanwhile it asks others, so often at most.
const ASK_OTHERS: Duration = Duration::from_millis(200);
/// Pauses while somebody else is assigning, whose snapshot may be older than what was written here.
const BUSY_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(400));
/// Pauses while assigning fails.
const TROUBLE_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long the end of a process may be held up by what has no position yet. A reader finds it then.
const LAST_ASSIGNMENT: Duration = Duration::from_secs(1);

/// Where the pump stands: nothing to do; under way; asked again meanwhile.
const IDLE: u8 = 0;
const RUNNING: u8 = 1;
const AGAIN: u8 = 2;

/// A store's part in the feed.
pub(crate) struct FeedSide {
    pub(crate) bell: Arc<Bell>,
    level: Level,
    retention: Retention,
    pump: AtomicU8,
    trimmed: Mutex<Instant>,
}

impl FeedSide {
    pub(crate) fn new(level: Level, retention: Retention) -> Self {
        Self {
            bell: Arc::default(),
            level,
            retention,
            pump: AtomicU8::new(IDLE),
            trimmed: Mutex::new(Instant::now()),
        }
    }

    /// Whether deletions and the like are recorded.
    pub(crate) fn records(&self) -> bool {
        self.level != Level::Off
    }

    /// Whether it is time to trim; then it is not for a while.
    fn time_to_trim(&self) -> bool {
        let mut last = self.trimmed.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.elapsed() >= TRIM_EVERY;
        if due {
            *last = Instant::now();
        }
        due
    }
}

/// The feed's kinds of these events, one each, or nothing when none is recorded.
pub(crate) fn feed_kinds<'a>(store: &Store, events: impl IntoIterator<Item = &'a Event>) -> Vec<i16> {
    let level = store.feed.level;
    if level == Level::Off {
        return Vec::new();
    }
    let kinds: Vec<i16> = events.into_iter().map(|e| recorded(level, &e.kind)).collect();
    if kinds.iter().all(|k| *k == 0) {
        Vec::new()
    } else {
        kinds
    }
}

impl Store {
    /// These events have been committed.
    pub(crate) fn feed_written<'a>(self: &Arc<Self>, events: impl IntoIterator<Item = &'a Event>) {
        let level = self.feed.level;
        if level != Level::Off && events.into_iter().any(|e| recorded(level, &e.kind) != 0) {
            self.feed_noted();
        }
    }

    /// Something that is recorded has been committed: it is given its position soon.
    pub(crate) fn feed_noted(self: &Arc<Self>) {
        if self.feed.records() {
            self.feed_pump();
        }
    }

    /// Somebody who may not assign has found something pending, whoever left it.
    pub(crate) fn feed_asked(self: &Arc<Self>) {
        self.feed_pump();
    }

    fn feed_pump(self: &Arc<Self>) {
        if self.feed.pump.swap(AGAIN, Ordering::AcqRel) == IDLE {
            self.tasks.spawn(pump(Arc::clone(self)));
        }
    }

    /// Gives positions to what is pending.
    async fn feed_assign(&self) -> Result<Assigned, StoreError> {
        let params = Params::new().int(ASSIGN_ROWS).big(ROTATE_BYTES);
        let rows = self.pipe.call("sf_feed_assign", &params).await?;
        let row = rows.first().ok_or_else(|| StoreError::Decode("no row".to_owned()))?;
        let (moved, more): (i64, bool) = (column(row, "moved")?, column(row, "more")?);
        let busy: bool = column(row, "busy")?;
        if moved > 0 {
            metrics::counter!("steadfast_feed_assigned_total").increment(moved.unsigned_abs());
            self.feed.bell.ring();
            self.offer(Topic::Feed, Duration::ZERO);
        }
        Ok(match (busy, more) {
            (true, _) => Assigned::Busy,
            (false, true) => Assigned::Some,
            (false, false) => Assigned::All,
        })
    }

    /// Calls what writes, patiently; but not where it is refused: such a server or role may refuse it for long.
    async fn feed_write(&self, function: &'static str, params: &Params) -> Result<Vec<PgRow>, StoreError> {
        match self.pipe.call(function, params).await {
            Err(error) if error.is_retryable() && !is_read_only(&error) => {
                self.pipe.call_patiently(function, params).await
            }
            other => other,
        }
    }

    async fn feed_trim(&self, retention: Retention) -> Result<(u64, bool), StoreError> {
        let events = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let params = Params::new()
            .big_opt(retention.max_age.map(millis))
            .big_opt(retention.max_events.map(events))
            .big(events(retention.max_held_events))
            .int(TRIM_ROWS);
        let rows = self.feed_write("sf_feed_trim", &params).await?;
        let row = rows.first().ok_or_else(|| StoreError::Decode("no row".to_owned()))?;
        let gone: i64 = column(row, "sf_feed_trim")?;
        metrics::counter!("steadfast_feed_trimmed_total").increment(gone.unsigned_abs());
        Ok((gone.unsigned_abs(), gone >= i64::from(TRIM_ROWS)))
    }
}

/// What became of an attempt to assign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Assigned {
    /// Nothing is pending that was committed before.
    All,
    /// There is more.
    Some,
    /// Somebody else is at it.
    Busy,
}

/// Assigns until nothing has been written meanwhile.
async fn pump(store: Arc<Store>) {
    let mut here = Pumping {
        store: Arc::clone(&store),
        ended: false,
    };
    let mut pause = COALESCE;
    loop {
        store.feed.pump.store(RUNNING, Ordering::Release);
        let closing = tokio::time::timeout(pause, store.closing()).await.is_ok();
        let started = Instant::now();
        if closing {
            if tokio::time::timeout(LAST_ASSIGNMENT, assign_all(&store)).await.is_err() {
                tracing::debug!(target: "steadfast", "closing before all has a position in the feed; a reader or writer gives it one");
            }
        } else {
            tokio::select! {
                () = assign_all(&store) => {}
                // Again at once, but not for long.
                () = store.closing() => continue,
            }
            pause = (started.elapsed() * BUSY_SHARE).clamp(COALESCE, BUSY_COALESCE);
            if store.feed.time_to_trim() {
                trim_a_little(&store).await;
            }
        }
        let idle = store
            .feed
            .pump
            .compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire);
        if idle.is_ok() {
            here.ended = true;
            return;
        }
    }
}

/// A pump at work. However it ends, with its runtime too, the next one may begin.
struct Pumping {
    store: Arc<Store>,
    ended: bool,
}

impl Drop for Pumping {
    fn drop(&mut self) {
        if !self.ended {
            self.store.feed.pump.store(IDLE, Ordering::Release);
        }
    }
}

/// Assigns until nothing is pending of what was committed before; comes back as often as that takes.
async fn assign_all(store: &Store) {
    let (mut busy, mut trouble) = (0, 0);
    loop {
        let pause = match store.feed_assign().await {
            Ok(Assigned::All) => return,
            Ok(Assigned::Some) => {
                (busy, trouble) = (0, 0);
                continue;
            }
            Ok(Assigned::Busy) => grown(BUSY_PAUSE, &mut busy),
            Err(StoreError::Closed) => return,
            Err(error) => {
                // Not of what passes within a second.
                if trouble == 4 {
                    tracing::warn!(target: "steadfast", %error, "the feed gets no positions; trying again");
                }
                grown(TROUBLE_PAUSE, &mut trouble)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// The next pause of a growing row, with jitter, so that many who wait for the same do not come back as one.
fn grown((shortest, longest): (Duration, Duration), setbacks: &mut u32) -> Duration {
    let pause = shortest.saturating_mul(1 << (*setbacks).min(16)).min(longest);
    *setbacks = setbacks.saturating_add(1);
    pause.mul_f64(0.5 + f64::from(Uuid::new_v4().as_bytes()[0]) / 512.0)
}

async fn trim_a_little(store: &Store) {
    for _ in 0..TRIM_STEPS {
        match store.feed_trim(store.feed.retention).await {
            Ok((_, true)) => {}
            Ok((_, false)) => return,
            Err(error) => {
                tracing::warn!(target: "steadfast", %error, "could not trim the feed");
                return;
            }
        }
    }
}

impl PostgresProvider {
    /// The store's change feed, to be read through this provider's connections.
    #[must_use]
    pub fn feed(&self) -> Feed {
        Feed::over(PostgresFeed::new(self.clone(), false))
    }

    /// The change feed of a provider that serves nothing else.
    pub(crate) fn into_feed(self) -> Feed {
        Feed::over(PostgresFeed::new(self, true))
    }
}

struct PostgresFeed {
    /// Kept, so that it is not closed while somebody reads.
    provider: PostgresProvider,
    /// It ends with the feed.
    alone: bool,
    /// When it was last refused to assign, as a role or server that may only read refuses it.
    refused: Mutex<Option<Instant>>,
    /// When it last asked others to do it.
    asked: Mutex<Option<Instant>>,
}

impl PostgresFeed {
    fn new(provider: PostgresProvider, alone: bool) -> Self {
        Self {
            provider,
            alone,
            refused: Mutex::new(None),
            asked: Mutex::new(None),
        }
    }

    /// Some process that may write and listens assigns what is pending. (On a standby nobody can be asked: there a process
    /// that waits for work finds it with its next safety poll.)
    fn ask_others(&self) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.is_none_or(|at| at.elapsed() >= ASK_OTHERS) {
            *asked = Some(Instant::now());
            self.provider.store().offer(Topic::Pending, Duration::ZERO);
        }
    }

    /// Whether something is there that a reader who stands at `after` has not seen. (Who cannot look lets the reader find
    /// out why.)
    async fn has_news(&self, after: u64) -> bool {
        let request = Request {
            after,
            limit: 1,
            filter: Filter::default(),
            payload: false,
        };
        let pipe = &self.provider.store().pipe;
        match pipe
            .call("sf_feed_read", &read_params(&request))
            .await
            .and_then(|rows| page(&rows))
        {
            Ok(page) => page.head > after || page.pending,
            Err(_) => true,
        }
    }
}

impl From<StoreError> for FeedError {
    fn from(error: StoreError) -> Self {
        Self::Store {
            retryable: error.is_retryable(),
            message: error.to_string(),
        }
    }
}

/// Why something was not written. (A read that is refused lacks a grant, and says which.)
fn unwritten(error: StoreError) -> FeedError {
    if is_read_only(&error) {
        FeedError::ReadOnly
    } else {
        error.into()
    }
}

/// A role that may only read, a session that only reads, or a standby.
fn is_read_only(error: &StoreError) -> bool {
    matches!(error, StoreError::Database { sqlstate, .. } if sqlstate == "42501" || sqlstate == "25006")
}

/// Sequences are 63-bit in the store; what is beyond is behind every end.
fn place(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX).min(i64::MAX - (1 << 40))
}

fn read_params(request: &Request) -> Params {
    let filter = &request.filter;
    let list = |set: &Option<std::collections::BTreeSet<String>>| {
        set.as_ref()
            .map(|s| s.iter().filter(|t| !t.contains('\0')).cloned().collect::<Vec<_>>())
    };
    // No id holds a NUL; a prefix with one admits nothing.
    let impossible = filter.prefix.as_ref().is_some_and(|p| p.contains('\0'));
    let names = filter.orchestrations.as_ref();
    Params::new()
        .big(place(request.after))
        .int(i32::try_from(request.limit).unwrap_or(i32::MAX))
        .maybe_texts(if impossible {
            Some(Vec::new())
        } else {
            list(&filter.instances)
        })
        .text_opt(filter.prefix.clone().filter(|_| !impossible))
        .maybe_byteas(names.map(|n| n.iter().map(|t| t.as_bytes().to_vec()).collect()))
        .maybe_smalls((filter.kinds.as_ref()).map(|k| k.iter().map(|k| k.number()).collect()))
        .flag(request.payload)
}

#[async_trait::async_trait]
impl Source for PostgresFeed {
    async fn read(&self, request: &Request) -> Result<Page, FeedError> {
        let pipe = &self.provider.store().pipe;
        let rows = pipe.call_patiently("sf_feed_read", &read_params(request)).await?;
        Ok(page(&rows)?)
    }

    async fn assign(&self) -> Result<bool, FeedError> {
        let refused = || self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let store = self.provider.store();
        if refused().is_some_and(|at| at.elapsed() < ASK_AGAIN) {
            self.ask_others();
            return Ok(false);
        }
        match store.feed_assign().await {
            Ok(Assigned::Busy) => Ok(false),
            Ok(_) => Ok(true),
            Err(error) if is_read_only(&error) => {
                *refused() = Some(Instant::now());
                self.ask_others();
                Ok(false)
            }
            // Somebody else will, or the next poll.
            Err(error) if error.is_retryable() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn bell(&self) -> &Bell {
        &self.provider.store().feed.bell
    }

    async fn wait(&self, seen: u64, after: u64, timeout: Duration) {
        let store = self.provider.store();
        let (started, long_poll) = (Instant::now(), &store.long_poll);
        store.want_feed();
        loop {
            let safety = if self.bell().hears_far() {
                long_poll.fallback_poll_interval
            } else {
                long_poll.slowest_poll_interval
            };
            let left = timeout.min(safety).saturating_sub(started.elapsed());
            let pause = left.min(long_poll.feed_poll_interval);
            if self.bell().wait(seen, pause).await || pause == left || self.has_news(after).await {
                return;
            }
        }
    }

    async fn status(&self, cursor: Option<&str>) -> Result<FeedStatus, FeedError> {
        let params = Params::new().text_opt(cursor.map(str::to_owned));
        let rows = self
            .provider
            .store()
            .pipe
            .call_patiently("sf_feed_report", &params)
            .await?;
        Ok(status(&rows)?)
    }

    async fn commit(&self, name: &str, token: Token) -> Result<(), FeedError> {
        let params = Params::new()
            .text(name.to_owned())
            .uuid(token.epoch)
            .big(place(token.sequence))
            .big(token.mark);
        let written = self.provider.store().feed_write("sf_feed_commit", &params).await;
        written.map(drop).map_err(unwritten)
    }

    async fn trim(&self, retention: Retention) -> Result<(u64, bool), FeedError> {
        self.provider.store().feed_trim(retention).await.map_err(unwritten)
    }

    async fn rotate_epoch(&self) -> Result<Uuid, FeedError> {
        let store = self.provider.store();
        let rows = store.feed_write("sf_feed_new_epoch", &Params::new()).await;
        let rows = rows.map_err(unwritten)?;
        let row = rows.first().ok_or_else(|| StoreError::Decode("no row".to_owned()))?;
        Ok(column(row, "sf_feed_new_epoch")?)
    }

    async fn close(&self) {
        if self.alone {
            self.provider.close().await;
        }
    }
}

fn unsigned(row: &PgRow, name: &str) -> Result<u64, StoreError> {
    column::<i64>(row, name).map(|n| n.max(0).unsigned_abs())
}

fn page(rows: &[PgRow]) -> Result<Page, StoreError> {
    let head = rows.first().ok_or_else(|| StoreError::Decode("no head".to_owned()))?;
    let stretch = match column::<Option<i64>>(head, "upto")? {
        None => None,
        Some(upto) => Some(Stretch {
            from: unsigned(head, "from_sequence")?,
            events: unsigned(head, "events")?,
            upto: upto.unsigned_abs(),
            mark: column(head, "mark_upto")?,
        }),
    };
    let rows = rows.iter().filter_map(|row| operation(row).transpose());
    Ok(Page {
        epoch: column(head, "epoch")?,
        first: unsigned(head, "first_sequence")?,
        head: unsigned(head, "head")?,
        pending: column(head, "pending")?,
        standby: column(head, "standby")?,
        mark_after: column(head, "mark_after")?,
        stretch,
        rows: rows.collect::<Result<_, _>>()?,
    })
}

/// The operation of a row, if it has one.
fn operation(row: &PgRow) -> Result<Option<Row>, StoreError> {
    let Some(last) = column::<Option<i64>>(row, "last_sequence")? else {
        return Ok(None);
    };
    let name: Option<Vec<u8>> = column(row, "orchestration_name")?;
    Ok(Some(Row {
        last_sequence: last.unsigned_abs(),
        mark: column(row, "mark")?,
        instance: column(row, "instance_id")?,
        execution_id: unsigned(row, "execution_id")?,
        orchestration: name.map(|n| String::from_utf8_lossy(&n).into_owned()),
        at_ms: unsigned(row, "at_ms")?,
        event_ids: column(row, "event_ids")?,
        kinds: column(row, "kinds")?,
        payloads: column::<Option<_>>(row, "payloads")?.unwrap_or_default(),
    }))
}

fn status(rows: &[PgRow]) -> Result<FeedStatus, StoreError> {
    let head = rows.first().ok_or_else(|| StoreError::Decode("no head".to_owned()))?;
    let last = unsigned(head, "head")?;
    let mut cursors = Vec::new();
    for row in rows {
        let Some(name) = column::<Option<String>>(row, "name")? else {
            continue;
        };
        let sequence = unsigned(row, "sequence")?;
        cursors.push(CursorStatus {
            name,
            token: Token {
                epoch: column(row, "cursor_epoch")?,
                sequence,
                mark: column(row, "mark")?,
            },
            lag: last.saturating_sub(sequence),
            lost: column(row, "lost")?,
            committed_at_ms: unsigned(row, "committed_at_ms")?,
        });
    }
    Ok(FeedStatus {
        epoch: column(head, "epoch")?,
        first: unsigned(head, "first_sequence")?,
        last,
        pending: unsigned(head, "pending")?,
        cursors,
    })
}
