//! Searches an order of concurrent deeds that one instance, doing one after the other, would have answered the same.
//!
//! Invariant: pure. Every order that keeps to real time is tried, save those that lead to a state seen before.

use std::collections::{BTreeMap, HashSet};

use super::{Deed, Record};

/// A message or an activity: attempts, and the claim that has it.
type Queued = (u32, Option<usize>);

/// One instance, as far as the deeds tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    started: bool,
    events: usize,
    lease: Option<usize>,
    messages: BTreeMap<String, Queued>,
    jobs: BTreeMap<u64, Queued>,
}

/// Whether some order explains the history.
pub(super) fn explain(history: &[Record]) -> bool {
    assert!(history.len() <= 128, "too long to search");
    let mut seen = HashSet::new();
    let mut stack = vec![(0_u128, State::default())];
    while let Some((done, state)) = stack.pop() {
        let open = || (0..history.len()).filter(|n| done & (1 << n) == 0);
        let Some(first_end) = open().map(|n| history[n].ended).min() else {
            return true;
        };
        if !seen.insert((done, state.clone())) {
            continue;
        }
        // Whatever begun after another had ended cannot come before it.
        for next in open().filter(|n| history[*n].begun <= first_end) {
            if let Some(after) = state.after(&history[next].deed) {
                stack.push((done | 1 << next, after));
            }
        }
    }
    false
}

impl State {
    /// The state after a deed; `None` where the deed would have been answered otherwise.
    fn after(&self, deed: &Deed) -> Option<Self> {
        let mut next = self.clone();
        let possible = match deed {
            Deed::Sent { message } => {
                next.messages.insert(message.clone(), (0, None));
                true
            }
            Deed::FetchedTurn {
                claim,
                messages,
                attempts,
                events,
                crowded,
            } => *events == self.events && next.fetch(*claim, messages, *attempts, *crowded),
            Deed::AckedTurn {
                claim,
                events,
                jobs,
                landed,
            } => {
                let holds = self.lease == Some(*claim);
                if holds && *landed {
                    next.started = true;
                    next.lease = None;
                    next.events += events;
                    next.messages.retain(|_, (_, by)| *by != Some(*claim));
                    next.jobs.extend(jobs.iter().map(|id| (*id, (0, None))));
                }
                holds == *landed
            }
            Deed::AbandonedTurn { claim, ignore, landed } => {
                let holds = self.lease == Some(*claim);
                if holds && *landed {
                    next.lease = None;
                    give_back(next.messages.values_mut(), *claim, *ignore);
                }
                holds == *landed
            }
            Deed::FetchedJob { claim, id, attempts } => next.jobs.get_mut(id).is_some_and(|job| {
                let free = job.1.is_none();
                *job = (job.0 + 1, Some(*claim));
                free && job.0 == *attempts
            }),
            Deed::AckedJob { claim, message, landed } => {
                let holds = self.has_job(*claim);
                if holds && *landed {
                    next.jobs.retain(|_, (_, by)| *by != Some(*claim));
                    next.messages.insert(message.clone(), (0, None));
                }
                holds == *landed
            }
            Deed::AbandonedJob { claim, ignore, landed } => {
                let holds = self.has_job(*claim);
                if holds && *landed {
                    give_back(next.jobs.values_mut(), *claim, *ignore);
                }
                holds == *landed
            }
            Deed::Read { events } => self.events == *events,
        };
        possible.then_some(next)
    }

    fn has_job(&self, claim: usize) -> bool {
        self.jobs.values().any(|(_, by)| *by == Some(claim))
    }

    fn fetch(&mut self, claim: usize, messages: &[String], attempts: u32, crowded: bool) -> bool {
        let starts = self.started || messages.iter().any(|m| m.starts_with("start "));
        let all = messages.len() == self.messages.len() || crowded;
        if self.lease.is_some() || !starts || !all || messages.is_empty() {
            return false;
        }
        self.lease = Some(claim);
        let mut most = 0;
        for message in messages {
            let Some(queued) = self.messages.get_mut(message) else {
                return false;
            };
            *queued = (queued.0 + 1, Some(claim));
            most = most.max(queued.0);
        }
        most == attempts
    }
}

fn give_back<'a>(queued: impl Iterator<Item = &'a mut Queued>, claim: usize, ignore: bool) {
    for (attempts, by) in queued.filter(|(_, by)| *by == Some(claim)) {
        *attempts -= u32::from(ignore);
        *by = None;
    }
}

mod tests {
    use std::time::{Duration, Instant};

    use super::{Deed, Record, explain};

    fn record(from: u64, to: u64, deed: Deed) -> Record {
        let start = Instant::now();
        let at = |ms| start + Duration::from_secs(60) + Duration::from_millis(ms);
        Record {
            begun: at(from),
            ended: at(to),
            deed,
        }
    }

    fn sent(from: u64, to: u64, message: &str) -> Record {
        record(
            from,
            to,
            Deed::Sent {
                message: message.to_owned(),
            },
        )
    }

    fn fetched(from: u64, to: u64, claim: usize, messages: &[&str], attempts: u32) -> Record {
        let messages = messages.iter().map(|m| (*m).to_owned()).collect();
        record(
            from,
            to,
            Deed::FetchedTurn {
                claim,
                messages,
                attempts,
                events: 0,
                crowded: false,
            },
        )
    }

    fn acked(from: u64, to: u64, claim: usize, landed: bool) -> Record {
        record(
            from,
            to,
            Deed::AckedTurn {
                claim,
                events: 2,
                jobs: Vec::new(),
                landed,
            },
        )
    }

    #[test]
    fn a_concurrent_message_may_be_seen_or_not() {
        let with = [
            sent(0, 10, "start a"),
            sent(20, 60, "b"),
            fetched(30, 50, 0, &["start a", "b"], 1),
        ];
        let without = [
            sent(0, 10, "start a"),
            sent(20, 60, "b"),
            fetched(30, 50, 0, &["start a"], 1),
        ];
        assert!(explain(&with) && explain(&without));
    }

    #[test]
    fn a_message_that_was_sent_before_must_be_seen() {
        assert!(!explain(&[
            sent(0, 10, "start a"),
            sent(20, 60, "b"),
            fetched(200, 210, 0, &["start a"], 1)
        ]));
    }

    #[test]
    fn a_token_serves_once_and_a_lease_is_held_by_one() {
        let begun = [sent(0, 10, "start a"), fetched(100, 110, 0, &["start a"], 1)];
        let with = |more: &[Record]| begun.iter().chain(more).cloned().collect::<Vec<_>>();
        assert!(explain(&with(&[acked(200, 300, 0, true), acked(200, 300, 0, false)])));
        assert!(!explain(&with(&[acked(200, 300, 0, true), acked(200, 300, 0, true)])));
        assert!(!explain(&with(&[fetched(200, 300, 1, &["start a"], 2)])));
    }
}
