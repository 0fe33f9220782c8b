//! A claim costs the same beside 50,000 rows that it may not take (requirement D5), counted in pages.
//!
//! The quiet case is two thousand items that may be taken. Then a crowd is put in front of them: older, so that any
//! claim that looks at the head of the queue meets the crowd first. Some crowds are moved aside by the first claims;
//! what counts is the claim after that.

use super::HEAVY;
use super::explain::{Session, can_explain};
use super::plans::{Place, claim_turns, claim_work, owners};
use crate::harness::database_url;

/// Rows of a crowd.
const CROWD: usize = 50_000;
/// Pages that a call may differ by for reasons other than the crowd: deeper indexes, pages filled otherwise.
const CONSTANT: u64 = 256;
/// More than any node may read, once a crowd has been moved aside.
const MOST_ROWS: f64 = 2500.0;

/// Two thousand messages of as many instances, and as many activities with tag `mine`.
const QUIET: &str = "
    INSERT INTO sf_instance (instance_id, orchestration_name, orchestration_version)
    SELECT 'i' || g, 'o', '1' FROM generate_series(1, 2000) g;
    INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
    SELECT 'i' || g, now() - interval '1 hour', 7, 'm' FROM generate_series(1, 2000) g;
    INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, available_at, payload)
    SELECT i.instance_key, 1, 2, 'mine', now() - interval '1 hour', 'w' FROM sf_instance i;";

/// How many messages of the crowd stand on the first page.
const AHEAD: &str = "SELECT count(*) FROM (
    SELECT x.instance_id FROM sf_inbox x WHERE x.visible_at <= now() ORDER BY x.visible_at, x.message_id LIMIT 320) h
    WHERE h.instance_id NOT LIKE 'i%'";

struct Case {
    name: &'static str,
    /// Makes the crowd; `{n}` is its size.
    crowd: &'static str,
    claim: String,
    /// What one claim must find.
    column: &'static str,
}

/// Pages of the third of three equal calls that are taken back.
async fn pages(session: &Session, name: &str, claim: &str) -> (u64, String, Vec<String>) {
    for _ in 0..2 {
        session.rehearse(name, claim).await;
    }
    let explained = session.rehearse(name, claim).await;
    (explained.buffers(), explained.breakdown(), explained.check(MOST_ROWS))
}

async fn found(session: &Session, claim: &str, column: &str) -> i64 {
    let sql = format!("SELECT count(c.{column}) FROM ({claim}) c");
    session.client.query_one(&sql, &[]).await.expect("claim").get(0)
}

async fn run(case: Case) {
    if !can_explain(&database_url()).await {
        return;
    }
    // One at a time: each fills a database, and other tests have clocks to watch.
    let _alone = HEAVY.lock().await;
    let place = Place::create().await;
    place.run(QUIET).await;
    let session = place.session().await;
    let (quiet, _, _) = pages(&session, case.name, &case.claim).await;

    place.run(&case.crowd.replace("{n}", &CROWD.to_string())).await;
    // Claims are committed until the head of the inbox is free of the crowd. Those who may be served are, meanwhile.
    let mut claims = 0;
    let mut worst = 0;
    loop {
        session.run("BEGIN").await;
        let explained = session.explain(case.name, &case.claim).await;
        worst = worst.max(explained.buffers());
        session.run("COMMIT").await;
        claims += 1;
        let ahead: i64 = session.client.query_one(AHEAD, &[]).await.expect("look").get(0);
        if ahead == 0 {
            break;
        }
        assert!(claims < 30, "{}: the crowd never gets out of the way", case.name);
    }
    session.run("BEGIN").await;
    let found = found(&session, &case.claim, case.column).await;
    session.run("ROLLBACK").await;
    assert_eq!(found, 32, "{}: everybody is served", case.name);
    let (before, _, _) = pages(&session, case.name, &case.claim).await;
    // What autovacuum does once 5,000 rows are dead: the places of the moved rows go from the index.
    session.run("VACUUM sf_inbox").await;
    let fresh = place.session().await;
    let mut faults = Vec::new();
    let mut after = Vec::new();
    for session in [&session, &fresh] {
        let (now, breakdown, seen) = pages(session, case.name, &case.claim).await;
        faults.extend(seen);
        after.push(now);
        if now * 2 > quiet * 3 + 2 * CONSTANT {
            faults.push(format!("{}: {now} pages, {quiet} when quiet\n{breakdown}", case.name));
        }
    }
    place.database.remove().await;
    eprintln!(
        "{:45} quiet {quiet}, {claims} claims to move the crowd (the dearest {worst}), then {before}, after a vacuum {after:?}",
        case.name
    );
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn work(name: &'static str, crowd: &'static str) -> Case {
    Case {
        name,
        crowd,
        claim: claim_work("ARRAY['mine'::bytea]", "NULL"),
        column: "work_id",
    }
}

fn turns(name: &'static str, crowd: &'static str) -> Case {
    Case {
        name,
        crowd,
        claim: claim_turns("1, 100"),
        column: "instance_key",
    }
}

#[tokio::test]
async fn activities_of_another_tag() {
    run(work(
        "activities of another tag",
        "INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, available_at, payload)
         SELECT 1, 1, g, 'theirs', now() - interval '2 hours', 'w' FROM generate_series(1, {n}) g",
    ))
    .await;
}

#[tokio::test]
async fn activities_delayed_or_leased_by_others() {
    run(work(
        "activities delayed or leased",
        "INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, available_at, claim, payload)
         SELECT 1, 1, g, 'mine', now() + interval '2 hours', g % 2, 'w' FROM generate_series(1, {n}) g",
    ))
    .await;
}

const SESSIONS: &str = "
    INSERT INTO sf_session (session_key, owner, locked_until)
    SELECT ('s' || g)::bytea, ('other' || g % 7)::bytea, now() + interval '1 hour' FROM generate_series(1, 500) g;
    INSERT INTO sf_work (instance_key, execution_id, activity_id, tag, session_key, available_at, payload)
    SELECT 1, 1, g, 'mine', ('s' || 1 + g % 500)::bytea, now() - interval '2 hours', 'w' FROM generate_series(1, {n}) g";

#[tokio::test]
async fn activities_of_sessions_that_others_own() {
    run(work("sessions of others, for a worker without", SESSIONS)).await;
    run(Case {
        claim: claim_work("ARRAY['mine'::bytea]", &owners()),
        ..work("sessions of others, for a worker with", SESSIONS)
    })
    .await;
    run(Case {
        claim: claim_work("NULL", &owners()),
        ..work("sessions of others, any tag", SESSIONS)
    })
    .await;
}

#[tokio::test]
async fn future_timers() {
    run(turns(
        "future timers",
        "INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
         SELECT 'i' || 1 + g % 1000, now() + interval '1 hour' + g * interval '1 ms', 4, 'm'
         FROM generate_series(1, {n}) g",
    ))
    .await;
}

#[tokio::test]
async fn messages_of_one_locked_instance() {
    run(turns(
        "messages of one locked instance",
        "INSERT INTO sf_instance (instance_id, orchestration_name) VALUES ('locked', 'o');
         INSERT INTO sf_turn (instance_key, lane, available_at, claim, leased_at, lease_ms)
         SELECT i.instance_key, 0, now() + interval '1 hour', 42, now(), 3600000 FROM sf_instance i
         WHERE i.instance_id = 'locked';
         INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
         SELECT 'locked', now() - interval '2 hours', 7, 'm' FROM generate_series(1, {n}) g",
    ))
    .await;
}

const PINNED: &str = "
    INSERT INTO sf_instance (instance_id, orchestration_name, replay_version)
    SELECT 'pinned' || g, 'o', 500 FROM generate_series(1, {n}) g;
    INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
    SELECT 'pinned' || g, now() - interval '2 hours', 7, 'm' FROM generate_series(1, {n}) g";

#[tokio::test]
async fn instances_of_an_incompatible_version() {
    run(turns("instances of another version", PINNED)).await;
}

#[tokio::test]
async fn messages_of_one_instance_of_an_incompatible_version() {
    run(turns(
        "messages of one instance of another version",
        "INSERT INTO sf_instance (instance_id, orchestration_name, replay_version) VALUES ('pinned', 'o', 500);
         INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
         SELECT 'pinned', now() - interval '2 hours', 7, 'm' FROM generate_series(1, {n}) g",
    ))
    .await;
}

#[tokio::test]
async fn signals_of_instances_that_nobody_has_started() {
    run(turns(
        "signals without an instance",
        "INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
         SELECT 'nobody' || g % 10000, now() - interval '2 hours', 7, 'm' FROM generate_series(1, {n}) g",
    ))
    .await;
    run(turns(
        "queue messages without an instance",
        "INSERT INTO sf_inbox (instance_id, visible_at, kind, payload)
         SELECT 'nobody' || g % 10000, now() - interval '2 hours', 3, 'm' FROM generate_series(1, {n}) g",
    ))
    .await;
}
