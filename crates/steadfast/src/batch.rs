//! Concurrent calls of one kind become one: what waits while a batch is under way goes into the next.
//!
//! Invariants: nothing here does I/O or looks at a clock; no call waits while fewer than `max_in_flight` batches
//! of `beside_calls` in all are under way; calls are sent in the order in which they came; a batch never exceeds its limits, except that a
//! single call which alone exceeds `max_bytes` goes by itself.

use std::collections::VecDeque;

/// Bounds of one lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Calls in one batch.
    pub(crate) max_calls: usize,
    /// Payload bytes in one batch.
    pub(crate) max_bytes: usize,
    /// Batches under way at once.
    pub(crate) max_in_flight: usize,
    /// Another batch starts beside others only while those hold no more calls than this: small ones are best sent at
    /// once, beside large ones it is better to gather.
    pub(crate) beside_calls: usize,
}

/// The calls of one kind that wait to be sent.
#[derive(Debug)]
pub(crate) struct Lane<T> {
    limits: Limits,
    waiting: VecDeque<(T, usize)>,
    in_flight: usize,
    calls_in_flight: usize,
}

impl<T> Lane<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        debug_assert!(limits.max_calls > 0 && limits.max_in_flight > 0);
        Self {
            limits,
            waiting: VecDeque::new(),
            in_flight: 0,
            calls_in_flight: 0,
        }
    }

    /// Adds a call that carries `bytes` of payload.
    pub(crate) fn push(&mut self, call: T, bytes: usize) {
        self.waiting.push_back((call, bytes));
    }

    /// Reserves a batch: true when something waits and another batch may be under way. Whoever
    /// reserved takes the batch when it is about to be sent ([`Lane::take_batch`]), so that what comes until then
    /// goes along, and reports [`Lane::finished`].
    pub(crate) fn reserve(&mut self) -> bool {
        let crowded = self.in_flight > 0 && self.calls_in_flight > self.limits.beside_calls;
        let yes = self.in_flight < self.limits.max_in_flight && !crowded && !self.waiting.is_empty();
        self.in_flight += usize::from(yes);
        yes
    }

    /// The calls of a reserved batch; none when all of them have gone meanwhile. `wanted` says whether somebody still
    /// waits for the call; calls that nobody wants any more are dropped unsent.
    pub(crate) fn take_batch(&mut self, wanted: impl Fn(&T) -> bool) -> Vec<T> {
        let mut batch = Vec::new();
        let mut bytes = 0usize;
        while let Some((call, size)) = self.waiting.front() {
            if !wanted(call) {
                self.waiting.pop_front();
                continue;
            }
            let full = batch.len() >= self.limits.max_calls || bytes.saturating_add(*size) > self.limits.max_bytes;
            if full && !batch.is_empty() {
                break;
            }
            bytes = bytes.saturating_add(*size);
            if let Some((call, _)) = self.waiting.pop_front() {
                batch.push(call);
            }
        }
        self.calls_in_flight += batch.len();
        batch
    }

    /// A batch of so many calls has been answered, or has failed.
    pub(crate) fn finished(&mut self, calls: usize) {
        debug_assert!(self.in_flight > 0 && self.calls_in_flight >= calls);
        self.in_flight = self.in_flight.saturating_sub(1);
        self.calls_in_flight = self.calls_in_flight.saturating_sub(calls);
    }

    /// Whether nothing waits and nothing is under way.
    #[cfg(test)]
    fn is_idle(&self) -> bool {
        self.in_flight == 0 && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lane(max_calls: usize, max_bytes: usize, max_in_flight: usize) -> Lane<u32> {
        Lane::new(Limits {
            max_calls,
            max_bytes,
            max_in_flight,
            beside_calls: usize::MAX,
        })
    }

    /// Reserves a batch and takes it at once.
    fn next_batch(lane: &mut Lane<u32>, wanted: impl Fn(&u32) -> bool) -> Option<Vec<u32>> {
        if !lane.reserve() {
            return None;
        }
        let batch = lane.take_batch(wanted);
        if batch.is_empty() {
            lane.finished(0);
            return None;
        }
        Some(batch)
    }

    #[test]
    fn a_lone_call_goes_at_once_and_the_rest_become_one_batch() {
        let mut lane = lane(10, 1000, 1);
        lane.push(1, 1);
        assert_eq!(next_batch(&mut lane, |_| true), Some(vec![1]));
        lane.push(2, 1);
        lane.push(3, 1);
        assert_eq!(next_batch(&mut lane, |_| true), None);
        lane.finished(1);
        assert_eq!(next_batch(&mut lane, |_| true), Some(vec![2, 3]));
    }

    #[test]
    fn a_batch_starts_beside_small_ones_only() {
        let mut lane = Lane::new(Limits {
            max_calls: 10,
            max_bytes: 1000,
            max_in_flight: 2,
            beside_calls: 1,
        });
        lane.push(1, 1);
        assert_eq!(next_batch(&mut lane, |_| true), Some(vec![1]));
        lane.push(2, 1);
        lane.push(3, 1);
        assert_eq!(next_batch(&mut lane, |_| true), Some(vec![2, 3]));
        lane.finished(1);
        lane.push(4, 1);
        assert_eq!(next_batch(&mut lane, |_| true), None, "two calls are under way");
        lane.finished(2);
        assert_eq!(next_batch(&mut lane, |_| true), Some(vec![4]));
    }

    #[test]
    fn a_giant_goes_alone() {
        let mut lane = lane(10, 100, 9);
        lane.push(1, 5);
        lane.push(2, 5000);
        lane.push(3, 5);
        assert_eq!(next_batch(&mut lane, |_| true), Some(vec![1]));
        assert_eq!(next_batch(&mut lane, |_| true), Some(vec![2]));
        assert_eq!(next_batch(&mut lane, |_| true), Some(vec![3]));
    }

    #[test]
    fn a_cancelled_call_is_never_sent() {
        let mut lane = lane(10, 100, 1);
        lane.push(1, 1);
        lane.push(2, 1);
        assert_eq!(next_batch(&mut lane, |c| *c != 1), Some(vec![2]));
        lane.finished(1);
        lane.push(1, 1);
        assert_eq!(next_batch(&mut lane, |c| *c != 1), None);
        assert!(lane.is_idle());
    }

    proptest! {
        #[test]
        fn everything_is_sent_once_in_order_within_limits(
            sizes in prop::collection::vec(0usize..300, 0..200),
            max_calls in 1usize..20, max_bytes in 1usize..400, max_in_flight in 1usize..4,
            script in prop::collection::vec(0u8..3, 0..600),
        ) {
            let mut lane = lane(max_calls, max_bytes, max_in_flight);
            let mut pushed = 0usize;
            let mut sent: Vec<u32> = Vec::new();
            let mut under_way: Vec<usize> = Vec::new();
            let mut take = |lane: &mut Lane<u32>, under_way: &mut Vec<usize>| {
                if let Some(batch) = next_batch(lane, |_| true) {
                    under_way.push(batch.len());
                    assert!(under_way.len() <= max_in_flight);
                    assert!(batch.len() <= max_calls);
                    let bytes: usize = batch.iter().map(|c| sizes[*c as usize]).sum();
                    assert!(bytes <= max_bytes || batch.len() == 1);
                    sent.extend(batch);
                    true
                } else { false }
            };
            for step in script {
                match step {
                    0 if pushed < sizes.len() => { lane.push(pushed as u32, sizes[pushed]); pushed += 1; }
                    1 => { take(&mut lane, &mut under_way); }
                    2 => if let Some(calls) = under_way.pop() { lane.finished(calls); }
                    _ => {}
                }
            }
            while pushed < sizes.len() { lane.push(pushed as u32, sizes[pushed]); pushed += 1; }
            loop {
                while take(&mut lane, &mut under_way) {}
                let Some(calls) = under_way.pop() else { break };
                lane.finished(calls);
            }
            prop_assert!(lane.is_idle());
            prop_assert_eq!(sent, (0..sizes.len() as u32).collect::<Vec<_>>());
        }
    }
}
