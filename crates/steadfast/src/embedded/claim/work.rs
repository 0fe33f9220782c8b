//! Claims of activities: what a look of the writer takes for waiting workers, across tags and sessions.
//!
//! Invariants: as in `claim.rs`; a session's activities go to the worker that holds the session, and sessions that others
//! hold are never looked into.

use std::time::Duration;

use super::isolation::{Isolation, Item};
use super::{Looked, delay, until};
use crate::embedded::error::StoreError;
use crate::embedded::transaction::Tx;
use crate::embedded::writer::work_token;
use crate::group::WorkGroup;
use crate::limit::MAX_CLAIM;
use crate::token::WorkToken;

/// A claimed activity as it came from the file.
pub(crate) struct RawWork {
    pub(crate) token: WorkToken,
    pub(crate) attempt_count: u32,
    pub(crate) in_session: bool,
    /// Empty where it is too large to be handed out.
    pub(crate) payload: Vec<u8>,
}

/// An activity that may be taken: due time, id, instance, the claim that ended with its lease, and that lease.
type Head = (i64, i64, i64, Option<i64>, Option<i64>);

/// The session that an activity belongs to, and whether it must be taken first.
type Offer = (Head, Option<Vec<u8>>);

/// Claims up to one activity for each owner (a waiter's session owner).
pub(crate) fn claim(
    tx: &mut Tx<'_>,
    group: &WorkGroup,
    owners: &[Vec<u8>],
    claim: i64,
) -> Result<Looked<RawWork>, StoreError> {
    let mut isolation = Isolation::new(tx, claim)?;
    let mut free = heads(tx, group, &mut isolation, None, owners.len())?
        .into_iter()
        .peekable();
    let sessions = group.session_lease_ms.is_some()
        && tx
            .one("SELECT 1 FROM sf_session LIMIT 1", [], |row| row.get::<_, i64>(0))?
            .is_some();
    let mut unowned = if sessions {
        unowned(tx, group, &mut isolation, owners.len())?
    } else {
        Vec::new()
    };
    let mut items = Vec::with_capacity(owners.len());
    let mut bytes = 0;
    for (seat, owner) in owners.iter().enumerate() {
        let mut best: Option<Offer> = None;
        if sessions {
            best = owned(tx, group, &mut isolation, owner)?;
            if let Some((head, session)) = unowned.first()
                && best.as_ref().is_none_or(|b| *head < b.0)
            {
                best = Some((*head, Some(session.clone())));
            }
        }
        let plain = free
            .peek()
            .filter(|head| best.as_ref().is_none_or(|b| **head < b.0))
            .is_some();
        let offer = if plain {
            free.next().map(|head| (head, None))
        } else {
            best
        };
        let Some((head, session)) = offer else { continue };
        if let Some(session) = &session {
            // Now it is this owner's; its other activities are his too.
            unowned.retain(|u| u.1 != *session);
            take_session(tx, group, owner, session)?;
        }
        let raw = take(tx, group, claim, head, session.is_some())?;
        bytes += raw.payload.len();
        // An activity without a session serves whoever is still there.
        items.push((session.map(|_| seat), raw));
        if bytes >= MAX_CLAIM {
            break;
        }
    }
    let next_due = if bytes >= MAX_CLAIM {
        // The rest at once, by another look.
        Some(Duration::ZERO)
    } else if items.len() < owners.len() {
        next_due(tx, group, owners)?
    } else {
        None
    };
    Ok(Looked { items, next_due })
}

/// The first due activities of the tags that the group takes, as far as they are not to be put off: without a session, or
/// of one.
fn heads(
    tx: &mut Tx<'_>,
    group: &WorkGroup,
    isolation: &mut Isolation,
    session: Option<&[u8]>,
    want: usize,
) -> Result<Vec<Head>, StoreError> {
    loop {
        let heads = due(tx, group, session, want)?;
        let mut off = false;
        for head in &heads {
            off |= put_off(tx, isolation, *head)?;
        }
        if !off {
            return Ok(heads);
        }
    }
}

/// Counts an attempt that ended with its lease, and puts the activity off if it is to be kept apart.
fn put_off(
    tx: &mut Tx<'_>,
    isolation: &mut Isolation,
    (_, work_id, key, claim, lease_ms): Head,
) -> Result<bool, StoreError> {
    let lease_ms = lease_ms.unwrap_or(0);
    let item = Item {
        instance_key: key,
        work_id,
        ended: claim.filter(|_| lease_ms > 0),
        lease_ms,
    };
    let Some(verdict) = isolation.judge(tx, item)? else {
        return Ok(false);
    };
    if item.ended.is_some() {
        // No lease: the end of the attempt is counted. The claim stays, for whoever gives it back before it is taken.
        tx.execute(
            "UPDATE sf_work SET lease_ms = 0, attempt_count = max(0, attempt_count - ?3)
             WHERE instance_key = ?1 AND work_id = ?2",
            (key, work_id, i64::from(verdict.unspent)),
        )?;
    }
    let Some(until) = verdict.off_until else {
        return Ok(false);
    };
    // As if it had been given back.
    tx.execute(
        "UPDATE sf_work SET claim = NULL, leased_at = NULL, lease_ms = NULL, available_at = ?3
         WHERE instance_key = ?1 AND work_id = ?2",
        (key, work_id, until),
    )?;
    tx.work_at(until);
    Ok(true)
}

fn due(tx: &Tx<'_>, group: &WorkGroup, session: Option<&[u8]>, want: usize) -> Result<Vec<Head>, StoreError> {
    let mut heads: Vec<Head> = Vec::new();
    let want = i64::try_from(want).unwrap_or(i64::MAX);
    for tag in &tags(tx, group, session)? {
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?));
        heads.extend(match session {
            None => tx.all(
                "SELECT available_at, work_id, instance_key, claim, lease_ms FROM sf_work
                 WHERE session_key IS NULL AND tag = ?1 AND available_at <= ?2
                 ORDER BY available_at, work_id LIMIT ?3",
                (tag, tx.now, want),
                read,
            )?,
            Some(session) => tx.all(
                "SELECT available_at, work_id, instance_key, claim, lease_ms FROM sf_work
                 WHERE session_key = ?4 AND tag = ?1 AND available_at <= ?2
                 ORDER BY available_at, work_id LIMIT ?3",
                (tag, tx.now, want, session),
                read,
            )?,
        });
    }
    heads.sort_unstable();
    heads.truncate(usize::try_from(want).unwrap_or(usize::MAX));
    Ok(heads)
}

/// The tags to look at: the group's, or those in use, by one index probe each.
fn tags(tx: &Tx<'_>, group: &WorkGroup, session: Option<&[u8]>) -> Result<Vec<Vec<u8>>, StoreError> {
    if let Some(tags) = &group.tags {
        return Ok(tags.clone());
    }
    let mut tags: Vec<Vec<u8>> = Vec::new();
    loop {
        let next: Option<Option<Vec<u8>>> = match (session, tags.last()) {
            (None, None) => tx.one("SELECT min(tag) FROM sf_work WHERE session_key IS NULL", [], |r| {
                r.get(0)
            })?,
            (None, Some(last)) => tx.one(
                "SELECT min(tag) FROM sf_work WHERE session_key IS NULL AND tag > ?1",
                [last],
                |r| r.get(0),
            )?,
            (Some(session), None) => tx.one("SELECT min(tag) FROM sf_work WHERE session_key = ?1", [session], |r| {
                r.get(0)
            })?,
            (Some(session), Some(last)) => tx.one(
                "SELECT min(tag) FROM sf_work WHERE session_key = ?1 AND tag > ?2",
                (session, last),
                |r| r.get(0),
            )?,
        };
        match next.flatten() {
            Some(tag) => tags.push(tag),
            None => return Ok(tags),
        }
    }
}

/// The oldest due activity in a session that `owner` holds.
fn owned(
    tx: &mut Tx<'_>,
    group: &WorkGroup,
    isolation: &mut Isolation,
    owner: &[u8],
) -> Result<Option<Offer>, StoreError> {
    let sessions: Vec<Vec<u8>> = tx.all(
        "SELECT session_key FROM sf_session WHERE owner = ?1 AND locked_until > ?2",
        (owner, tx.now),
        |row| row.get(0),
    )?;
    let mut best: Option<Offer> = None;
    for session in sessions {
        if let Some(head) = heads(tx, group, isolation, Some(&session), 1)?.first()
            && best.as_ref().is_none_or(|b| *head < b.0)
        {
            best = Some((*head, Some(session)));
        }
    }
    Ok(best)
}

/// Sessions that nobody holds and that have something due, by their oldest activity. Those without any work are
/// removed on the way: they would sooner or later fill the pages, and they come back with their next activity.
fn unowned(
    tx: &mut Tx<'_>,
    group: &WorkGroup,
    isolation: &mut Isolation,
    want: usize,
) -> Result<Vec<(Head, Vec<u8>)>, StoreError> {
    const PAGE: usize = 64;
    const ROUNDS: usize = 64;
    let mut found: Vec<(Head, Vec<u8>)> = Vec::new();
    let (mut at, mut key) = (i64::MIN, Vec::new());
    for _ in 0..ROUNDS {
        let page: Vec<(i64, Vec<u8>)> = tx.all(
            "SELECT locked_until, session_key FROM sf_session
             WHERE locked_until <= ?1 AND (locked_until, session_key) > (?2, ?3)
             ORDER BY locked_until, session_key LIMIT ?4",
            (tx.now, at, &key, PAGE as i64),
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        for (_, session) in &page {
            match heads(tx, group, isolation, Some(session), 1)?.first() {
                Some(head) => found.push((*head, session.clone())),
                None => {
                    tx.execute(
                        "DELETE FROM sf_session WHERE session_key = ?1
                           AND NOT EXISTS (SELECT 1 FROM sf_work WHERE session_key = ?1)",
                        [session],
                    )?;
                }
            }
        }
        let full = page.len() == PAGE;
        match page.into_iter().next_back() {
            Some(last) if full && found.len() < want => (at, key) = last,
            _ => break,
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn take_session(tx: &Tx<'_>, group: &WorkGroup, owner: &[u8], session: &[u8]) -> Result<(), StoreError> {
    let lease_ms = group.session_lease_ms.unwrap_or(0);
    tx.execute(
        "UPDATE sf_session SET owner = ?2, locked_until = ?3, lease_ms = ?4, last_activity_at = ?5
         WHERE session_key = ?1",
        (session, owner, tx.now.saturating_add(lease_ms), lease_ms, tx.now),
    )?;
    Ok(())
}

fn take(
    tx: &Tx<'_>,
    group: &WorkGroup,
    claim: i64,
    (_, work_id, key, ..): Head,
    in_session: bool,
) -> Result<RawWork, StoreError> {
    // Without RETURNING, which would have the row read and held twice more, as it was and as it is.
    tx.execute(
        "UPDATE sf_work SET claim = ?2, available_at = ?3, leased_at = ?4, lease_ms = ?5,
             attempt_count = attempt_count + 1
         WHERE work_id = ?1 AND instance_key = ?6",
        (work_id, claim, until(tx, group.lease_ms), tx.now, group.lease_ms, key),
    )?;
    let raw = tx.one(
        "SELECT attempt_count, CASE WHEN length(payload) <= ?3 THEN payload ELSE x'' END FROM sf_work
         WHERE work_id = ?1 AND instance_key = ?2",
        (work_id, key, tx.handed_out),
        |row| {
            Ok(RawWork {
                token: work_token(key, work_id, claim, group.lease_ms),
                attempt_count: row.get(0)?,
                in_session,
                payload: row.get(1)?,
            })
        },
    )?;
    raw.ok_or_else(|| StoreError::Decode(format!("activity {work_id} vanished within a transaction")))
}

/// When something may become available that this look did not find: the end of a delay or lease, or of a session's.
fn next_due(tx: &Tx<'_>, group: &WorkGroup, owners: &[Vec<u8>]) -> Result<Option<Duration>, StoreError> {
    let mut next: Option<i64> = None;
    let mut sooner = |at: Option<i64>| next = next.into_iter().chain(at).min();
    for tag in &tags(tx, group, None)? {
        sooner(tx.one(
            "SELECT available_at FROM sf_work WHERE session_key IS NULL AND tag = ?1 AND available_at > ?2
             ORDER BY available_at LIMIT 1",
            (tag, tx.now),
            |row| row.get(0),
        )?);
    }
    if group.session_lease_ms.is_some() {
        sooner(tx.one(
            "SELECT locked_until FROM sf_session WHERE locked_until > ?1 ORDER BY locked_until LIMIT 1",
            [tx.now],
            |row| row.get(0),
        )?);
        for session in reachable(tx, owners)? {
            for tag in &tags(tx, group, Some(&session))? {
                sooner(tx.one(
                    "SELECT available_at FROM sf_work WHERE session_key = ?1 AND tag = ?2 AND available_at > ?3
                     ORDER BY available_at LIMIT 1",
                    (&session, tag, tx.now),
                    |row| row.get(0),
                )?);
            }
        }
    }
    Ok(next.map(|at| delay(tx, at)))
}

/// Sessions whose activities these owners may take now: their own, and those of nobody.
fn reachable(tx: &Tx<'_>, owners: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, StoreError> {
    const MOST: i64 = 512;
    let mut sessions: Vec<Vec<u8>> = tx.all(
        "SELECT session_key FROM sf_session WHERE locked_until <= ?1 ORDER BY locked_until LIMIT ?2",
        (tx.now, MOST),
        |row| row.get(0),
    )?;
    let mut distinct: Vec<&Vec<u8>> = owners.iter().collect();
    distinct.sort_unstable();
    distinct.dedup();
    for owner in distinct {
        sessions.extend(tx.all(
            "SELECT session_key FROM sf_session WHERE owner = ?1 AND locked_until > ?2",
            (owner, tx.now),
            |row| row.get(0),
        )?);
    }
    Ok(sessions)
}
