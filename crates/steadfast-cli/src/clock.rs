//! Times as people write and read them: RFC 3339 in UTC, ages, durations.
//!
//! Invariant: every number of milliseconds can be shown, also those that no calendar holds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The end of the year 9999: what is later means "never".
const LAST_MS: u64 = 253_402_300_799_000;

/// Milliseconds since 1970 by this machine's clock.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `2026-01-31T12:00:00Z`.
pub(crate) fn stamp(ms: u64) -> String {
    if ms > LAST_MS {
        return "never".to_owned();
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// `2026-01-31T12:00:00.123Z`.
pub(crate) fn exact_stamp(ms: u64) -> String {
    if ms > LAST_MS {
        return "never".to_owned();
    }
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// `2026-01-31T12:00:00Z (3 min ago)`.
pub(crate) fn stamp_and_age(ms: u64, now_ms: u64) -> String {
    if ms > LAST_MS {
        return "never".to_owned();
    }
    format!("{} ({})", stamp(ms), age(ms, now_ms))
}

/// `3 min ago`, `in 2 h`.
pub(crate) fn age(ms: u64, now_ms: u64) -> String {
    if ms > now_ms {
        format!("in {}", span(ms - now_ms))
    } else {
        format!("{} ago", span(now_ms - ms))
    }
}

/// A length of time in its largest fitting unit: `850 ms`, `12 s`, `3 min`, `5 h`, `12 d`.
pub(crate) fn span(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    UNITS.iter().find(|(length, _)| ms >= *length).map_or_else(
        || format!("{ms} ms"),
        |(length, unit)| format!("{} {unit}", ms / length),
    )
}

/// A point of time in the past: an age such as `7d` or `2h 30m`, or a timestamp such as `2026-01-31T12:00:00Z` (a date
/// alone will do). In milliseconds since 1970.
pub(crate) fn parse_before(text: &str, now_ms: u64) -> Result<u64, String> {
    let text = text.trim();
    if let Ok(age) = humantime::parse_duration(text) {
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        return now_ms
            .checked_sub(age_ms)
            .ok_or_else(|| format!("{text:?} is longer ago than the clock counts"));
    }
    let full = if text.len() == "2026-01-31".len() {
        format!("{text}T00:00:00Z")
    } else {
        text.to_owned()
    };
    let time = humantime::parse_rfc3339_weak(&full)
        .map_err(|_| format!("{text:?} is neither an age (7d, 2h 30m) nor a time (2026-01-31T12:00:00Z)"))?;
    let since = time
        .duration_since(UNIX_EPOCH)
        .map_err(|_| format!("{text:?} is before 1970"))?;
    u64::try_from(since.as_millis()).map_err(|_| format!("{text:?} is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        assert_eq!(age(1_000, 1_850), "850 ms ago");
        assert_eq!(age(0, 200_000), "3 min ago");
        assert_eq!(age(7_200_000, 0), "in 2 h");
        assert_eq!(span(86_400_000 * 12), "12 d");
    }

    #[test]
    fn every_time_can_be_shown() {
        assert_eq!(stamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(exact_stamp(1), "1970-01-01T00:00:00.001Z");
        assert_eq!(stamp(u64::MAX), "never");
        assert_eq!(stamp_and_age(u64::MAX, 0), "never");
        assert_eq!(stamp(LAST_MS), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn ages_and_times_are_understood() {
        let now = 1_000_000_000_000;
        assert_eq!(parse_before("1h", now), Ok(now - 3_600_000));
        assert_eq!(parse_before("0s", now), Ok(now));
        assert_eq!(parse_before("1970-01-02", now), Ok(86_400_000));
        assert_eq!(parse_before("1970-01-01T00:00:01Z", now), Ok(1_000));
        assert!(parse_before("soon", now).is_err());
        assert!(parse_before("100000years", now).is_err());
    }
}
