//! Lock tokens: which row a claim holds, and the claim's number, which fences it.
//!
//! Invariant: a token names one claim. The high half of a claim's number is random and names the process, the low half
//! counts from a random start; row keys are never used again. So no later claim of the same row answers to an old token,
//! and what was claimed by one process can be told from the rest.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A number for a claim that no other one has, in this process or another.
pub(crate) fn new_claim() -> i64 {
    static PROCESS: LazyLock<(i64, AtomicU32)> = LazyLock::new(|| {
        let random = uuid::Uuid::new_v4().as_u128();
        let process = i64::from((random >> 96) as u32 >> 1).max(1);
        (process << 32, AtomicU32::new(random as u32))
    });
    PROCESS.0 | i64::from(PROCESS.1.fetch_add(1, Ordering::Relaxed))
}

/// Which process a claim belongs to.
#[cfg(feature = "embedded")]
pub(crate) fn claimer(claim: i64) -> i64 {
    claim >> 32
}

/// The claim of an instance for one turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TurnToken {
    pub(crate) instance_key: i64,
    pub(crate) claim: i64,
    /// Highest message of the claim.
    pub(crate) upto: i64,
    /// Length of the lease at the claim: how long a retry of its ack can make sense.
    pub(crate) lease: Duration,
}

/// The claim of an activity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkToken {
    pub(crate) instance_key: i64,
    pub(crate) work_id: i64,
    pub(crate) claim: i64,
    pub(crate) lease: Duration,
}

/// The text is not a token of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Invalid lock token")]
pub(crate) struct InvalidToken;

impl fmt::Display for TurnToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "t{}.{}.{}.{}",
            self.instance_key,
            self.claim,
            self.upto,
            self.lease.as_millis()
        )
    }
}

impl fmt::Display for WorkToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "w{}.{}.{}.{}",
            self.instance_key,
            self.work_id,
            self.claim,
            self.lease.as_millis()
        )
    }
}

impl FromStr for TurnToken {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let [instance_key, claim, upto, lease_ms] = numbers(text, "t")?;
        Ok(Self {
            instance_key,
            claim,
            upto,
            lease: Duration::from_millis(lease_ms.unsigned_abs()),
        })
    }
}

impl FromStr for WorkToken {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let [instance_key, work_id, claim, lease_ms] = numbers(text, "w")?;
        Ok(Self {
            instance_key,
            work_id,
            claim,
            lease: Duration::from_millis(lease_ms.unsigned_abs()),
        })
    }
}

fn numbers(text: &str, kind: &str) -> Result<[i64; 4], InvalidToken> {
    let mut parts = text.strip_prefix(kind).ok_or(InvalidToken)?.split('.');
    let mut numbers = [0i64; 4];
    for n in &mut numbers {
        *n = parts
            .next()
            .and_then(|p| p.parse().ok())
            .filter(|n| *n >= 0)
            .ok_or(InvalidToken)?;
    }
    if parts.next().is_some() {
        return Err(InvalidToken);
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn claims_of_a_process_differ_and_name_it() {
        let (a, b) = (new_claim(), new_claim());
        assert!(a > 0 && b > 0 && a != b);
        assert_eq!(a >> 32, b >> 32);
    }

    proptest! {
        #[test]
        fn tokens_round_trip(a in 0i64.., b in 0i64.., c in 0i64.., d in 0u64..(1 << 40)) {
            let lease = Duration::from_millis(d);
            let turn = TurnToken { instance_key: a, claim: b, upto: c, lease };
            prop_assert_eq!(turn.to_string().parse(), Ok(turn));
            prop_assert_eq!(turn.to_string().parse::<WorkToken>(), Err(InvalidToken));
            let work = WorkToken { instance_key: a, work_id: b, claim: c, lease };
            prop_assert_eq!(work.to_string().parse(), Ok(work));
        }

        #[test]
        fn nonsense_is_refused(text in any::<String>()) {
            prop_assert!(text.parse::<TurnToken>().is_err() || text.starts_with('t'));
        }
    }
}
