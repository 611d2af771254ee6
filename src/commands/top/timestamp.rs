//! Formats times for people, in UTC, because the gateway may be in another time zone.

use time::UtcDateTime;

/// Returns the time of day of `at_ms`, preceded by the date if `now_ms` is on another day.
pub(super) fn when(at_ms: u64, now_ms: u64) -> String {
    // A broken gateway could send a year that no calendar has.
    let Some(at) = moment(at_ms) else { return format!("{at_ms} ms") };
    let (hour, minute, second) = at.as_hms();
    let time = format!("{hour:02}:{minute:02}:{second:02}Z");
    if moment(now_ms).is_some_and(|now| now.date() == at.date()) {
        return time;
    }
    let (year, month, day) = at.to_calendar_date();
    format!("{year}-{:02}-{day:02} {time}", u8::from(month))
}

/// Returns the time `ms` milliseconds after 1970 began; `None` after the year 9999.
fn moment(ms: u64) -> Option<UtcDateTime> {
    UtcDateTime::from_unix_timestamp(i64::try_from(ms / 1000).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;

    #[test]
    fn another_day_is_named() {
        let at = 951_782_400_000 + 3_723_000;
        assert_eq!(when(at, at + 5000), "01:02:03Z");
        assert_eq!(when(at, at + DAY_MS), "2000-02-29 01:02:03Z");
        // A gateway whose clock is ahead.
        assert_eq!(when(at, at - DAY_MS), "2000-02-29 01:02:03Z");
        // A day ends with its last second.
        assert_eq!(when(DAY_MS - 1, DAY_MS), "1970-01-01 23:59:59Z");
    }

    #[test]
    fn what_no_calendar_has_is_shown_as_it_came() {
        assert_eq!(when(u64::MAX, 0), "18446744073709551615 ms");
        assert_eq!(when(0, u64::MAX), "1970-01-01 00:00:00Z");
    }
}
