//! The store's clock: uptime plus an offset that the file keeps.
//!
//! Invariants: within one boot of the machine the store's time runs exactly as fast as the uptime, whatever happens to the
//! wall clock, and every process that has the file open reads the same time; across boots it never goes back, and goes
//! on by what the wall clock says has passed.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::fault::Faults;

/// The machine's clocks at one moment, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Time since the machine was booted, sleep included.
    pub(crate) uptime_ms: i64,
    /// Time since the epoch by the wall clock.
    pub(crate) wall_ms: i64,
}

impl Reading {
    /// Reads both clocks.
    pub(crate) fn take(faults: &Faults) -> Self {
        Self {
            uptime_ms: uptime_ms(),
            wall_ms: faults.skewed_ms(wall_ms()),
        }
    }
}

/// What the file knows of the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) boot_id: String,
    pub(crate) offset_ms: i64,
    pub(crate) store_ms: i64,
    pub(crate) uptime_ms: i64,
    pub(crate) wall_ms: i64,
}

impl Kept {
    /// The clock of a new file: it starts at the wall clock's time, so that its numbers mean something to people.
    pub(crate) fn begin(boot_id: &str, now: Reading) -> Self {
        Self {
            boot_id: boot_id.to_owned(),
            offset_ms: now.wall_ms.saturating_sub(now.uptime_ms),
            store_ms: now.wall_ms,
            uptime_ms: now.uptime_ms,
            wall_ms: now.wall_ms,
        }
    }

    /// The store's time at this reading.
    pub(crate) fn at(&self, now: Reading) -> i64 {
        self.offset_ms.saturating_add(now.uptime_ms)
    }

    /// The same with what the clocks say now written down.
    pub(crate) fn noted(&self, now: Reading) -> Self {
        Self {
            store_ms: self.at(now),
            uptime_ms: now.uptime_ms,
            wall_ms: now.wall_ms,
            ..self.clone()
        }
    }

    /// What is worth writing down again: enough time has passed, or the wall clock has been set.
    pub(crate) fn is_stale(&self, now: Reading) -> bool {
        const EVERY_MS: i64 = 10_000;
        const STEP_MS: i64 = 1_000;
        let elapsed = now.uptime_ms.saturating_sub(self.uptime_ms);
        let wall = now.wall_ms.saturating_sub(self.wall_ms);
        elapsed >= EVERY_MS || (wall - elapsed).abs() >= STEP_MS
    }

    /// The clock to go on with, and whether it is another boot's: then leases are to be bounded anew.
    pub(crate) fn go_on(&self, boot_id: &str, now: Reading) -> (Self, bool) {
        // The uptime tells only where the system does not: within one boot, a reading may be older than the last note.
        let same_boot = self.boot_id == boot_id && (!boot_id.is_empty() || now.uptime_ms >= self.uptime_ms);
        if same_boot {
            return (self.clone(), false);
        }
        let passed = now.wall_ms.saturating_sub(self.wall_ms).max(0);
        let store_ms = self.store_ms.saturating_add(passed);
        let next = Self {
            boot_id: boot_id.to_owned(),
            offset_ms: store_ms.saturating_sub(now.uptime_ms),
            store_ms,
            uptime_ms: now.uptime_ms,
            wall_ms: now.wall_ms,
        };
        (next, true)
    }
}

/// Milliseconds since the epoch by the wall clock.
pub(crate) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn uptime_ms() -> i64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    // On macOS this one counts sleep too.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec.saturating_mul(1000) + time.tv_nsec / 1_000_000
}

/// Names this boot of the machine. Where the system does not tell, a boot is recognised only by an uptime that went back.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(uptime_ms: i64, wall_ms: i64) -> Reading {
        Reading { uptime_ms, wall_ms }
    }

    #[test]
    fn a_step_of_the_wall_clock_moves_nothing() {
        let kept = Kept::begin("a", at(1_000, 500_000));
        for wall in [500_010, 500_010 - 3_600_000, 500_010 + 3_600_000] {
            assert_eq!(kept.at(at(1_010, wall)), 500_010);
            assert_eq!(kept.go_on("a", at(1_010, wall)), (kept.clone(), false));
        }
    }

    #[test]
    fn a_new_boot_goes_on_by_the_time_that_has_passed() {
        let kept = Kept::begin("a", at(1_000, 500_000)).noted(at(2_000, 501_000));
        let (next, booted) = kept.go_on("b", at(50, 561_000));
        assert!(booted);
        assert_eq!(next.at(at(50, 561_000)), kept.at(at(2_000, 501_000)) + 60_000);
    }

    #[test]
    fn a_boot_with_a_dead_wall_clock_does_not_go_back() {
        let kept = Kept::begin("a", at(1_000, 500_000));
        let (next, booted) = kept.go_on("b", at(7, 0));
        assert!(booted);
        assert_eq!(next.at(at(7, 0)), 500_000);
    }

    #[test]
    fn without_a_boot_id_a_boot_shows_in_the_uptime() {
        let kept = Kept::begin("", at(1_000, 500_000));
        assert!(!kept.go_on("", at(1_001, 0)).1);
        assert!(kept.go_on("", at(999, 500_001)).1);
    }

    #[test]
    fn a_reading_from_before_the_last_note_is_no_boot() {
        // Taken while another process, whose wall clock is four minutes slow, was about to write down its own.
        let kept = Kept::begin("a", at(1_000, 500_000)).noted(at(2_000, 261_000));
        let (next, booted) = kept.go_on("a", at(1_999, 500_999));
        assert!(!booted);
        assert_eq!(next.at(at(3_000, 502_000)), 502_000);
    }

    #[test]
    fn a_step_is_worth_writing_down() {
        let kept = Kept::begin("a", at(1_000, 500_000));
        assert!(!kept.is_stale(at(1_500, 500_500)));
        assert!(kept.is_stale(at(1_500, 500_500 + 3_600_000)));
        assert!(kept.is_stale(at(12_000, 511_000)));
    }

    proptest! {
        #[test]
        fn time_never_goes_back(steps in prop::collection::vec((0i64..100_000, -10_000_000i64..10_000_000, any::<bool>()), 1..50)) {
            let (mut uptime, mut wall, mut boot) = (1_000i64, 1_700_000_000_000i64, 0u32);
            let mut kept = Kept::begin("0", at(uptime, wall));
            let mut last = kept.at(at(uptime, wall));
            for (elapsed, step, reboot) in steps {
                uptime += elapsed;
                wall += elapsed + step;
                if reboot {
                    // What was not written down before the boot is lost with it.
                    last = kept.store_ms;
                    boot += 1;
                    uptime = elapsed;
                }
                kept = kept.go_on(&boot.to_string(), at(uptime, wall)).0;
                let now = kept.at(at(uptime, wall));
                prop_assert!(now >= last);
                last = now;
                if step % 2 == 0 { kept = kept.noted(at(uptime, wall)); }
            }
        }
    }
}
