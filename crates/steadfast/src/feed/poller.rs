//! A reader with a place of its own.
//!
//! Invariants: the place moves only with what was handed out; a poll that fails or is dropped has not moved it; every
//! sequence behind it is handed out, filtered away, or named by an error.

use std::num::NonZeroU32;
use std::ops::Range;
use std::time::{Duration, Instant};

use futures_util::Stream;
use uuid::Uuid;

use super::error::FeedError;
use super::event::{Batch, Event};
use super::filter::Filter;
use super::kind::Kind;
use super::source::{Feed, Page, Request, Row};
use super::token::Token;

/// Sequences per poll when nothing else is said.
const LIMIT: NonZeroU32 = match NonZeroU32::new(1000) {
    Some(limit) => limit,
    None => NonZeroU32::MIN,
};
/// Pauses while something is pending: usually a writer assigns it meanwhile, and rings. A quicker reader would only make
/// assignments smaller and more.
const PENDING_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));
/// How often an assignment is asked for within one poll.
const ASSIGNMENTS: usize = 2;

/// Reads a feed from a place of its own. Dropping it, or a poll, loses nothing: see [`token`](Self::token).
#[derive(Debug)]
pub struct ChangePoller {
    feed: Feed,
    after: u64,
    /// Where it stands, once it has been seen or given.
    token: Option<Token>,
    limit: NonZeroU32,
    filter: Filter,
    payload: bool,
    /// Rings of the bell before the last look.
    seen: u64,
    caught_up: bool,
    pending: bool,
    setbacks: u32,
}

impl ChangePoller {
    /// From the beginning: sequence 1, so that a feed that was trimmed answers [`FeedError::Trimmed`] first.
    #[must_use]
    pub fn new(feed: &Feed) -> Self {
        Self::from_sequence(feed, 0)
    }

    /// Behind `sequence` (0: from the beginning). A bare number cannot tell that the store was restored or made anew:
    /// keep a [`Token`] where that matters. `u64::MAX` is behind every end.
    #[must_use]
    pub fn from_sequence(feed: &Feed, sequence: u64) -> Self {
        Self {
            feed: feed.clone(),
            after: sequence,
            token: None,
            limit: LIMIT,
            filter: Filter::default(),
            payload: false,
            seen: 0,
            caught_up: false,
            pending: false,
            setbacks: 0,
        }
    }

    /// Where `token` was given.
    #[must_use]
    pub fn from_token(feed: &Feed, token: Token) -> Self {
        Self {
            token: Some(token),
            ..Self::from_sequence(feed, token.sequence)
        }
    }

    /// From the end as it is now: only what is assigned later. What is pending at this moment comes, too.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn from_now(feed: &Feed) -> Result<Self, FeedError> {
        let status = feed.0.status(Some("")).await?;
        let mut poller = Self::from_sequence(feed, status.last);
        let page = poller.look(status.last, 1).await?;
        if let Some(mark) = page.mark_after.or((status.last == 0).then_some(0)) {
            poller.token = Some(Token {
                epoch: page.epoch,
                sequence: status.last,
                mark,
            });
        }
        Ok(poller)
    }

    /// At most so many sequences are looked at per poll. Default 1000.
    pub fn with_batch_limit(&mut self, limit: NonZeroU32) -> &mut Self {
        self.limit = limit;
        self
    }

    /// Only what the filter admits is handed out.
    pub fn with_filter(&mut self, filter: Filter) -> &mut Self {
        self.filter = filter;
        self
    }

    /// Events come with what the history holds of them. Costs a look into each history.
    pub fn with_payload(&mut self, yes: bool) -> &mut Self {
        self.payload = yes;
        self
    }

    /// The last sequence that was handed out or filtered away.
    #[must_use]
    pub fn last_sequence(&self) -> u64 {
        self.after
    }

    /// Where to resume; `None` before the first successful poll of a poller that began with a bare number.
    #[must_use]
    pub fn token(&self) -> Option<Token> {
        self.token
    }

    /// Goes on behind `sequence`: after [`FeedError::Trimmed`], with `first - 1`.
    pub fn seek(&mut self, sequence: u64) {
        self.after = sequence;
        self.token = None;
    }

    /// What comes next. An empty batch is no error: nothing matched, or nothing is there yet.
    ///
    /// # Errors
    /// [`FeedError`]; the place is what it was.
    pub async fn poll(&mut self) -> Result<Batch, FeedError> {
        for attempt in 0.. {
            self.seen = self.feed.0.bell().rings();
            // Until this succeeds, waiting is a pause before the next attempt.
            (self.caught_up, self.pending) = (false, true);
            let page = self.look(self.after, self.limit.get()).await?;
            self.check(&page)?;
            // Something is committed and has no place yet: whoever finds that sees to it.
            let starved = page.stretch.is_none() && page.pending && !page.standby;
            if !(starved && attempt < ASSIGNMENTS && self.feed.0.assign().await?) {
                return self.take(page);
            }
        }
        unreachable_page()
    }

    /// Returns when a poll may bring something: at once after one that was not caught up, or when something has happened
    /// since; in any case after `timeout`, and after a safety interval, in case news was lost.
    pub async fn wait(&mut self, timeout: Duration) {
        if self.caught_up {
            self.setbacks = 0;
            return self.feed.0.wait(self.seen, self.after, timeout).await;
        }
        if self.pending {
            let pause = PENDING_PAUSE.0 * 2u32.pow(self.setbacks.min(8));
            self.setbacks = self.setbacks.saturating_add(1);
            self.feed
                .0
                .wait(self.seen, self.after, pause.min(PENDING_PAUSE.1).min(timeout))
                .await;
        }
    }

    /// The events one by one, waiting where there are none. It ends after an error that repeating cannot mend; after one
    /// that it can, it goes on where it stood. Nothing is read ahead of what is taken, but for one batch.
    pub fn into_stream(self) -> impl Stream<Item = Result<Event, FeedError>> + Send {
        let state = (self, Vec::new().into_iter(), false);
        futures_util::stream::unfold(state, async |(mut poller, mut events, ended)| {
            const PATIENCE: Duration = Duration::from_secs(60);
            loop {
                if let Some(event) = events.next() {
                    return Some((Ok(event), (poller, events, ended)));
                }
                if ended {
                    return None;
                }
                poller.wait(PATIENCE).await;
                match poller.poll().await {
                    Ok(batch) => events = batch.events.into_iter(),
                    Err(error) => {
                        let ends = !error.is_retryable();
                        return Some((Err(error), (poller, events, ends)));
                    }
                }
            }
        })
    }

    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    async fn look(&self, after: u64, limit: u32) -> Result<Page, FeedError> {
        let started = Instant::now();
        let request = Request {
            after,
            limit,
            filter: self.filter.clone(),
            payload: self.payload,
        };
        let page = self.feed.0.read(&request).await;
        metrics::histogram!("steadfast_feed_read_duration_seconds").record(started.elapsed().as_secs_f64());
        page
    }

    /// Whether the place is one of this feed, and nothing between it and the page is missing.
    fn check(&self, page: &Page) -> Result<(), FeedError> {
        let (cursor, last) = (self.after, page.head);
        if let Some(token) = self.token
            && token.epoch != page.epoch
        {
            return Err(FeedError::EpochMismatch { token });
        }
        if cursor > last && !page.standby {
            return Err(FeedError::CursorAhead { cursor, last });
        }
        if cursor <= last && cursor + 1 < page.first {
            let first = page.first;
            return Err(FeedError::Trimmed { cursor, first, last });
        }
        if let (Some(token), Some(mark)) = (self.token, page.mark_after)
            && cursor > 0
            && cursor <= last
            && mark != token.mark
        {
            return Err(FeedError::EpochMismatch { token });
        }
        let hole = match page.stretch {
            Some(s) => s.from > cursor + 1 || s.upto <= cursor || s.from + s.events <= s.upto,
            None => cursor < last,
        };
        if hole {
            let what = format!("behind {cursor} of {last} follows {:?}", page.stretch);
            return Err(FeedError::Damaged(what));
        }
        Ok(())
    }

    fn take(&mut self, page: Page) -> Result<Batch, FeedError> {
        let (upto, mark) = match page.stretch {
            Some(s) => (s.upto, s.mark),
            None => (self.after, page.mark_after.or(self.token.map(|t| t.mark)).unwrap_or(0)),
        };
        let mut events = Vec::new();
        for row in &page.rows {
            expand(row, page.epoch, self.after..upto, &self.filter, &mut events)?;
        }
        metrics::counter!("steadfast_feed_events_total").increment(events.len() as u64);
        let next = Token {
            epoch: page.epoch,
            sequence: upto,
            mark,
        };
        let at_end = upto >= page.head && !(page.standby && upto > page.head);
        self.pending = at_end && (page.pending || upto > page.head);
        self.caught_up = at_end && !self.pending;
        if page.stretch.is_some() {
            self.setbacks = 0;
        }
        self.after = upto;
        self.token = Some(next);
        Ok(Batch {
            events,
            next,
            head: page.head,
            caught_up: self.caught_up,
        })
    }
}

fn unreachable_page() -> Result<Batch, FeedError> {
    Err(FeedError::Damaged("more looks than there are numbers".to_owned()))
}

/// The events of a row that lie behind the stretch's start and not behind its end.
fn expand(
    row: &Row,
    epoch: Uuid,
    stretch: Range<u64>,
    filter: &Filter,
    events: &mut Vec<Event>,
) -> Result<(), FeedError> {
    let count = row.kinds.len() as u64;
    if row.event_ids.len() != row.kinds.len() || count > row.last_sequence {
        let what = format!("the row at {} has {count} kinds", row.last_sequence);
        return Err(FeedError::Damaged(what));
    }
    let start = row.last_sequence - count + 1;
    for (n, (kind, id)) in row.kinds.iter().zip(&row.event_ids).enumerate() {
        let sequence = start + n as u64;
        let kind = Kind::from_number(*kind);
        if sequence <= stretch.start || sequence > stretch.end || !filter.admits_kind(kind) {
            continue;
        }
        let payload = match row.payloads.get(n) {
            Some(Some(bytes)) => serde_json::from_slice(bytes).ok(),
            _ => None,
        };
        events.push(Event {
            sequence,
            token: Token {
                epoch,
                sequence,
                mark: row.mark,
            },
            instance: row.instance.clone(),
            execution_id: row.execution_id,
            kind,
            event_id: (!matches!(kind, Kind::Deleted | Kind::Pruned)).then_some(id.unsigned_abs()),
            at_ms: row.at_ms,
            orchestration: row.orchestration.clone(),
            ends_operation: sequence == row.last_sequence,
            payload,
        });
    }
    Ok(())
}
