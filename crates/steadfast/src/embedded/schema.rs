//! The schema: numbered migrations with checksums, applied in one transaction and recorded in a ledger.
//!
//! Invariants: a file of a newer version is never changed; two processes may open a new file at once.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use sha2::{Digest, Sha256};

use super::builder::{OpenError, OpenErrorKind};
use super::catalogue;
use super::clock::{self, Kept, Reading};
use crate::catalogue::in_short;
use crate::fault::Faults;

/// Number, name and text of each migration. Released ones never change.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "0001_store", include_str!("../../sql/embedded/0001_store.sql")),
    (2, "0002_feed", include_str!("../../sql/embedded/0002_feed.sql")),
    (3, "0003_apart", include_str!("../../sql/embedded/0003_apart.sql")),
];

const LEDGER: &str = "CREATE TABLE IF NOT EXISTS sf_ledger (
    version       INTEGER PRIMARY KEY,
    name          TEXT NOT NULL,
    checksum      TEXT NOT NULL,
    applied_by    TEXT NOT NULL,
    applied_at_ms INTEGER NOT NULL
) STRICT;
";

/// Everything that a new file is made with, for review.
#[must_use]
pub fn schema_sql() -> String {
    let mut sql = LEDGER.to_owned();
    for (_, name, text) in MIGRATIONS {
        sql.push_str(&format!("\n-- {name}\n{text}"));
    }
    sql
}

/// Brings the file to this program's version, or says why not; returns the clock to go on with.
pub(crate) fn prepare(connection: &mut Connection, faults: &Faults, accepts_changes: bool) -> Result<Kept, OpenError> {
    // Looked at before anything is written.
    let look = |connection: &Connection| {
        if accepts_changes {
            installed(connection)
        } else {
            check(connection)
        }
    };
    look(connection)?;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Read now that the file is locked: whatever another process has written down is older.
    let now = Reading::take(faults);
    let installed = look(&tx)?;
    apply(&tx, installed, newest(), now.wall_ms)?;
    let kept = begin_clock(&tx, now)?;
    let findings = if accepts_changes {
        catalogue::findings(&tx, newest())?
    } else {
        catalogue::check(&tx, newest())?
    };
    tx.commit()?;
    if !findings.is_empty() {
        tracing::warn!(target: "steadfast", findings = in_short(&findings),
            "the file is not quite as this version makes it");
    }
    Ok(kept)
}

/// Looks whether a file can be read by this program as it is; returns the clock to read it by.
pub(crate) fn prepare_to_look(connection: &Connection, faults: &Faults) -> Result<Kept, OpenError> {
    let newest = newest();
    match check(connection)? {
        0 => Err(OpenError::new(
            OpenErrorKind::Missing,
            "there is no store in the file yet",
        )),
        version if version < newest => Err(OpenError::new(
            OpenErrorKind::Outdated,
            format!(
                "the file has schema {version}, and this program reads schema {newest}; open it with a provider once"
            ),
        )),
        _ => Ok(load_clock(connection)?
            .go_on(&clock::boot_id(), Reading::take(faults))
            .0),
    }
}

/// The newest version that this program knows.
pub(super) fn newest() -> i64 {
    MIGRATIONS.last().map_or(0, |m| m.0)
}

/// Makes what the migrations up to `version` make.
pub(super) fn make(connection: &Connection, version: i64) -> rusqlite::Result<()> {
    apply(connection, 0, version, 0)
}

/// Brings a file of version `installed` to the newest one, in the caller's transaction.
pub(super) fn upgrade(connection: &Connection, installed: i64) -> rusqlite::Result<()> {
    apply(connection, installed, newest(), Reading::take(&Faults::none()).wall_ms)
}

fn apply(connection: &Connection, installed: i64, upto: i64, wall_ms: i64) -> rusqlite::Result<()> {
    for (version, name, text) in MIGRATIONS.iter().filter(|m| m.0 > installed && m.0 <= upto) {
        connection.execute_batch(LEDGER)?;
        connection.execute_batch(text)?;
        connection.execute(
            "INSERT INTO sf_ledger (version, name, checksum, applied_by, applied_at_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
            (version, name, checksum(text), env!("CARGO_PKG_VERSION"), wall_ms),
        )?;
    }
    Ok(())
}

/// The version that is installed (0: none), if this program can work with it and all is as its migrations make it.
pub(super) fn check(connection: &Connection) -> Result<i64, OpenError> {
    let version = installed(connection)?;
    if version > 0 {
        catalogue::check(connection, version)?;
    }
    Ok(version)
}

/// The version that is installed (0: none), if this program can work with it.
pub(super) fn installed(connection: &Connection) -> Result<i64, OpenError> {
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(0);
    }
    let changed = |why: String| Err(OpenError::new(OpenErrorKind::Changed, why));
    let has_ledger: i64 = connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE name = 'sf_ledger'",
        [],
        |row| row.get(0),
    )?;
    if has_ledger == 0 {
        return changed("the file has tables, and no ledger of ours".to_owned());
    }
    let mut statement = connection.prepare("SELECT version, checksum, applied_by FROM sf_ledger ORDER BY version")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let mut installed = 0;
    for row in rows {
        let (version, sum, by): (i64, String, String) = row?;
        match MIGRATIONS.iter().find(|m| m.0 == version) {
            None => {
                let message = format!(
                    "the file was made or upgraded by Steadfast {by} (schema {version}); this program knows schemas up to {}",
                    newest()
                );
                return Err(OpenError::new(OpenErrorKind::TooNew, message));
            }
            Some((_, name, text)) if checksum(text) != sum => {
                return changed(format!("migration {name} was applied with another text"));
            }
            Some(_) => installed = version,
        }
    }
    Ok(installed)
}

fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Goes on with the file's clock. After a boot no lease may outlast its own length.
fn begin_clock(connection: &Connection, now: Reading) -> Result<Kept, OpenError> {
    let boot_id = clock::boot_id();
    let Some(kept) = load_clock(connection).optional()? else {
        let kept = Kept::begin(&boot_id, now);
        connection.execute(
            "INSERT INTO sf_state (only, next_id, boot_id, offset_ms, store_ms, uptime_ms, wall_ms)
             VALUES (1, 1, ?1, ?2, ?3, ?4, ?5)",
            (
                &kept.boot_id,
                kept.offset_ms,
                kept.store_ms,
                kept.uptime_ms,
                kept.wall_ms,
            ),
        )?;
        return Ok(kept);
    };
    let (kept, booted) = kept.go_on(&boot_id, now);
    if booted {
        save_clock(connection, &kept)?;
        let now_ms = kept.at(now);
        for table in ["sf_turn", "sf_work"] {
            connection.execute(
                &format!("UPDATE {table} SET available_at = min(available_at, ?1 + lease_ms) WHERE claim IS NOT NULL"),
                [now_ms],
            )?;
        }
        connection.execute(
            "UPDATE sf_session SET locked_until = min(locked_until, ?1 + lease_ms)",
            [now_ms],
        )?;
    }
    Ok(kept)
}

fn load_clock(connection: &Connection) -> rusqlite::Result<Kept> {
    connection.query_row(
        "SELECT boot_id, offset_ms, store_ms, uptime_ms, wall_ms FROM sf_state",
        [],
        |row| {
            Ok(Kept {
                boot_id: row.get(0)?,
                offset_ms: row.get(1)?,
                store_ms: row.get(2)?,
                uptime_ms: row.get(3)?,
                wall_ms: row.get(4)?,
            })
        },
    )
}

/// Writes down what the clocks say.
pub(crate) fn save_clock(connection: &Connection, kept: &Kept) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE sf_state SET boot_id = ?1, offset_ms = ?2, store_ms = ?3, uptime_ms = ?4, wall_ms = ?5",
        )?
        .execute((
            &kept.boot_id,
            kept.offset_ms,
            kept.store_ms,
            kept.uptime_ms,
            kept.wall_ms,
        ))?;
    Ok(())
}
