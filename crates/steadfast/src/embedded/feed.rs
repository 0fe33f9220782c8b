//! The change feed of a file: read by connections that only read.
//!
//! Invariants: a page is one transaction; whoever waits rings the bell when the file has changed since it was last seen.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};
use uuid::Uuid;

use super::builder::{OpenError, OpenErrorKind};
use super::connection::Place;
use super::error::StoreError;
use super::look::Look;
use super::op::feed_commit::{CommitCursor, NewEpoch};
use super::op::feed_trim::TrimFeed;
use super::provider::EmbeddedProvider;
use super::store::Store;
use crate::feed::{
    Bell, CursorStatus, Feed, FeedError, FeedStatus, Level, Page, Request, Retention, Row, Source, Stretch, Token,
};

/// So often a look (a few microseconds) tells whether the file has changed, while somebody waits.
const PEER_POLL: Duration = Duration::from_millis(10);
/// An idle file is looked at less often.
const SLOW_PEER_POLL: Duration = Duration::from_millis(50);
const QUIET_AFTER: Duration = Duration::from_secs(2);

/// What a writer records, and keeps.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FeedSettings {
    pub(crate) level: Level,
    pub(crate) retention: Retention,
}

impl EmbeddedProvider {
    /// The store's change feed.
    ///
    /// # Errors
    /// When the file cannot be opened once more, to read.
    pub fn feed(&self) -> Result<Feed, OpenError> {
        let store = self.store();
        let file = match (store.look(), store.place()) {
            (Some(look), _) => Some(Arc::clone(look)),
            (None, Place::File(path)) => Some(Arc::new(watched(path)?)),
            (None, Place::Memory) => None,
        };
        Ok(Feed::over(EmbeddedFeed {
            bell: Arc::clone(&store.bell),
            writer: store.look().is_none().then(|| self.clone()),
            file,
        }))
    }

    /// Only the change feed of a file, to read it: for a process that observes. Nothing is written, not even beside the
    /// file, and no permission to write is needed.
    ///
    /// # Errors
    /// [`OpenError`] when there is no such file, or it is not a store with a feed.
    pub async fn open_feed(path: impl AsRef<Path>) -> Result<Feed, OpenError> {
        let place = Place::File(path.as_ref().to_owned());
        let opened = tokio::task::spawn_blocking(move || {
            let Place::File(path) = &place else {
                return Err(OpenError::from(StoreError::Closed));
            };
            watched(path).map_err(|error| error.at(&place))
        });
        let file = match opened.await {
            Ok(file) => file?,
            Err(error) => return Err(OpenError::new(OpenErrorKind::Database, error.to_string())),
        };
        Ok(Feed::over(EmbeddedFeed {
            bell: Arc::default(),
            writer: None,
            file: Some(Arc::new(file)),
        }))
    }
}

/// Looks at the feed of a file.
fn watched(path: &Path) -> Result<Look, OpenError> {
    let look = Look::at(path)?;
    let known = look.open_with(|connection| {
        let question = "SELECT 1 FROM sqlite_schema WHERE name = 'sf_feed_head'";
        Ok(connection.query_row(question, [], |_| Ok(())).optional()?)
    })?;
    if known.is_none() {
        let message = "the file was made before there was a change feed; open it with a provider once";
        return Err(OpenError::new(OpenErrorKind::Changed, message));
    }
    look.open_with(super::schema::check)?;
    Ok(look)
}

struct EmbeddedFeed {
    bell: Arc<Bell>,
    /// `None`: reads only.
    writer: Option<EmbeddedProvider>,
    /// `None`: the store is in memory.
    file: Option<Arc<Look>>,
}

impl From<StoreError> for FeedError {
    fn from(error: StoreError) -> Self {
        Self::Store {
            retryable: error.is_retryable(),
            message: error.to_string(),
        }
    }
}

impl EmbeddedFeed {
    async fn ask<T, F>(&self, question: F) -> Result<T, FeedError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, StoreError> + Clone + Send + 'static,
    {
        match (&self.file, &self.writer) {
            (Some(file), _) => {
                let file = Arc::clone(file);
                let asked = tokio::task::spawn_blocking(move || file.ask(question));
                Ok(asked.await.unwrap_or(Err(StoreError::Closed))?)
            }
            (None, Some(provider)) => Ok(provider.store().ask(question).await?),
            (None, None) => Err(StoreError::Closed.into()),
        }
    }

    fn writer(&self) -> Result<&Store, FeedError> {
        self.writer
            .as_ref()
            .map(|provider| &**provider.store())
            .ok_or(FeedError::ReadOnly)
    }
}

#[async_trait::async_trait]
impl Source for EmbeddedFeed {
    async fn read(&self, request: &Request) -> Result<Page, FeedError> {
        let request = request.clone();
        self.ask(move |connection| read(connection, &request)).await
    }

    async fn assign(&self) -> Result<bool, FeedError> {
        Ok(false)
    }

    fn bell(&self) -> &Bell {
        &self.bell
    }

    async fn wait(&self, seen: u64, _after: u64, timeout: Duration) {
        let started = Instant::now();
        let Some(file) = &self.file else {
            self.bell.wait(seen, timeout).await;
            return;
        };
        loop {
            let file = Arc::clone(file);
            match tokio::task::spawn_blocking(move || file.has_changed()).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => self.bell.ring(),
                // The next poll says what is wrong.
                Ok(Err(_)) | Err(_) => return,
            }
            let waited = started.elapsed();
            let pause = if waited < QUIET_AFTER {
                PEER_POLL
            } else {
                SLOW_PEER_POLL
            };
            let left = timeout.saturating_sub(waited);
            if self.bell.wait(seen, pause.min(left)).await || left <= pause {
                return;
            }
        }
    }

    async fn status(&self, cursor: Option<&str>) -> Result<FeedStatus, FeedError> {
        let cursor = cursor.map(str::to_owned);
        self.ask(move |connection| status(connection, cursor.as_deref())).await
    }

    async fn commit(&self, name: &str, token: Token) -> Result<(), FeedError> {
        let name = name.to_owned();
        Ok(self.writer()?.submit(CommitCursor { name, token }).await?)
    }

    async fn trim(&self, retention: Retention) -> Result<(u64, bool), FeedError> {
        Ok(self.writer()?.submit(TrimFeed(retention)).await?)
    }

    async fn rotate_epoch(&self) -> Result<Uuid, FeedError> {
        Ok(self.writer()?.submit(NewEpoch(Uuid::new_v4())).await?)
    }

    async fn close(&self) {
        self.bell.ring();
    }
}

struct Head {
    epoch: Uuid,
    first: i64,
    trimmed_mark: i64,
    last: i64,
}

fn head(connection: &Connection) -> Result<Head, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT epoch, first_sequence, trimmed_mark,
                coalesce((SELECT max(last_sequence) FROM sf_feed), first_sequence - 1) FROM sf_feed_head",
    )?;
    let (epoch, first, trimmed_mark, last): (String, _, _, _) =
        statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    Ok(Head {
        epoch: parse_epoch(&epoch)?,
        first,
        trimmed_mark,
        last,
    })
}

fn parse_epoch(text: &str) -> Result<Uuid, StoreError> {
    Uuid::try_parse(text).map_err(|error| StoreError::Decode(format!("epoch: {error}")))
}

fn positive(n: i64) -> u64 {
    n.max(0).unsigned_abs()
}

fn read(connection: &Connection, request: &Request) -> Result<Page, StoreError> {
    let head = head(connection)?;
    let after = i64::try_from(request.after).unwrap_or(i64::MAX);
    let mark_after = if after == head.first - 1 {
        Some(head.trimmed_mark)
    } else {
        mark_at(connection, after)?
    };
    let mut page = Page {
        epoch: head.epoch,
        first: positive(head.first),
        head: positive(head.last),
        pending: false,
        standby: false,
        mark_after,
        stretch: None,
        rows: Vec::new(),
    };
    let mut statement = connection.prepare_cached(
        "SELECT last_sequence, events, at_ms, instance_key, instance_id, execution_id, orchestration_name, entries,
                mark
         FROM sf_feed WHERE last_sequence > ?1 ORDER BY last_sequence LIMIT ?2",
    )?;
    let mut found = statement.query((after, request.limit))?;
    let (mut from, mut events, mut last) = (None, 0u64, 0i64);
    while let Some(row) = found.next()? {
        let count: i64 = row.get(1)?;
        last = row.get(0)?;
        let start = last - count + 1;
        from.get_or_insert(start);
        events += positive(count);
        if start > after.saturating_add(i64::from(request.limit)) {
            break;
        }
        let (instance, name): (String, Option<String>) = (row.get(4)?, row.get(6)?);
        if !request.filter.admits_row(&instance, name.as_deref()) {
            continue;
        }
        let entries: String = row.get(7)?;
        let (event_ids, kinds) = parse_entries(&entries)?;
        let payloads = if request.payload {
            payloads(connection, row.get(3)?, row.get(5)?, &event_ids)?
        } else {
            Vec::new()
        };
        page.rows.push(Row {
            last_sequence: positive(last),
            mark: row.get(8)?,
            instance,
            execution_id: positive(row.get(5)?),
            orchestration: name,
            at_ms: positive(row.get(2)?),
            event_ids,
            kinds,
            payloads,
        });
    }
    if let Some(from) = from {
        let upto = last.min(after.saturating_add(i64::from(request.limit)));
        page.stretch = Some(Stretch {
            from: positive(from),
            events,
            upto: positive(upto),
            mark: mark_at(connection, upto)?.unwrap_or(0),
        });
    }
    Ok(page)
}

/// The mark of the row that holds a position.
fn mark_at(connection: &Connection, sequence: i64) -> Result<Option<i64>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT mark FROM sf_feed WHERE last_sequence >= ?1 ORDER BY last_sequence LIMIT 1")?;
    Ok(statement.query_row([sequence], |row| row.get(0)).optional()?)
}

fn parse_entries(text: &str) -> Result<(Vec<i64>, Vec<i16>), StoreError> {
    let numbers: Vec<i64> = serde_json::from_str(text).map_err(|e| StoreError::Decode(format!("feed entries: {e}")))?;
    let kinds = numbers.iter().skip(1).step_by(2);
    Ok((
        numbers.iter().step_by(2).copied().collect(),
        kinds.map(|k| i16::try_from(*k).unwrap_or(i16::MAX)).collect(),
    ))
}

fn payloads(
    connection: &Connection,
    instance_key: i64,
    execution_id: i64,
    event_ids: &[i64],
) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT payload FROM sf_event WHERE instance_key = ?1 AND execution_id = ?2 AND event_id = ?3",
    )?;
    event_ids
        .iter()
        .map(|id| {
            let found = statement.query_row((instance_key, execution_id, id), |row| row.get(0));
            Ok(found.optional()?)
        })
        .collect()
}

fn status(connection: &Connection, cursor: Option<&str>) -> Result<FeedStatus, StoreError> {
    let head = head(connection)?;
    let mut statement = connection.prepare_cached(
        "SELECT name, epoch, sequence, mark, lost, committed_at_ms FROM sf_feed_cursor
         WHERE ?1 IS NULL OR name = ?1 ORDER BY name",
    )?;
    let mut rows = statement.query([cursor])?;
    let mut cursors = Vec::new();
    while let Some(row) = rows.next()? {
        let (epoch, sequence): (String, i64) = (row.get(1)?, row.get(2)?);
        cursors.push(CursorStatus {
            name: row.get(0)?,
            token: Token {
                epoch: parse_epoch(&epoch)?,
                sequence: positive(sequence),
                mark: row.get(3)?,
            },
            lag: positive(head.last.saturating_sub(sequence)),
            lost: row.get(4)?,
            committed_at_ms: positive(row.get(5)?),
        });
    }
    Ok(FeedStatus {
        epoch: head.epoch,
        first: positive(head.first),
        last: positive(head.last),
        pending: 0,
        cursors,
    })
}
