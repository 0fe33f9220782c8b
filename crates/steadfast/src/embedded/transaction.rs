//! One transaction of the writer: its time, its ids, and what its commit makes available.
//!
//! Invariant: everything in one transaction happens at one moment of the store's clock, read after the file was locked.

use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row};

use super::clock::{Kept, Reading};
use super::error::StoreError;
use super::feed::FeedSettings;
use super::schema::save_clock;
use crate::fault::Faults;
use crate::limit::{HistoryLimit, PayloadLimit};

/// What has become available, or will.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Effects {
    /// Instances may be taken.
    pub(crate) turns: bool,
    /// Activities may be taken.
    pub(crate) work: bool,
    /// Something becomes due at this store time.
    pub(crate) turns_due_at: Option<i64>,
    /// Likewise for activities.
    pub(crate) work_due_at: Option<i64>,
    /// Something was written to the change feed.
    pub(crate) feed: bool,
}

/// A transaction under way.
pub(crate) struct Tx<'c> {
    connection: &'c Connection,
    /// The store's time.
    pub(crate) now: i64,
    /// The wall clock's, for people and for the due times of timers.
    pub(crate) wall_ms: i64,
    pub(crate) effects: Effects,
    /// Largest payload that a claim hands out, in bytes.
    pub(crate) handed_out: i64,
    /// Largest history, likewise.
    pub(crate) history_limit: HistoryLimit,
    /// What is recorded, and kept.
    pub(crate) feed: FeedSettings,
    /// End of the change feed, once it was asked for.
    pub(crate) feed_last: Option<i64>,
    next_id: i64,
    first_id: i64,
}

impl<'c> Tx<'c> {
    /// Begins one: locks the file against other writers.
    pub(crate) fn begin(
        connection: &'c Connection,
        clock: &Kept,
        faults: &Faults,
        feed: FeedSettings,
        (limit, history_limit): (PayloadLimit, HistoryLimit),
    ) -> Result<Self, StoreError> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let next_id = connection
            .prepare_cached("SELECT next_id FROM sf_state")
            .and_then(|mut s| s.query_row([], |row| row.get(0)));
        let next_id = match next_id {
            Ok(id) => id,
            Err(error) => {
                roll_back(connection);
                return Err(error.into());
            }
        };
        let reading = Reading::take(faults);
        Ok(Self {
            connection,
            now: clock.at(reading),
            wall_ms: reading.wall_ms,
            effects: Effects::default(),
            handed_out: limit.handed_out(),
            history_limit,
            feed,
            feed_last: None,
            next_id,
            first_id: next_id,
        })
    }

    /// Makes it durable. The clock is written down along with it, now and then.
    pub(crate) fn commit(self, clock: &mut Kept, faults: &Faults) -> Result<Effects, StoreError> {
        let committed = self.write_down(clock, faults);
        if committed.is_err() {
            roll_back(self.connection);
        }
        committed.map(|()| self.effects)
    }

    fn write_down(&self, clock: &mut Kept, faults: &Faults) -> Result<(), StoreError> {
        let reading = Reading::take(faults);
        let mut noted = None;
        if self.next_id != self.first_id {
            self.execute("UPDATE sf_state SET next_id = ?1", [self.next_id])?;
            // A file that another boot has taken over keeps that boot's clock.
            if clock.is_stale(reading)
                && self.one("SELECT boot_id = ?1 FROM sf_state", [&clock.boot_id], |row| row.get(0))? == Some(true)
            {
                let now = clock.noted(reading);
                save_clock(self.connection, &now)?;
                noted = Some(now);
            }
        }
        self.statement("COMMIT")?.execute([])?;
        if let Some(noted) = noted {
            *clock = noted;
        }
        Ok(())
    }

    /// Undoes it.
    pub(crate) fn roll_back(self) {
        roll_back(self.connection);
    }

    /// An id that nothing else in this file has or will have.
    pub(crate) fn new_id(&mut self) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// The last id that was given out.
    pub(crate) fn last_id(&self) -> i64 {
        self.next_id - 1
    }

    /// So many ids after the last one have been used.
    pub(crate) fn skip_ids(&mut self, count: usize) {
        self.next_id += i64::try_from(count).unwrap_or(i64::MAX);
    }

    /// The connection, to read with.
    pub(crate) fn connection(&self) -> &'c Connection {
        self.connection
    }

    pub(crate) fn statement(&self, sql: &str) -> Result<CachedStatement<'c>, StoreError> {
        Ok(self.connection.prepare_cached(sql)?)
    }

    /// Runs a statement; returns how many rows it changed.
    pub(crate) fn execute(&self, sql: &str, params: impl Params) -> Result<usize, StoreError> {
        Ok(self.statement(sql)?.execute(params)?)
    }

    /// The first row of an answer.
    pub(crate) fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.statement(sql)?.query_row(params, read).optional()?)
    }

    /// All rows of an answer.
    pub(crate) fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut statement = self.statement(sql)?;
        let rows = statement.query_map(params, read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Instances may be taken from `at` on.
    pub(crate) fn turn_at(&mut self, at: i64) {
        if at <= self.now {
            self.effects.turns = true;
        } else {
            self.effects.turns_due_at = Some(self.effects.turns_due_at.map_or(at, |d| d.min(at)));
        }
    }

    /// Activities may be taken from `at` on.
    pub(crate) fn work_at(&mut self, at: i64) {
        if at <= self.now {
            self.effects.work = true;
        } else {
            self.effects.work_due_at = Some(self.effects.work_due_at.map_or(at, |d| d.min(at)));
        }
    }

    /// The store's time at which a wall clock's time comes, as far as can be told now.
    pub(crate) fn at_wall(&self, wall_ms: i64) -> i64 {
        self.now.saturating_add(wall_ms.saturating_sub(self.wall_ms))
    }
}

fn roll_back(connection: &Connection) {
    // SQLite may have done it already, after a failure of the device.
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        tracing::error!(target: "steadfast", %error, "could not roll back");
    }
}
