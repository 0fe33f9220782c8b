//! Who waits for a queue in this process, and when to look into it next.
//!
//! Invariants: nothing here does I/O, sleeps or reads a clock (times come in as arguments); a signal that
//! arrives while a look is under way makes another look follow; a look serves as many waiters as it finds
//! items for, oldest first (after those who may not wait), and one look at a time serves all waiters of a group, so that
//! nothing wakes a herd (only a look that goes along with an ack may be under way beside it); a queue that was found dry
//! is not looked into again before a signal, a due time or a waiter that may not wait; what a look has found says nothing
//! of what is kept for a waiter that it was not for.
//!
//! A *group* is a set of waiters that may take the same items (same lease, filter and tags).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Identifies a waiter for as long as it waits.
pub(crate) type WaiterId = u64;

/// A look into the queue that should be taken now, for these waiters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look<G> {
    pub(crate) group: G,
    /// Those it is for, in the order in which they are served. Whoever has gone before the queue is asked must be taken
    /// out: a look that asked for less has not found the queue dry.
    pub(crate) waiters: Vec<WaiterId>,
    /// How many more are about to come back and wait.
    pub(crate) returning: usize,
    /// Nothing else can be there than what the call makes that this look goes along with: the queue was dry before.
    pub(crate) direct: bool,
    /// Beside a look for those who wait.
    aside: bool,
    generation: u64,
}

/// What only one waiter of a group may take: the activities of a session that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Nothing.
    Nothing,
    /// There may be something, and it has not been looked for since the queue was found dry.
    Unseen,
    /// It was looked for when the queue was found dry.
    Seen,
}

/// What had happened until then, to tell whether anything has happened since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    generation: u64,
    looks: u64,
    under_way: usize,
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) items: usize,
    /// Something was there and is held by somebody else for a moment.
    pub(crate) busy: bool,
    /// When the next item is due, as far as the store knows.
    pub(crate) next_due: Option<Duration>,
}

#[derive(Debug)]
struct Group {
    waiting: VecDeque<WaiterId>,
    /// A look for those who wait is under way.
    looking: bool,
    /// Generation at which this group's part of the queue was found empty.
    dry_at: Option<u64>,
    /// Those who may not wait, or whose own has not been looked for, and are not part of a look yet.
    pressing: Vec<WaiterId>,
    /// Those for whom something may be kept, and the generation as of which none of it was there.
    kept: BTreeMap<WaiterId, u64>,
    /// Not before this, after a look that was busy or failed.
    not_before: Option<Instant>,
    setbacks: u32,
}

impl Group {
    fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            looking: false,
            dry_at: None,
            pressing: Vec::new(),
            kept: BTreeMap::new(),
            not_before: None,
            setbacks: 0,
        }
    }

    /// A look begins: for whom it is.
    fn begin(&mut self, max_items: usize) -> Vec<WaiterId> {
        self.looking = true;
        // First those who may not wait: one look is all they get.
        let pressing: Vec<WaiterId> = self.pressing.drain(..self.pressing.len().min(max_items)).collect();
        let patient = self
            .waiting
            .iter()
            .filter(|id| !pressing.contains(id) && !self.pressing.contains(id));
        pressing.iter().chain(patient).take(max_items).copied().collect()
    }

    /// A look has found nothing more, as of this generation: whom it was not for, it says nothing of what is kept for them.
    fn found_dry(&mut self, generation: u64, waiters: &[WaiterId]) {
        self.dry_at = Some(generation);
        for id in waiters {
            if let Some(seen) = self.kept.get_mut(id) {
                *seen = generation;
            }
        }
        for (id, seen) in &self.kept {
            if *seen < generation && !self.pressing.contains(id) {
                self.pressing.push(*id);
            }
        }
    }
}

/// The waiters of one queue.
#[derive(Debug)]
pub(crate) struct Wake<G> {
    groups: HashMap<G, Group>,
    next_id: WaiterId,
    /// Grows with everything that may have put an item within reach.
    generation: u64,
    /// Looks that began or ended.
    looks: u64,
    under_way: usize,
    due: Option<Instant>,
    max_items: usize,
    /// Set while nobody tells us of others' work: how often to look instead.
    poll_every: Option<Duration>,
}

/// Shortest and longest pause after a look that was busy.
const BUSY_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));
/// Shortest and longest pause after a look that failed.
const FAILURE_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));

impl<G: Clone + Eq + Hash> Wake<G> {
    pub(crate) fn new(max_items: usize) -> Self {
        Self {
            groups: HashMap::new(),
            next_id: 1,
            generation: 1,
            looks: 0,
            under_way: 0,
            due: None,
            max_items,
            poll_every: None,
        }
    }

    /// Somebody wants an item. With `at_once` the queue is looked into even if it was found dry: the caller
    /// may not wait, so what is known may not stand in for a look. Likewise for what is `kept` unseen.
    pub(crate) fn register(&mut self, group: G, at_once: bool, kept: Kept) -> WaiterId {
        let id = self.next_id;
        self.next_id += 1;
        let entry = self.groups.entry(group).or_insert_with(Group::new);
        entry.waiting.push_back(id);
        if at_once || kept == Kept::Unseen {
            entry.pressing.push(id);
        }
        match kept {
            Kept::Nothing => {}
            Kept::Unseen => drop(entry.kept.insert(id, 0)),
            Kept::Seen => drop(entry.kept.insert(id, self.generation)),
        }
        id
    }

    /// The generation at which a group's part of the queue was found dry, if that is still so.
    pub(crate) fn dry(&self, group: &G) -> Option<u64> {
        let dry_at = self.groups.get(group).and_then(|entry| entry.dry_at);
        dry_at.filter(|at| *at == self.generation)
    }

    /// The waiter was served, gave up or vanished.
    pub(crate) fn remove(&mut self, group: &G, id: WaiterId) {
        if let Some(entry) = self.groups.get_mut(group) {
            entry.waiting.retain(|w| *w != id);
            entry.pressing.retain(|w| *w != id);
            entry.kept.remove(&id);
        }
    }

    /// Something may have become available: work made here, a hint from elsewhere, a reconnect.
    pub(crate) fn signal(&mut self) {
        self.generation += 1;
    }

    /// Something becomes due in `delay`.
    pub(crate) fn due_in(&mut self, now: Instant, delay: Duration) {
        // Durations from callers may be absurd; what the clock cannot hold never comes.
        if let Some(at) = now.checked_add(delay) {
            self.due = Some(self.due.map_or(at, |d| d.min(at)));
        }
    }

    /// Polls every so often instead of relying on hints (`None`: hints arrive).
    pub(crate) fn poll_every(&mut self, interval: Option<Duration>) {
        if self.poll_every.is_some() && interval.is_none() {
            self.generation += 1;
        }
        self.poll_every = interval;
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.groups.values().map(|g| g.waiting.len()).sum()
    }

    /// How many wait although the queue was found dry: they sleep.
    pub(crate) fn sleeping(&self) -> usize {
        let dry = |g: &&Group| !g.looking && g.dry_at == Some(self.generation);
        self.groups.values().filter(dry).map(|g| g.waiting.len()).sum()
    }

    /// To be asked [`Wake::quiet_since`] later.
    pub(crate) fn moment(&self) -> Moment {
        Moment {
            generation: self.generation,
            looks: self.looks,
            under_way: self.under_way,
        }
    }

    /// Whether no look was under way since then, and nothing was signalled: whatever is known of the queue is as old as it
    /// was then.
    pub(crate) fn quiet_since(&self, moment: &Moment) -> bool {
        moment.under_way == 0 && self.moment() == *moment
    }

    fn began(&mut self, looks: usize) {
        self.looks += looks as u64;
        self.under_way += looks;
    }

    fn ended(&mut self) {
        self.looks += 1;
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Looks to take now. Each must be answered by [`Wake::looked`] or [`Wake::failed`].
    pub(crate) fn looks(&mut self, now: Instant) -> Vec<Look<G>> {
        if self.due.is_some_and(|d| d <= now) {
            self.due = None;
            self.generation += 1;
        }
        let (generation, max_items) = (self.generation, self.max_items);
        let mut looks = Vec::new();
        for (group, entry) in &mut self.groups {
            let paused = entry.not_before.is_some_and(|t| t > now);
            let needless = entry.pressing.is_empty() && (paused || entry.dry_at == Some(generation));
            if entry.waiting.is_empty() || entry.looking || needless {
                continue;
            }
            looks.push(Look {
                group: group.clone(),
                waiters: entry.begin(max_items),
                returning: 0,
                direct: false,
                aside: false,
                generation,
            });
        }
        self.began(looks.len());
        looks
    }

    /// A look that goes along with a call which puts items into the queue, for the group with the most waiters: dry or
    /// not, it will find something. With `only_direct`, one into a dry queue or none. To be answered like the others,
    /// after [`Wake::signal_along`].
    pub(crate) fn look_along(&mut self, now: Instant, only_direct: bool) -> Option<Look<G>> {
        let (generation, max_items) = (self.generation, self.max_items);
        let ready = |g: &Group| !g.looking && !g.waiting.is_empty() && g.not_before.is_none_or(|t| t <= now);
        let (group, entry) = self
            .groups
            .iter_mut()
            .filter(|(_, g)| ready(g))
            .max_by_key(|(_, g)| g.waiting.len())?;
        let direct = entry.dry_at == Some(generation) && entry.pressing.is_empty();
        if only_direct && !direct {
            return None;
        }
        let look = Look {
            group: group.clone(),
            waiters: entry.begin(max_items),
            returning: 0,
            direct,
            aside: false,
            generation,
        };
        self.began(1);
        Some(look)
    }

    /// A look that goes along with a call after which `returning` slots of `group` come back for more. Others of the
    /// group who wait are served too, unless another look is under way for them: beside it this one is only for those who
    /// come back. To be answered like the others. `None` while the queue pauses or is known to hold nothing, also nothing
    /// `kept` for those who come back.
    pub(crate) fn look_returning(&mut self, now: Instant, group: &G, returning: usize, kept: bool) -> Option<Look<G>> {
        let (generation, max_items) = (self.generation, self.max_items);
        let entry = self.groups.entry(group.clone()).or_insert_with(Group::new);
        let dry = entry.dry_at == Some(generation) && !kept;
        if dry || entry.not_before.is_some_and(|t| t > now) {
            return None;
        }
        let aside = entry.looking || entry.waiting.is_empty();
        let waiters = if aside { Vec::new() } else { entry.begin(max_items) };
        self.began(1);
        Some(Look {
            group: group.clone(),
            returning: returning.min(max_items - waiters.len()),
            waiters,
            direct: false,
            aside,
            generation,
        })
    }

    /// Those of a group who wait, first come first.
    pub(crate) fn waiting_in(&self, group: &G) -> Vec<WaiterId> {
        let waiting = self.groups.get(group).map(|g| g.waiting.iter().copied().collect());
        waiting.unwrap_or_default()
    }

    /// The call that `look` went along with has put its items there. The look has seen these; it has not seen what was
    /// signalled by others since it began.
    pub(crate) fn signal_along(&mut self, look: &mut Look<G>) {
        let others = self.generation != look.generation;
        self.generation += 1;
        if !others {
            look.generation = self.generation;
        }
    }

    /// A look came back. The caller has removed the waiters it served.
    pub(crate) fn looked(&mut self, now: Instant, look: &Look<G>, found: Found) {
        self.ended();
        if let Some(delay) = found.next_due {
            self.due_in(now, delay);
        }
        if let Some(interval) = self.poll_every {
            self.due_in(now, interval);
        }
        let wanted = look.waiters.len() + look.returning;
        if let Some(entry) = self.groups.get_mut(&look.group) {
            entry.looking &= look.aside;
            entry.not_before = None;
            if found.items > 0 {
                entry.setbacks = 0;
            }
            if found.items < wanted {
                if found.busy {
                    entry.not_before = now.checked_add(pause(BUSY_PAUSE, entry.setbacks));
                    entry.setbacks = entry.setbacks.saturating_add(1);
                } else {
                    entry.setbacks = 0;
                    // Dry as of the look's start: a signal since then has moved the generation on.
                    entry.found_dry(look.generation, &look.waiters);
                }
            }
        }
        self.forget_idle();
    }

    /// A look failed; the next one waits a little longer each time.
    pub(crate) fn failed(&mut self, now: Instant, look: &Look<G>) {
        self.ended();
        if let Some(entry) = self.groups.get_mut(&look.group) {
            entry.looking &= look.aside;
            entry.not_before = now.checked_add(pause(FAILURE_PAUSE, entry.setbacks));
            entry.setbacks = entry.setbacks.saturating_add(1);
        }
    }

    /// When [`Wake::looks`] should be asked again although nothing happens; `None` when nobody waits.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        if self.waiting() == 0 {
            return None;
        }
        // A dry group waits for a signal, not for its pause to end.
        let wakes = |g: &&Group| {
            !g.waiting.is_empty() && !g.looking && (!g.pressing.is_empty() || g.dry_at != Some(self.generation))
        };
        let paused = self.groups.values().filter(wakes).filter_map(|g| g.not_before);
        paused.chain(self.due).min()
    }

    /// Groups come and go with their callers' settings; those that nobody uses are not kept for ever.
    fn forget_idle(&mut self) {
        const KEPT: usize = 64;
        if self.groups.len() > KEPT {
            self.groups.retain(|_, g| g.looking || !g.waiting.is_empty());
        }
    }
}

fn pause((shortest, longest): (Duration, Duration), setbacks: u32) -> Duration {
    shortest
        .saturating_mul(1u32.checked_shl(setbacks.min(16)).unwrap_or(u32::MAX))
        .min(longest)
}

#[cfg(test)]
mod tests;
