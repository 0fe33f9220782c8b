//! Leases between processes: nothing is handed out twice while one lives, and what a dead process held is taken over.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use duroxide::providers::Provider;

use super::child::{Orders, Process};
use crate::harness::database_url;
use crate::op::scene::{LONG, Scene, ack_turn, activity, start, turn, work};

fn orders(scene: &Scene, role: &'static str, lease: Duration, seed: u64) -> Orders {
    Orders {
        role,
        url: database_url(),
        schema: scene.schema.clone(),
        lease,
        fallback: Duration::from_secs(15),
        seed,
    }
}

/// What a process was handed, and until when its lease surely lived.
#[derive(Debug)]
struct Hold {
    attempt: u32,
    from: u128,
    /// When an ack was sent that the store then accepted.
    acked: Option<u128>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_item_is_handed_out_twice_while_its_lease_lives() {
    const ITEMS: usize = 150;
    let seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_nanos() as u64
        % 1_000_000;
    println!("seed {seed}");
    let scene = Scene::open().await;
    let mut children: Vec<Process> = (0..3)
        .map(|n| Process::start(&orders(&scene, "worker", Duration::from_millis(700), seed * 10 + n)))
        .collect();
    for child in &mut children {
        child.line("ready", Duration::from_secs(20)).await;
    }
    let sends = (0..ITEMS).map(|n| {
        let provider = &scene.provider;
        async move {
            let name = format!("i{n}");
            provider
                .enqueue_for_orchestrator(start(&name), None)
                .await
                .expect("start");
            provider
                .enqueue_for_worker(activity(&format!("w{n}"), 2))
                .await
                .expect("queue");
        }
    });
    futures_util::future::join_all(sends).await;
    let mut lines = Vec::new();
    for child in &mut children {
        tokio::time::timeout(LONG * 2, child.done())
            .await
            .expect("the children come to an end");
        lines.extend(child.lines());
    }
    let holds = holds(&lines);
    assert_eq!(holds.len(), 2 * ITEMS, "seed {seed}: every item was handed out");
    for (item, holds) in &holds {
        assert_apart(item, holds, seed);
    }
    let handed_out: usize = holds.values().map(Vec::len).sum();
    println!("{handed_out} claims of {} items", 2 * ITEMS);
    // What they did is what the store says.
    assert_eq!(scene.rows("sf_event").await, ITEMS as i64);
    let leased = "SELECT count(*) FROM sf_turn WHERE claim IS NOT NULL";
    assert_eq!((scene.rows("sf_work").await, scene.number(leased, &[]).await), (0, 0));
    // Nobody has started their receiver: they may have been moved out of the way.
    let completions = "SELECT (SELECT count(*) FROM sf_inbox) + (SELECT count(*) FROM sf_message)";
    assert_eq!(scene.number(completions, &[]).await, ITEMS as i64);
    scene.close().await;
}

fn holds(lines: &[String]) -> HashMap<String, Vec<Hold>> {
    let mut holds: HashMap<String, Vec<Hold>> = HashMap::new();
    for pass in ["got", "acked"] {
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, item, attempt, time] = words[..] else {
                continue;
            };
            if what != pass {
                continue;
            }
            let (attempt, time) = (attempt.parse().expect("attempt"), time.parse().expect("time"));
            let of_item = holds.entry(item.to_owned()).or_default();
            if what == "got" {
                of_item.push(Hold {
                    attempt,
                    from: time,
                    acked: None,
                });
            } else {
                let held = of_item
                    .iter_mut()
                    .find(|hold| hold.attempt == attempt && hold.acked.is_none());
                held.expect("acknowledged what was got").acked = Some(time);
            }
        }
    }
    holds
}

/// Each claim counts one attempt more, one is acknowledged, and nobody got the item while that one held it.
fn assert_apart(item: &str, holds: &[Hold], seed: u64) {
    let attempts: HashSet<u32> = holds.iter().map(|hold| hold.attempt).collect();
    assert_eq!(
        attempts.len(),
        holds.len(),
        "seed {seed}: {item}: one claim in two hands: {holds:?}"
    );
    let acked: Vec<&Hold> = holds.iter().filter(|hold| hold.acked.is_some()).collect();
    assert_eq!(acked.len(), 1, "seed {seed}: {item}: acknowledged not once: {holds:?}");
    let (from, until) = (acked[0].from, acked[0].acked.expect("it is"));
    for hold in holds.iter().filter(|hold| hold.attempt != acked[0].attempt) {
        assert!(
            !(from..=until).contains(&hold.from),
            "seed {seed}: {item}: handed out under a lease: {holds:?}"
        );
        assert!(
            hold.attempt < acked[0].attempt,
            "seed {seed}: {item}: claimed after its end: {holds:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_held_is_taken_over_after_one_lease() {
    const LEASE: Duration = Duration::from_secs(3);
    let scene = Scene::open().await;
    scene
        .provider
        .enqueue_for_orchestrator(start("i"), None)
        .await
        .expect("start");
    scene
        .provider
        .enqueue_for_worker(activity("w", 2))
        .await
        .expect("queue");
    let mut child = Process::start(&orders(&scene, "holder", LEASE, 0));
    let holding = child.line("holding", Duration::from_secs(20)).await;
    let words: Vec<&str> = holding.split(' ').collect();
    assert_eq!(words[2..], ["1", "1"], "the attempts");
    // Other waiters are here already, and sleep.
    let heir = scene.another().await;
    let turns = tokio::spawn({
        let heir = heir.clone();
        async move { (turn(&*heir, LONG).await, Instant::now()) }
    });
    let works = tokio::spawn({
        let heir = heir.clone();
        async move { (work(&*heir, LONG).await, Instant::now()) }
    });
    child.kill();
    let killed = Instant::now();
    let since_claim = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_micros()
        - words[1].parse::<u128>().expect("a time");
    let ((instance, turn_token, attempts), turn_at) = turns.await.expect("no panic");
    assert_eq!((instance.as_str(), attempts), ("i", 2));
    let ((instance, work_token, attempts), work_at) = works.await.expect("no panic");
    assert_eq!((instance.as_str(), attempts), ("w", 2));
    for at in [turn_at, work_at] {
        let held = (at - killed).as_micros() + since_claim;
        assert!(held >= LEASE.as_micros(), "taken from a lease that lived: {held} us");
    }
    ack_turn(&*heir, &turn_token, "i", Vec::new(), Vec::new())
        .await
        .expect("acknowledge");
    heir.ack_work_item(&work_token, None).await.expect("acknowledge");
    heir.close().await;
    scene.close().await;
}
