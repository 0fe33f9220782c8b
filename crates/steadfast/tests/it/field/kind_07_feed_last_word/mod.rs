//! Kind 7: The feed's last event becomes visible when nothing else is written.
//!
//! Somebody waits for the feed, a load ends (its processes stay, close, or are killed), and nobody does anything any more:
//! every acknowledged event must become visible, to who may write and to who may only read. Whoever assigns positions is
//! slow (commits take 30 ms), robbed of its lock, or kept waiting. The short form gives an event some seconds, on a busy
//! machine, but less than the safety interval after which it would be found in any case; the long one
//! (`STEADFAST_FIELD_FORM=long`) asks for one second, in fifty rounds.

pub(crate) mod child;
mod held;
pub(crate) mod reader;
mod slow_disk;

use std::time::Duration;

use super::form::is_long;

/// How long an event may take after the last write. The safety interval is 15 s.
fn patience() -> Duration {
    Duration::from_secs(if is_long() { 1 } else { 8 })
}
