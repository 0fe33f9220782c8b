//! A pool over connections that the test opens, or refuses, by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::*;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Fake {
    number: u32,
    broken: Arc<AtomicBool>,
}

fn fake(number: u32) -> Fake {
    Fake {
        number,
        broken: Arc::default(),
    }
}

type Attempted = oneshot::Sender<Result<Fake, StoreError>>;

struct ByHand(mpsc::UnboundedSender<Attempted>);

impl Connect for ByHand {
    type Connection = Fake;

    async fn connect(&self) -> Result<Fake, StoreError> {
        let (result, hand) = oneshot::channel();
        self.0.send(result).expect("the test looks at attempts");
        hand.await.expect("the test answers, or the attempt panics")
    }

    fn is_open(connection: &Fake) -> bool {
        !connection.broken.load(Ordering::Relaxed)
    }
}

fn pool(size: usize) -> (Arc<Pool<ByHand>>, mpsc::UnboundedReceiver<Attempted>) {
    let (attempts, seen) = mpsc::unbounded_channel();
    let background = Background::start().expect("threads");
    (Arc::new(Pool::new(ByHand(attempts), size, background)), seen)
}

type Getting = tokio::task::JoinHandle<Result<Lent<ByHand>, StoreError>>;

fn get(pool: &Arc<Pool<ByHand>>) -> Getting {
    let pool = Arc::clone(pool);
    tokio::spawn(async move { pool.get(LONG).await })
}

async fn got(getting: Getting) -> Lent<ByHand> {
    getting.await.expect("no panic").expect("a connection")
}

fn number(lent: &mut Lent<ByHand>) -> u32 {
    lent.connection().expect("lent").number
}

fn refused(sqlstate: &str) -> StoreError {
    StoreError::Connect {
        message: "refused".to_owned(),
        sqlstate: Some(sqlstate.to_owned()),
        refused: false,
    }
}

async fn next(attempts: &mut mpsc::UnboundedReceiver<Attempted>) -> Attempted {
    let next = tokio::time::timeout(LONG, attempts.recv()).await;
    next.expect("an attempt begins").expect("the pool lives")
}

#[tokio::test]
async fn a_call_takes_what_becomes_free_while_an_attempt_hangs() {
    let (pool, mut attempts) = pool(3);
    let first = get(&pool);
    next(&mut attempts).await.send(Ok(fake(1))).expect("wanted");
    let first = got(first).await;
    let second = get(&pool);
    let hanging = next(&mut attempts).await;
    first.give_back();
    assert_eq!(number(&mut got(second).await), 1);
    // What comes of the attempt after all is idle, and is there for the next.
    hanging.send(Ok(fake(2))).expect("still under way");
    while pool.connections() != (1, 1) {
        tokio::task::yield_now().await;
    }
    assert_eq!(number(&mut pool.get(LONG).await.expect("idle")), 2);
}

#[tokio::test]
async fn the_one_used_last_is_lent_first_and_broken_ones_are_not() {
    let (pool, mut attempts) = pool(3);
    let mut lent = Vec::new();
    for n in 0..3 {
        let getting = get(&pool);
        next(&mut attempts).await.send(Ok(fake(n))).expect("wanted");
        lent.push(got(getting).await);
    }
    let broken = Arc::clone(&lent[2].connection().expect("lent").broken);
    for one in lent {
        one.give_back();
    }
    broken.store(true, Ordering::Relaxed);
    assert_eq!(pool.connections(), (3, 3));
    assert_eq!(number(&mut pool.get(LONG).await.expect("idle")), 1);
    // That one was dropped without being given back: closed, as is the broken one.
    assert_eq!(pool.connections(), (1, 1));
}

#[tokio::test]
async fn without_a_connection_all_who_wait_are_told_why_by_the_last_attempt() {
    let (pool, mut attempts) = pool(2);
    let waiting = [get(&pool), get(&pool), get(&pool)];
    let (one, two) = (next(&mut attempts).await, next(&mut attempts).await);
    one.send(Err(refused("28P01"))).expect("wanted");
    tokio::time::sleep(SHORT).await;
    assert!(waiting.iter().all(|w| !w.is_finished()), "another attempt is under way");
    two.send(Err(refused("28P01"))).expect("wanted");
    for one in waiting {
        let told = one.await.expect("no panic").err().expect("an error");
        assert!(
            matches!(&told, StoreError::Connect { sqlstate: Some(s), .. } if s == "28P01"),
            "{told:?}"
        );
        assert!(!told.is_retryable());
    }
    // Whoever comes now has an attempt made, one for all.
    let waiting = [get(&pool), get(&pool)];
    let only = next(&mut attempts).await;
    tokio::time::sleep(SHORT).await;
    assert!(attempts.try_recv().is_err(), "one at a time after a failure");
    only.send(Ok(fake(7))).expect("wanted");
    next(&mut attempts).await.send(Ok(fake(8))).expect("wanted");
    for one in waiting {
        got(one).await.give_back();
    }
}

#[tokio::test]
async fn while_others_serve_a_failed_attempt_is_repeated_and_nobody_is_told() {
    let (pool, mut attempts) = pool(2);
    let first = get(&pool);
    next(&mut attempts).await.send(Ok(fake(1))).expect("wanted");
    let first = got(first).await;
    let second = get(&pool);
    next(&mut attempts).await.send(Err(refused("53300"))).expect("wanted");
    next(&mut attempts).await.send(Err(refused("53300"))).expect("wanted");
    let third = next(&mut attempts).await;
    assert!(!second.is_finished());
    third.send(Ok(fake(2))).expect("wanted");
    assert_eq!(number(&mut got(second).await), 2);
    drop(first);
}

#[tokio::test]
async fn nobody_hangs_when_attempts_panic_or_callers_vanish_or_the_pool_closes() {
    let (pool, mut attempts) = pool(1);
    let told = get(&pool);
    drop(next(&mut attempts).await);
    let told = told.await.expect("no panic").err().expect("an error");
    assert!(told.is_retryable(), "{told:?}");

    // A connection for a caller that has gone is there for the next one.
    let gone = get(&pool);
    let attempt = next(&mut attempts).await;
    gone.abort();
    let _ = gone.await;
    attempt.send(Ok(fake(1))).expect("still under way");
    let kept = pool.get(LONG).await.expect("the connection of the one who has gone");

    let (in_time, waits) = (pool.get(SHORT).await, get(&pool));
    assert!(matches!(in_time.err(), Some(StoreError::PoolTimeout(_))));
    while pool.0.lock().waiting.iter().all(oneshot::Sender::is_closed) {
        tokio::task::yield_now().await;
    }
    pool.close();
    assert!(matches!(waits.await.expect("no panic").err(), Some(StoreError::Closed)));
    kept.give_back();
    assert_eq!(pool.connections(), (0, 0));
    assert!(matches!(pool.get(LONG).await.err(), Some(StoreError::Closed)));
}

#[test]
fn it_serves_callers_without_a_runtime() {
    let (pool, mut attempts) = pool(1);
    std::thread::spawn(move || {
        let attempt = attempts.blocking_recv().expect("the pool lives");
        attempt.send(Ok(fake(1))).expect("wanted");
    });
    let waiting = Arc::clone(&pool);
    let lent = std::thread::spawn(move || {
        let (done, result) = std::sync::mpsc::channel();
        let mut getting = Box::pin(async move { done.send(waiting.get(LONG).await.is_ok()) });
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while getting.as_mut().poll(&mut context).is_pending() {
            std::thread::yield_now();
        }
        result.recv()
    });
    assert_eq!(lent.join().expect("no panic"), Ok(true));
}
