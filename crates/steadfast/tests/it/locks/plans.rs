//! Plans do not depend on statistics: every hot function, on tables that were never analyzed, empty and full, planned
//! in either state, reads by index and reads no more when a thousand times as much is queued.

use tokio_postgres::Client;

use super::HEAVY;
use super::explain::{Explained, Session, can_explain};
use crate::harness::database_url;
use crate::upgrade::place::{Database, builder};

/// How many items one call of a full batch concerns.
const BATCH: usize = 32;
/// Pages by which deeper indexes may raise a call of a full batch.
const LEVELS: u64 = 256;
/// More than any node may read for a batch of that size: the page of the inbox is 320 rows.
const MOST_ROWS: f64 = 2000.0;

/// A schema whose tables are never vacuumed or analyzed.
pub(super) struct Place {
    pub(super) database: Database,
    pub(super) client: Client,
}

pub(super) const SCHEMA: &str = "plans";

impl Place {
    pub(super) async fn create() -> Self {
        let database = Database::create().await;
        builder(&database.url, SCHEMA)
            .connect()
            .await
            .expect("install")
            .close()
            .await;
        let client = database.raw().await;
        client
            .batch_execute(&format!("SET search_path TO {SCHEMA}"))
            .await
            .unwrap();
        let tables = client
            .query(
                "SELECT c.relname::text FROM pg_class c
                 WHERE c.relnamespace = $1::text::regnamespace AND c.relkind = 'r'",
                &[&SCHEMA],
            )
            .await
            .unwrap();
        for table in tables {
            let table: String = table.get(0);
            client
                .batch_execute(&format!(
                    "ALTER TABLE {table} SET UNLOGGED; ALTER TABLE {table} SET (autovacuum_enabled = off)"
                ))
                .await
                .unwrap();
        }
        client
            .batch_execute("ALTER TABLE sf_instance ALTER COLUMN instance_key RESTART WITH 10000000")
            .await
            .unwrap();
        Self { database, client }
    }

    pub(super) async fn session(&self) -> Session {
        Session::open(&self.database.url, SCHEMA).await
    }

    pub(super) async fn run(&self, sql: &str) {
        self.client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
    }

    /// Instances `from..to`, each acknowledged once and each with one message, one activity and one key-value; one in
    /// ten also with an ended execution, a session and an answer that is kept.
    async fn fill(&self, from: usize, to: usize) {
        for sql in [
            "INSERT INTO sf_instance (instance_key, instance_id, orchestration_name, orchestration_version,
                                      custom_status, custom_status_version) OVERRIDING SYSTEM VALUE
             SELECT g + 1, 'i' || g, 'o', '1', 's', 1 FROM generate_series({from}, {to}) g",
            "INSERT INTO sf_execution (instance_key, execution_id, status, started_at)
             SELECT i.instance_key, 1, 'Running', now() FROM sf_instance i WHERE i.instance_key > {from}",
            "INSERT INTO sf_event (instance_key, execution_id, event_id, kind, payload)
             SELECT i.instance_key, 1, 1, 1, 'e' FROM sf_instance i WHERE i.instance_key > {from}",
            "INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
             SELECT 'i' || g, now() - interval '1 hour' + g * interval '1 microsecond', 7, 'm'
             FROM generate_series({from}, {to}) g",
            "INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, available_at, payload)
             SELECT i.instance_key, 1, 2, 'tag' || (i.instance_key % 4)::text::bytea, now() - interval '1 hour' + i.instance_key * interval '1 microsecond', 'w'
             FROM sf_instance i WHERE i.instance_key > {from}",
            "INSERT INTO sf_kv (instance_key, key_id, key, changed, delta_value, delta_at_ms)
             SELECT i.instance_key, 'k', 'k', true, 'v', 1 FROM sf_instance i
             WHERE i.instance_key > {from} AND i.instance_key % 10 = 0",
            "INSERT INTO sf_session (session_key, owner, locked_until)
             SELECT ('s' || g)::bytea, 'other', now() + interval '1 hour' FROM generate_series({from}, {to}, 10) g",
            "INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, session_key, available_at, payload)
             SELECT i.instance_key, 1, 3, 'tag1', ('s' || (i.instance_key / 100) * 10)::bytea, now() - interval '1 hour', 'w'
             FROM sf_instance i WHERE i.instance_key > {from} AND i.instance_key % 10 = 0",
            "INSERT INTO sf_batch (batch_id, expires_at, results)
             SELECT gen_random_uuid(), now() + CASE WHEN g < 1000 THEN -1 ELSE 1 END * interval '1 hour', '{{0}}'
             FROM generate_series({from}, {to}, 10) g, generate_series(1, 20)",
        ] {
            let sql = sql
                .replace("{from}", &from.to_string())
                .replace("{to}", &(to - 1).to_string())
                .replace("{{0}}", "{0}")
                .replace("'tag' || (i.instance_key % 4)::text::bytea", "('tag' || i.instance_key % 4)::bytea");
            self.run(&sql).await;
        }
    }

    /// Gives one in ten instances a routed message and a scheduling row that is due.
    async fn route_backlog(&self) {
        self.run(
            "INSERT INTO sf_message (instance_key, message_id, visible_at, attempt_count, kind, payload)
             SELECT i.instance_key, 1, now() - interval '2 hours', 1, 7, 'r' FROM sf_instance i
             WHERE i.instance_key % 10 = 5;
             INSERT INTO sf_turn (instance_key, lane, available_at)
             SELECT s.instance_key, 0, s.visible_at + s.instance_key * interval '1 microsecond' FROM sf_message s",
        )
        .await;
    }
}

pub(super) fn claim_turns(versions: &str) -> String {
    format!(
        "SELECT instance_key, message_ids[cardinality(message_ids)] FROM sf_fetch_orchestration_item(
             gen_random_uuid(), false, 4711, {BATCH}, 30000, {versions}, 99, '{{}}', 1000, 16777216)"
    )
}

pub(super) fn claim_work(tags: &str, owners: &str) -> String {
    format!(
        "SELECT instance_key, work_id FROM sf_fetch_work_item(
             gen_random_uuid(), false, 4711, {BATCH}, 30000, {tags}, {owners}, 30000, 99)"
    )
}

pub(super) fn owners() -> String {
    format!("ARRAY(SELECT 'me'::bytea FROM generate_series(1, {BATCH}))")
}

/// `{a,b,c}` of a column of rows.
fn array(rows: &[(i64, i64)], of: impl Fn(&(i64, i64)) -> i64) -> String {
    let items: Vec<String> = rows.iter().map(|row| of(row).to_string()).collect();
    format!("'{{{}}}'", items.join(","))
}

/// The same value for each of the batch.
fn each(value: &str) -> String {
    format!("ARRAY(SELECT {value} FROM generate_series(1, {BATCH}) n)")
}

struct Seen {
    buffers: Vec<(String, u64)>,
    faults: Vec<String>,
}

impl Seen {
    fn note(&mut self, what: &str, explained: &Explained) {
        self.buffers.push((what.to_owned(), explained.buffers()));
        self.faults.extend(explained.check(MOST_ROWS));
    }
}

/// Calls every hot function in this session, twice each, so that the second finds its plans made.
async fn tour(session: &Session) -> Seen {
    let mut seen = Seen {
        buffers: Vec::new(),
        faults: Vec::new(),
    };
    for _ in 0..2 {
        seen.buffers.clear();
        for (name, sql) in single_calls() {
            seen.note(name, &session.rehearse(name, &sql).await);
        }
        turn_calls(session, &mut seen).await;
        work_calls(session, &mut seen).await;
    }
    seen
}

/// Calls that need no claim.
fn single_calls() -> Vec<(&'static str, String)> {
    let ids = each("'i' || (n * 7 + 400)");
    let none = each("NULL::bigint");
    vec![
        ("fetch turns, any version", claim_turns("NULL, NULL")),
        ("fetch turns, some versions", claim_turns("1, 100")),
        (
            "fetch turns, lost answer",
            claim_turns("1, 100").replace("false, 4711", "true, 4711"),
        ),
        ("fetch work, one tag", claim_work("ARRAY['tag1'::bytea]", "NULL")),
        ("fetch work, any tag", claim_work("NULL", "NULL")),
        ("fetch work, sessions", claim_work("ARRAY['tag1'::bytea]", &owners())),
        ("fetch work, sessions, any tag", claim_work("NULL", &owners())),
        (
            "fetch work, lost answer",
            claim_work("ARRAY['tag9'::bytea]", &owners()).replace("false, 4711", "true, 4711"),
        ),
        (
            "read_history",
            format!(
                "SELECT * FROM sf_read_history({ids}, {none}, {}, {}, {}, {}, 16777216)",
                each("(n * 7 + 401)::bigint"),
                each("1::bigint"),
                each("1::bigint"),
                each("0::bigint")
            ),
        ),
        (
            "enqueue_for_orchestrator",
            format!(
                "SELECT sf_enqueue_for_orchestrator(gen_random_uuid(), 60000, true, {ids}, {none}, {none}, {}, {})",
                each("7::smallint"),
                each("'m'::bytea")
            ),
        ),
        (
            "enqueue_for_worker",
            format!(
                "SELECT sf_enqueue_for_worker(gen_random_uuid(), 60000, false, {ids}, {}, {}, {}, {}, {})",
                each("1::bigint"),
                each("77::bigint"),
                each("'tag1'::bytea"),
                each("CASE WHEN n % 2 = 0 THEN ('s' || n * 10)::bytea END"),
                each("'w'::bytea")
            ),
        ),
        ("poll_due", "SELECT * FROM sf_poll_due()".to_owned()),
        ("poll_waiting", "SELECT * FROM sf_poll_waiting()".to_owned()),
        (
            "get_custom_status",
            format!("SELECT * FROM sf_get_custom_status({ids}, {})", each("0::bigint")),
        ),
        ("get_kv", "SELECT * FROM sf_get_kv('i400', NULL)".to_owned()),
        (
            "get_instance_stats",
            "SELECT * FROM sf_get_instance_stats('i400')".to_owned(),
        ),
        (
            "renew_session_lock",
            "SELECT sf_renew_session_lock(ARRAY['me'::bytea], 30000, 30000)".to_owned(),
        ),
        (
            "append_with_execution",
            "SELECT sf_append_with_execution(gen_random_uuid(), 60000, 'i400', 1, '{50}', '{1}', ARRAY['e'::bytea], '{}')"
                .to_owned(),
        ),
        (
            "prune_executions",
            "SELECT sf_prune_executions(gen_random_uuid(), 60000, '{i400}', 1, NULL, false)".to_owned(),
        ),
        (
            "delete_instances",
            "SELECT sf_delete_instances(gen_random_uuid(), 60000, '{i400}', true, NULL, false)".to_owned(),
        ),
    ]
}

/// What a claim answers, without its plans.
async fn claimed(session: &Session, sql: &str) -> Vec<(i64, i64)> {
    let rows = session.client.query(sql, &[]).await.expect("claim");
    rows.iter()
        .filter_map(|row| Some((row.get::<_, Option<i64>>(0)?, row.get(1))))
        .collect()
}

async fn turn_calls(session: &Session, seen: &mut Seen) {
    let keys = |rows: &[(i64, i64)]| array(rows, |r| r.0);
    for wait in [false, true] {
        session.run("BEGIN").await;
        let turns = claimed(session, &claim_turns("NULL, NULL")).await;
        let (keys, claims, upto) = (keys(&turns), array(&turns, |_| 4711), array(&turns, |r| r.1));
        let name = format!("renew turns, waiting {wait}");
        let sql = format!(
            "SELECT sf_renew_orchestration_item_lock({wait}, {keys}, {claims}, {})",
            array(&turns, |_| 60000)
        );
        seen.note(&name, &session.explain(&name, &sql).await);
        session.run("SAVEPOINT s").await;
        let name = format!("abandon turns, waiting {wait}");
        let sql = format!(
            "SELECT sf_abandon_orchestration_item(gen_random_uuid(), 60000, true, {wait}, {keys}, {claims}, {upto}, {}, {})",
            array(&turns, |_| 0),
            array(&turns, |r| r.0 % 2).replace('0', "f").replace('1', "t"),
        );
        seen.note(&name, &session.explain(&name, &sql).await);
        session.run("ROLLBACK TO s").await;
        let name = format!("ack turns, waiting {wait}");
        seen.note(
            &name,
            &session
                .explain(&name, &ack_turns(wait, &turns, &keys, &claims, &upto))
                .await,
        );
        let name = format!("handed work, waiting {wait}");
        let sql = format!("SELECT * FROM sf_handed_work(4712, 64, {keys}, 99)");
        seen.note(&name, &session.explain(&name, &sql).await);
        session.run("ROLLBACK").await;
    }
}

/// Each turn: two events, two activities (one in a session), two messages, a cancelled activity, a key-value; every
/// other turn ends its execution.
fn ack_turns(wait: bool, turns: &[(i64, i64)], keys: &str, claims: &str, upto: &str) -> String {
    let n = turns.len();
    let per = |value: &str| format!("ARRAY(SELECT {value} FROM generate_series(1, {n}) n)");
    let twice = |value: &str| format!("ARRAY(SELECT {value} FROM generate_series(1, {n}) n, generate_series(1, 2) j)");
    let arrays = [
        per("1::bigint"),
        per("'o'::bytea"),
        per("'1'::bytea"),
        per("NULL::text"),
        per("CASE n % 2 WHEN 0 THEN 'Completed' END"),
        per("'out'::bytea"),
        per("NULL::bigint"),
        per("1::smallint"),
        per("'status'::bytea"),
        per("n % 3 = 0"),
        twice("n::int"),
        twice("(100 + j)::bigint"),
        twice("1::smallint"),
        twice("'e'::bytea"),
        twice("n::int"),
        twice("NULL::text"),
        twice("1::bigint"),
        twice("(200 + j)::bigint"),
        twice("'tag1'::bytea"),
        twice("CASE j WHEN 2 THEN ('s' || n)::bytea END"),
        twice("'w'::bytea"),
        twice("'j' || n"),
        twice("n::int"),
        twice("NULL::bigint"),
        twice("7::smallint"),
        twice("'m'::bytea"),
        per("n::int"),
        per("NULL::text"),
        per("1::bigint"),
        per("2::bigint"),
        per("n::int"),
        per("'k'::bytea"),
        per("'k'::bytea"),
        per("'v'::bytea"),
        per("1::bigint"),
        "'{}'::smallint[]".to_owned(),
        "true".to_owned(),
        // Some of the activities are handed over, unless the call waits for rows.
        format!(
            "gen_random_uuid(), {}, 64, 60000, NULL",
            if wait { "NULL" } else { "4712" }
        ),
    ];
    format!(
        "SELECT sf_ack_orchestration_item(gen_random_uuid(), 60000, true, {wait}, 99, {keys}, {claims}, {upto}, {})",
        arrays.join(", ")
    )
}

async fn work_calls(session: &Session, seen: &mut Seen) {
    for (wait, owners) in [(false, "NULL".to_owned()), (true, owners())] {
        session.run("BEGIN").await;
        // A session of our own, so that its renewal and its touch are seen as well.
        session
            .run(
                "WITH mine AS (
                     INSERT INTO sf_session (session_key, owner, locked_until) VALUES ('mine', 'me', now() + interval '1 hour'))
                 INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, session_key, available_at, payload)
                 SELECT n, 1, 9, 'tag1', 'mine', now() - interval '3 hours', 'w' FROM generate_series(1, 8) n",
            )
            .await;
        let work = claimed(session, &claim_work("ARRAY['tag1'::bytea]", &owners)).await;
        let (keys, ids, claims) = (array(&work, |r| r.0), array(&work, |r| r.1), array(&work, |_| 4711));
        let suffix = format!("waiting {wait}, sessions {}", owners != "NULL");
        let name = format!("renew work, {suffix}");
        let sql = format!(
            "SELECT sf_renew_work_item_lock({wait}, {keys}, {ids}, {claims}, {})",
            array(&work, |_| 60000)
        );
        seen.note(&name, &session.explain(&name, &sql).await);
        session.run("SAVEPOINT s").await;
        let name = format!("abandon work, {suffix}");
        let sql = format!(
            "SELECT sf_abandon_work_item(gen_random_uuid(), 60000, true, {wait}, {keys}, {ids}, {claims}, {}, {})",
            array(&work, |_| 0),
            array(&work, |r| r.0 % 2).replace('0', "f").replace('1', "t"),
        );
        seen.note(&name, &session.explain(&name, &sql).await);
        session.run("ROLLBACK TO s").await;
        let name = format!("ack work, {suffix}");
        let n = work.len();
        let per = |value: &str| format!("ARRAY(SELECT {value} FROM generate_series(1, {n}) n)");
        let sql = format!(
            "SELECT sf_ack_work_item(gen_random_uuid(), 60000, true, {wait}, {keys}, {ids}, {claims}, {}, {}, {})",
            per("'i' || n"),
            per("5::smallint"),
            per("'c'::bytea")
        );
        seen.note(&name, &session.explain(&name, &sql).await);
        let name = format!("claim instances, {suffix}");
        let sql = format!(
            "SELECT * FROM sf_claim_instances(gen_random_uuid(), false, 4713, 64, 30000, NULL, NULL, 99, '{{}}', 1000,
                 16777216, {})",
            per("'i' || n")
        );
        seen.note(&name, &session.explain(&name, &sql).await);
        session.run("ROLLBACK").await;
    }
}

#[tokio::test]
async fn every_hot_function_reads_by_index_whatever_is_queued() {
    if !can_explain(&database_url()).await {
        return;
    }
    let _alone = HEAVY.lock().await;
    let place = Place::create().await;
    let mut faults = Vec::new();
    // This session makes its plans now, on empty tables, and keeps them.
    let early = place.session().await;
    faults.extend(tour(&early).await.faults);
    let (mut small, mut tables) = (Vec::new(), Vec::new());
    let mut filled = 0;
    for size in [1_000, 10_000, 1_000_000] {
        place.fill(filled, size).await;
        filled = size;
        for (plans, session) in [("early", &early), ("fresh", &place.session().await)] {
            let seen = tour(session).await;
            faults.extend(
                seen.faults
                    .into_iter()
                    .map(|f| format!("{size} rows, {plans} plans: {f}")),
            );
            if small.is_empty() {
                small = seen.buffers.clone();
            }
            for ((what, now), (_, then)) in seen.buffers.iter().zip(&small) {
                if *now * 2 > *then * 3 + 2 * LEVELS {
                    faults.push(format!(
                        "{size} rows, {plans} plans: {what} touches {now} pages, {then} at first"
                    ));
                }
            }
            tables.push((format!("{size} {plans}"), seen.buffers));
        }
    }
    // The same with a backlog of routed messages, planned before and after.
    place.route_backlog().await;
    for (plans, session) in [("early", &early), ("fresh", &place.session().await)] {
        let seen = tour(session).await;
        faults.extend(seen.faults.into_iter().map(|f| format!("backlog, {plans} plans: {f}")));
        tables.push((format!("backlog {plans}"), seen.buffers));
    }
    place.database.remove().await;
    for (n, (what, _)) in small.iter().enumerate() {
        let numbers: Vec<String> = tables.iter().map(|(name, t)| format!("{name}: {}", t[n].1)).collect();
        println!("{what:40} {}", numbers.join("  "));
    }
    faults.sort();
    faults.dedup();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// What PostgreSQL believes about a queue that was vacuumed while it held dead rows only: many pages, next to no rows. Plans
/// that are made then are kept while the queue fills.
#[tokio::test]
async fn every_hot_function_reads_by_index_after_a_vacuum_that_found_nothing() {
    if !can_explain(&database_url()).await {
        return;
    }
    let _alone = HEAVY.lock().await;
    let place = Place::create().await;
    place.fill(0, 25_000).await;
    place.route_backlog().await;
    place
        .run(&format!(
            "UPDATE pg_class SET reltuples = 1, relpages = 1000
             WHERE relnamespace = '{SCHEMA}'::regnamespace AND relkind IN ('r', 'i')"
        ))
        .await;
    let mut faults = tour(&place.session().await).await.faults;
    place.database.remove().await;
    faults.sort();
    faults.dedup();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
