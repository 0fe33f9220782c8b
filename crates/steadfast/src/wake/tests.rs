//! Tests of who is woken when: examples by name, and a random run against a queue that is modelled exactly.

use super::*;
use proptest::prelude::*;

const NOTHING: Found = Found {
    items: 0,
    busy: false,
    next_due: None,
};

fn found(items: usize) -> Found {
    Found { items, ..NOTHING }
}

#[test]
fn one_look_serves_all_who_wait() {
    let now = Instant::now();
    let mut wake = Wake::new(100);
    for _ in 0..64 {
        wake.register("g", false, Kept::Nothing);
    }
    let looks = wake.looks(now);
    assert_eq!(looks.len(), 1);
    assert_eq!(looks[0].waiters.len(), 64);
    assert!(wake.looks(now).is_empty(), "a look is under way");
    wake.looked(now, &looks[0], NOTHING);
    assert!(wake.looks(now).is_empty(), "dry");
    assert_eq!(wake.sleeping(), 64);
    assert_eq!(wake.next_look(), None);
}

#[test]
fn a_look_that_lost_waiters_before_it_asked_has_not_found_the_queue_dry() {
    let now = Instant::now();
    let mut wake = Wake::new(8);
    let first = wake.register("g", false, Kept::Nothing);
    let second = wake.register("g", false, Kept::Nothing);
    let mut look = wake.looks(now).remove(0);
    // One of them was served by a look beside it: one item was asked for, and one came.
    wake.remove(&"g", second);
    look.waiters.retain(|id| *id == first);
    wake.remove(&"g", first);
    wake.looked(now, &look, found(1));
    wake.register("g", false, Kept::Nothing);
    assert_eq!(wake.looks(now).len(), 1, "there may be more");
}

#[test]
fn a_look_beside_another_serves_only_those_who_come_back() {
    let now = Instant::now();
    let mut wake = Wake::new(8);
    wake.register("g", false, Kept::Nothing);
    let plain = wake.looks(now).remove(0);
    let aside = wake.look_returning(now, &"g", 2, false).expect("not dry");
    assert!(aside.waiters.is_empty());
    wake.looked(now, &aside, found(2));
    assert!(wake.looks(now).is_empty(), "the other look is still under way");
    wake.looked(now, &plain, NOTHING);
    assert!(wake.look_returning(now, &"g", 2, false).is_none(), "dry");
    wake.signal();
    let served = wake.look_returning(now, &"g", 2, false).expect("signalled");
    assert_eq!(
        (served.waiters.len(), served.returning),
        (1, 2),
        "whoever waits goes along"
    );
}

#[test]
fn a_new_waiter_on_a_dry_queue_sleeps_unless_it_may_not() {
    let now = Instant::now();
    let mut wake = Wake::new(8);
    let first = wake.register("g", false, Kept::Nothing);
    let look = wake.looks(now).remove(0);
    wake.looked(now, &look, NOTHING);
    wake.remove(&"g", first);
    wake.register("g", false, Kept::Nothing);
    assert!(wake.looks(now).is_empty());
    wake.register("g", true, Kept::Nothing);
    assert_eq!(wake.looks(now).len(), 1);
}

#[test]
fn a_waiter_that_may_not_wait_gets_a_look_that_begins_after_it() {
    let now = Instant::now();
    let mut wake = Wake::new(8);
    wake.register("g", false, Kept::Nothing);
    let look = wake.looks(now).remove(0);
    let pressed = wake.register("g", true, Kept::Nothing);
    wake.looked(now, &look, NOTHING);
    let look = wake.looks(now).remove(0);
    assert!(look.waiters.contains(&pressed));
    wake.looked(now, &look, NOTHING);
    assert!(wake.looks(now).is_empty());
}

#[test]
fn a_signal_during_a_look_is_not_lost() {
    let now = Instant::now();
    let mut wake = Wake::new(8);
    wake.register("g", false, Kept::Nothing);
    let look = wake.looks(now).remove(0);
    wake.signal();
    wake.looked(now, &look, NOTHING);
    assert_eq!(wake.looks(now).len(), 1);
}

#[test]
fn a_look_that_served_everybody_is_followed_by_one_for_the_next_waiter() {
    let now = Instant::now();
    let mut wake = Wake::new(8);
    let id = wake.register("g", false, Kept::Nothing);
    let look = wake.looks(now).remove(0);
    wake.remove(&"g", id);
    wake.looked(now, &look, found(1));
    wake.register("g", false, Kept::Nothing);
    assert_eq!(wake.looks(now).len(), 1, "the queue may hold more");
}

#[test]
fn due_times_of_any_horizon_wake_on_time_and_not_before() {
    let now = Instant::now();
    let year = Duration::from_secs(365 * 86_400);
    let mut wake = Wake::new(8);
    wake.register("g", false, Kept::Nothing);
    let look = wake.looks(now).remove(0);
    wake.looked(
        now,
        &look,
        Found {
            next_due: Some(year),
            ..NOTHING
        },
    );
    assert_eq!(wake.next_look(), now.checked_add(year));
    wake.due_in(now, Duration::MAX);
    wake.due_in(now, Duration::from_millis(5));
    assert_eq!(wake.next_look(), now.checked_add(Duration::from_millis(5)));
    assert!(wake.looks(now).is_empty());
    assert_eq!(wake.looks(now + Duration::from_millis(5)).len(), 1);
}

#[test]
fn busy_and_failed_looks_are_repeated_after_growing_pauses() {
    let mut now = Instant::now();
    let mut wake = Wake::new(8);
    wake.register("g", false, Kept::Nothing);
    let mut last = Duration::ZERO;
    for _ in 0..5 {
        let look = wake.looks(now).remove(0);
        wake.looked(now, &look, Found { busy: true, ..NOTHING });
        let at = wake.next_look().unwrap();
        assert!(wake.looks(now).is_empty());
        assert!(at - now >= last);
        last = at - now;
        now = at;
    }
    let look = wake.looks(now).remove(0);
    wake.failed(now, &look);
    let at = wake.next_look().unwrap();
    assert!(at > now);
    assert_eq!(wake.looks(at).len(), 1);
}

#[test]
fn groups_do_not_make_each_other_dry() {
    let now = Instant::now();
    let mut wake = Wake::new(8);
    wake.register("a", false, Kept::Nothing);
    let look = wake.looks(now).remove(0);
    wake.looked(now, &look, NOTHING);
    wake.register("b", false, Kept::Nothing);
    let looks = wake.looks(now);
    assert_eq!(looks.len(), 1);
    assert_eq!(looks[0].group, "b");
}

#[test]
fn without_hints_the_queue_is_polled() {
    let now = Instant::now();
    let mut wake = Wake::new(8);
    wake.poll_every(Some(Duration::from_millis(20)));
    wake.register("g", false, Kept::Nothing);
    let look = wake.looks(now).remove(0);
    wake.looked(now, &look, NOTHING);
    assert_eq!(wake.looks(now + Duration::from_millis(20)).len(), 1);
}

/// A session's activities, of which its holder has taken one, while another waiter finds the queue dry.
#[test]
fn what_is_kept_for_one_is_looked_for_when_it_comes() {
    let now = Instant::now();
    let mut wake = Wake::new(8);
    wake.register("g", false, Kept::Nothing);
    let look = wake.looks(now).remove(0);
    wake.looked(now, &look, NOTHING);
    let holder = wake.register("g", false, Kept::Unseen);
    let look = wake.looks(now).remove(0);
    assert!(look.waiters.contains(&holder));
    wake.looked(now, &look, NOTHING);
    assert!(wake.looks(now).is_empty(), "dry for all");
    assert_eq!(wake.next_look(), None);
}

#[test]
fn who_was_looked_for_along_with_its_ack_does_not_look_again() {
    let now = Instant::now();
    let mut wake = Wake::new(8);
    wake.register("g", false, Kept::Nothing);
    let look = wake.looks(now).remove(0);
    wake.looked(now, &look, NOTHING);
    assert!(wake.look_returning(now, &"g", 1, false).is_none());
    let look = wake.look_returning(now, &"g", 1, true).expect("something may be kept");
    wake.looked(now, &look, NOTHING);
    wake.register("g", false, Kept::Seen);
    assert!(wake.looks(now).is_empty());
    wake.signal();
    assert_eq!(wake.looks(now).len(), 1);
}

/// More waiters than one look takes: what is kept for the last of them is looked for too, and then there is rest.
#[test]
fn each_of_many_is_looked_for() {
    let now = Instant::now();
    let mut wake = Wake::new(4);
    for _ in 0..10 {
        wake.register("g", false, Kept::Seen);
    }
    wake.signal();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..3 {
        let look = wake.looks(now).remove(0);
        seen.extend(look.waiters.clone());
        wake.looked(now, &look, NOTHING);
    }
    assert_eq!(seen.len(), 10);
    assert!(wake.looks(now).is_empty());
}

/// Owner 0 holds nothing, and nothing is kept for it.
type Owner = u8;

#[derive(Debug, Clone)]
enum Step {
    Register(u8, Owner),
    Vanish(usize),
    Produce(u8, Owner),
    ProduceLater(u8, u16),
    StartLooks,
    FinishLook(bool),
    Advance(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..3, 0u8..8).prop_map(|(g, o)| Step::Register(g, o)),
        1 => (0usize..10).prop_map(Step::Vanish),
        3 => (0u8..3, 0u8..8).prop_map(|(g, o)| Step::Produce(g, o)),
        1 => (0u8..3, 1u16..500).prop_map(|(g, d)| Step::ProduceLater(g, d)),
        4 => Just(Step::StartLooks),
        4 => any::<bool>().prop_map(Step::FinishLook),
        2 => (1u16..300).prop_map(Step::Advance),
    ]
}

#[derive(Debug, Clone, Copy)]
struct Item {
    group: u8,
    /// Whom it is kept for.
    owner: Owner,
    due: Instant,
}

impl Item {
    fn may_go_to(&self, waiter: &Waiter) -> bool {
        self.group == waiter.group && (self.owner == 0 || self.owner == waiter.owner)
    }
}

#[derive(Debug, Clone, Copy)]
struct Waiter {
    group: u8,
    owner: Owner,
    id: WaiterId,
}

/// A look, what it has taken for whom, and when more is due.
type UnderWay = (Look<u8>, Vec<(WaiterId, Item)>, Option<Duration>);

/// The queue that looks are taken into: what is in it when a look starts is what the look sees.
struct Queue {
    items: Vec<Item>,
    under_way: VecDeque<UnderWay>,
    waiting: Vec<Waiter>,
}

impl Queue {
    fn start(&mut self, wake: &mut Wake<u8>, now: Instant) {
        for look in wake.looks(now) {
            assert!(
                !self.under_way.iter().any(|(l, ..)| l.group == look.group),
                "one look per group at a time"
            );
            let mut taken = Vec::new();
            for id in &look.waiters {
                let Some(waiter) = self.waiting.iter().find(|w| w.id == *id) else {
                    continue;
                };
                let first = self.items.iter().position(|i| i.may_go_to(waiter) && i.due <= now);
                taken.extend(first.map(|n| (*id, self.items.remove(n))));
            }
            let later = self.items.iter().filter(|i| i.group == look.group && i.due > now);
            let next = later.map(|i| i.due - now).min();
            self.under_way.push_back((look, taken, next));
        }
    }

    fn finish(&mut self, wake: &mut Wake<u8>, now: Instant, fail: bool) {
        let Some((look, taken, next_due)) = self.under_way.pop_front() else {
            return;
        };
        if fail && taken.is_empty() {
            wake.failed(now, &look);
            return;
        }
        let (items, mut back) = (taken.len(), false);
        for (id, item) in taken {
            if self.waiting.iter().any(|w| w.id == id) {
                self.waiting.retain(|w| w.id != id);
                wake.remove(&look.group, id);
            } else {
                // What nobody waits for any more goes back, which is a signal.
                self.items.push(Item { due: now, ..item });
                back = true;
            }
        }
        let found = Found {
            items,
            busy: false,
            next_due,
        };
        wake.looked(now, &look, found);
        if back {
            wake.signal();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn nobody_sleeps_beside_work(steps in prop::collection::vec(step(), 0..120)) {
        let mut now = Instant::now();
        let mut wake = Wake::new(4);
        let mut queue = Queue { items: vec![], under_way: VecDeque::new(), waiting: vec![] };
        for step in steps {
            match step {
                Step::Register(group, owner) => {
                    let kept = if owner == 0 { Kept::Nothing } else { Kept::Unseen };
                    let id = wake.register(group, false, kept);
                    queue.waiting.push(Waiter { group, owner, id });
                }
                Step::Vanish(n) if n < queue.waiting.len() => {
                    let gone = queue.waiting.remove(n);
                    wake.remove(&gone.group, gone.id);
                }
                Step::Vanish(_) => {}
                Step::Produce(group, owner) => {
                    queue.items.push(Item { group, owner, due: now });
                    wake.signal();
                }
                Step::ProduceLater(group, ms) => {
                    let delay = Duration::from_millis(ms.into());
                    queue.items.push(Item { group, owner: 0, due: now + delay });
                    wake.due_in(now, delay);
                }
                Step::StartLooks => queue.start(&mut wake, now),
                Step::FinishLook(fail) => queue.finish(&mut wake, now, fail),
                Step::Advance(ms) => now += Duration::from_millis(ms.into()),
            }
        }
        // Let everything settle, moving time only to where the waiters asked to be woken.
        for _ in 0..2000 {
            queue.start(&mut wake, now);
            if !queue.under_way.is_empty() { queue.finish(&mut wake, now, false); continue; }
            match wake.next_look() { Some(at) => now = now.max(at), None => break }
        }
        for waiter in &queue.waiting {
            prop_assert!(!queue.items.iter().any(|i| i.may_go_to(waiter)), "a waiter sleeps beside an item");
        }
    }
}
