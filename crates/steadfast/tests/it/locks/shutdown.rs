//! After callers are gone or a provider is closed nothing stays locked, spent or connected (requirement B8): several
//! hundred interleavings of fetches that are dropped, claims that are slow, and closing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use duroxide::providers::{OrchestrationItem, Provider, SessionFetchConfig, TagFilter, WorkItem};
use steadfast::fault::{Faults, Rule, When};
use steadfast::postgres::{LongPoll, PostgresProvider};
use tokio_postgres::Client;

use super::dice::{Dice, seed};
use crate::harness::{Mode, Store, database_url, fresh_schema};
use crate::upgrade::place::{LEASE, activity, start};

/// Stores that are played on side by side, and rounds on each.
const STORES: u64 = 4;
const ROUNDS: u64 = 60;
const POLL: Duration = Duration::from_secs(60);
const FUNCTIONS: [&str; 2] = ["sf_fetch_orchestration_item", "sf_fetch_work_item"];

/// How a round ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// All fetches are dropped, then the provider is closed.
    DropThenClose,
    /// The provider is closed while fetches wait.
    CloseWhileWaiting,
    /// All fetches are dropped, then the provider is, without being closed.
    DropThenDrop,
    /// The provider stays; what was dropped goes back without its end.
    Stay,
}

/// What a fetch that came back brought.
enum Taken {
    Turn(String),
    Work(String, u64),
    Nothing,
}

struct Round {
    number: u64,
    dice: Dice,
    /// `pg_stat_activity` shows the round's provider under this name.
    application: String,
    schema: String,
}

impl Round {
    async fn open(&self, faults: &Faults) -> Arc<PostgresProvider> {
        let provider = PostgresProvider::builder(&database_url())
            .schema(&self.schema)
            .long_poll(LongPoll::default())
            .pool_size(3)
            .application_name(self.application.clone())
            .faults(faults.clone())
            .connect()
            .await
            .expect("open");
        Arc::new(provider)
    }

    /// Delays of a few calls, before they leave or after they were answered.
    fn slow_down(&mut self, faults: &Faults) {
        for _ in 0..self.dice.below(8) {
            faults.add(Rule {
                function: self.dice.pick::<&'static str>(&FUNCTIONS),
                when: if self.dice.one_in(2) { When::Before } else { When::After },
                delay: Duration::from_millis(self.dice.below(25)),
                fault: None,
                times: 1,
            });
        }
    }

    fn fetch(&mut self, provider: &Arc<PostgresProvider>) -> tokio::task::JoinHandle<Taken> {
        let provider = Arc::clone(provider);
        match self.dice.below(3) {
            0 => tokio::spawn(async move {
                match provider.fetch_orchestration_item(LEASE, POLL, None).await {
                    Ok(Some((item, ..))) => Taken::Turn(item.instance),
                    _ => Taken::Nothing,
                }
            }),
            kind => tokio::spawn(async move {
                let session = SessionFetchConfig {
                    owner_id: "owner".to_owned(),
                    lock_timeout: LEASE,
                };
                let session = (kind == 1).then_some(&session);
                match provider.fetch_work_item(LEASE, POLL, session, &TagFilter::Any).await {
                    Ok(Some((WorkItem::ActivityExecute { instance, id, .. }, ..))) => Taken::Work(instance, id),
                    _ => Taken::Nothing,
                }
            }),
        }
    }

    async fn pause(&mut self) {
        match self.dice.below(3) {
            0 => {}
            1 => tokio::task::yield_now().await,
            _ => tokio::time::sleep(Duration::from_millis(self.dice.below(20))).await,
        }
    }
}

/// What lies in the queues, and how much of it is leased or has an attempt spent.
async fn look(raw: &Client) -> (BTreeSet<String>, BTreeSet<(String, u64)>) {
    let turns = raw
        .query(
            "SELECT i.instance_id FROM sf_turn t JOIN sf_instance i USING (instance_key)
             WHERE t.claim IS NOT NULL
             UNION
             SELECT i.instance_id FROM sf_message s JOIN sf_instance i USING (instance_key)
             WHERE s.attempt_count > 0 OR s.claim IS NOT NULL",
            &[],
        )
        .await
        .unwrap();
    let work = raw
        .query(
            "SELECT i.instance_id, w.activity_id FROM sf_work w JOIN sf_instance i USING (instance_key)
             WHERE w.claim <> 0 OR w.attempt_count > 0 OR w.available_at > clock_timestamp()",
            &[],
        )
        .await
        .unwrap();
    (
        turns.iter().map(|r| r.get(0)).collect(),
        work.iter().map(|r| (r.get(0), r.get::<_, i64>(1) as u64)).collect(),
    )
}

/// Asks until it is so; everything that this test waits for happens without anybody's doing.
async fn until<T: PartialEq + std::fmt::Debug, R: Future<Output = T>>(what: &str, wanted: T, ask: impl Fn() -> R) {
    let mut seen = ask().await;
    for _ in 0..250 {
        if seen == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        seen = ask().await;
    }
    panic!("{what}: {seen:?} instead of {wanted:?}");
}

/// An item may be with a claim that was under way at the end of its provider, for the moment until that gives it back:
/// so often is it asked for.
const TRIES: usize = 250;

async fn next_turn(stayer: &PostgresProvider, what: &str) -> (OrchestrationItem, String, u32) {
    for _ in 0..TRIES {
        if let Some(turn) = stayer
            .fetch_orchestration_item(LEASE, Duration::ZERO, None)
            .await
            .unwrap()
        {
            return turn;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: a turn is missing");
}

async fn next_activity(stayer: &PostgresProvider, what: &str) -> (WorkItem, String, u32) {
    for _ in 0..TRIES {
        let found = stayer
            .fetch_work_item(LEASE, Duration::ZERO, None, &TagFilter::Any)
            .await;
        if let Some(work) = found.unwrap() {
            return work;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: an activity is missing");
}

async fn play(round: &mut Round, stayer: &PostgresProvider, raw: &Client) -> End {
    let faults = Faults::new();
    let provider = round.open(&faults).await;
    round.slow_down(&faults);
    let (starts, activities) = (round.dice.below(6), round.dice.below(6));
    let early = round.dice.one_in(2);
    let mut fetches = Vec::new();
    let waiters = 1 + round.dice.below(10);
    if early {
        for _ in 0..waiters {
            fetches.push(round.fetch(&provider));
        }
        round.pause().await;
    }
    // Work of two makers: this process, which need not be told, and another one.
    for n in 0..starts {
        let maker: &PostgresProvider = if round.dice.one_in(2) { stayer } else { &provider };
        let item = start(&format!("turn {}.{n}", round.number));
        maker.enqueue_for_orchestrator(item, None).await.unwrap();
    }
    for n in 0..activities {
        let maker: &PostgresProvider = if round.dice.one_in(2) { stayer } else { &provider };
        maker
            .enqueue_for_worker(activity(&format!("work {}", round.number), n))
            .await
            .unwrap();
    }
    if !early {
        for _ in 0..waiters {
            fetches.push(round.fetch(&provider));
        }
    }
    round.pause().await;

    let end = *round
        .dice
        .pick(&[End::DropThenClose, End::CloseWhileWaiting, End::DropThenDrop, End::Stay]);
    // Some callers vanish in the middle, one by one; then the others, if the round ends so.
    let mut taken = Vec::new();
    let mut left = Vec::new();
    for fetch in fetches {
        if end != End::CloseWhileWaiting || round.dice.one_in(2) {
            fetch.abort();
            if round.dice.one_in(2) {
                round.pause().await;
            }
        }
        left.push(fetch);
    }
    match end {
        End::CloseWhileWaiting => {
            provider.close().await;
            for fetch in left {
                if let Ok(item) = fetch.await {
                    taken.push(item);
                }
            }
        }
        _ => {
            for fetch in left {
                if let Ok(item) = fetch.await {
                    taken.push(item);
                }
            }
            if end == End::DropThenClose {
                provider.close().await;
            }
        }
    }
    let kept = (end == End::Stay).then(|| Arc::clone(&provider));
    drop(provider);

    let turns: BTreeSet<String> = taken
        .iter()
        .filter_map(|t| if let Taken::Turn(i) = t { Some(i.clone()) } else { None })
        .collect();
    let work: BTreeSet<(String, u64)> = taken
        .iter()
        .filter_map(|t| {
            if let Taken::Work(i, n) = t {
                Some((i.clone(), *n))
            } else {
                None
            }
        })
        .collect();
    let what = format!(
        "round {}, {end:?}: what is leased or spent, and was taken",
        round.number
    );
    if matches!(end, End::DropThenClose | End::CloseWhileWaiting) {
        // All is done when close returns.
        assert_eq!(look(raw).await, (turns.clone(), work.clone()), "{what}");
    }
    until(&what, (turns.clone(), work.clone()), async || look(raw).await).await;
    if let Some(kept) = kept {
        kept.close().await;
    }
    let what = format!("round {}, {end:?}: open connections", round.number);
    until(&what, 0i64, async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
        raw.query_one(sql, &[&round.application]).await.unwrap().get(0)
    })
    .await;

    // Another provider has what nobody took, at its first attempt.
    let what = format!("round {}, {end:?}", round.number);
    for _ in turns.len() as u64..starts {
        let (item, _, attempts) = next_turn(stayer, &what).await;
        assert!(!turns.contains(&item.instance));
        assert_eq!(attempts, 1, "{what}");
    }
    for _ in work.len() as u64..activities {
        let (_, _, attempts) = next_activity(stayer, &what).await;
        assert_eq!(attempts, 1, "{what}");
    }
    end
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_stays_locked_spent_or_connected() {
    let seed = seed("nothing_stays_locked_spent_or_connected");
    let games: Vec<_> = (0..STORES).map(|n| tokio::spawn(game(seed, n * ROUNDS))).collect();
    for game in games {
        println!("{:?}", game.await.expect("a game"));
    }
}

/// Rounds from `first` on, on a store of their own: how often each end came.
async fn game(seed: u64, first: u64) -> BTreeMap<String, u64> {
    let store = Store::new(Mode::ShortPoll);
    let stayer = store.open_postgres().await;
    let raw = store.raw().await;
    let mut ends = BTreeMap::<String, u64>::new();
    for number in first..first + ROUNDS {
        let mut round = Round {
            number,
            dice: Dice::new(seed, number),
            application: fresh_schema(),
            schema: stayer.schema().to_owned(),
        };
        let end = play(&mut round, &stayer, &raw).await;
        *ends.entry(format!("{end:?}")).or_default() += 1;
        raw.batch_execute("TRUNCATE sf_instance, sf_turn, sf_message, sf_inbox, sf_work, sf_session")
            .await
            .unwrap();
    }
    store.close().await;
    ends
}

/// Closing in the middle of batches: what was answered is true, and no connection stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_in_the_middle_of_batches_tells_the_truth() {
    let seed = seed("closing_in_the_middle_of_batches_tells_the_truth");
    let store = Store::new(Mode::ShortPoll);
    let stayer = store.open_postgres().await;
    let raw = store.raw().await;
    for number in 0..60 {
        let mut round = Round {
            number,
            dice: Dice::new(seed, number),
            application: fresh_schema(),
            schema: stayer.schema().to_owned(),
        };
        let faults = Faults::new();
        let provider = round.open(&faults).await;
        for _ in 0..4 {
            faults.add(Rule {
                function: "sf_enqueue_for_worker",
                when: if round.dice.one_in(2) {
                    When::Before
                } else {
                    When::After
                },
                delay: Duration::from_millis(round.dice.below(10)),
                fault: None,
                times: 1,
            });
        }
        let calls: Vec<_> = (0..40u64)
            .map(|id| {
                let provider = Arc::clone(&provider);
                tokio::spawn(async move { provider.enqueue_for_worker(activity("i", id)).await.is_ok() })
            })
            .collect();
        round.pause().await;
        provider.close().await;
        let mut promised = BTreeSet::new();
        for (id, call) in calls.into_iter().enumerate() {
            if call.await.unwrap() {
                promised.insert(id as i64);
            }
        }
        let rows = raw.query("SELECT activity_id FROM sf_work", &[]).await.unwrap();
        let stored: Vec<i64> = rows.iter().map(|r| r.get(0)).collect();
        let distinct: BTreeSet<i64> = stored.iter().copied().collect();
        assert_eq!(distinct.len(), stored.len(), "round {number}: nothing twice");
        assert!(
            promised.is_subset(&distinct),
            "round {number}: promised {promised:?}, stored {distinct:?}"
        );
        until("open connections", 0i64, async || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
            raw.query_one(sql, &[&round.application]).await.unwrap().get(0)
        })
        .await;
        raw.batch_execute("TRUNCATE sf_instance, sf_work").await.unwrap();
    }
    store.close().await;
}
